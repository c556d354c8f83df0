"""`xvit weights …`: look into weight files, carry them between layouts, prove them whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

weights = typer.Typer(no_args_is_help=True, help="Look into weight files, convert and verify them.")

Path_ = Annotated[Path, typer.Argument(help="a run folder, our weight file, or the authors' .pth")]
Known = Annotated[
    list[str] | None,
    typer.Option(
        "--known", metavar="KEY=VALUE", help="what the file does not tell: group=8, fraction=0.25, …"
    ),
]


@weights.command()
def inspect(path: Path_, known: Known = None, tensors: bool = False) -> None:
    """How a model was built, and with --tensors every tensor."""
    import yaml

    from xvit.models.convert import inspect_weights

    facts = inspect_weights(path, **_parse(known))
    rows = facts.pop("tensors")
    facts["tensors"], facts["num_classes"] = len(rows), list(facts["num_classes"])
    typer.echo(yaml.safe_dump(facts, sort_keys=False).rstrip())
    for name, shape, dtype in rows if tensors else ():
        typer.echo(f"  {name}  {'×'.join(map(str, shape))}  {dtype}")


@weights.command()
def convert(path: Path_, target: Path, known: Known = None) -> None:
    """The authors' .pth to our folder TARGET, or ours to a .pth TARGET, key by key."""
    from xvit.models.convert import convert_weights

    rows = convert_weights(path, target, **_parse(known))
    for row in rows:
        typer.echo(f"{row.source} -> {row.target}  {'×'.join(map(str, row.shape))}  {row.dtype}")
    typer.echo(f"{len(rows)} tensors; saved {target}")


@weights.command()
def verify(path: Path_, known: Known = None) -> None:
    """Load strictly, check the numbers, score a clip, and print the sha256."""
    from xvit.models.convert import verify_weights

    facts = verify_weights(path, **_parse(known))
    for check in facts["checks"]:
        typer.echo(f"ok  {check}")
    typer.echo(f"sha256 {facts['sha256']}  {facts['path']}")


def _parse(known: list[str] | None) -> dict[str, Any]:
    import yaml

    from xvit.errors import ConfigError

    pairs = [item.partition("=") for item in known or ()]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise ConfigError(f"--known is written key=value, got {key + equals + value!r}")
    return {key: yaml.safe_load(value) for key, _, value in pairs}
