"""`xvit info`: what a model costs. `xvit weights …`: look into weight files, convert and verify them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="dotted overrides")]


def info(
    model: Annotated[
        str, typer.Argument(help="a model's name, a configuration, a run folder or a weight file")
    ],
    overrides: Overrides = None,
    num_classes: Annotated[int, typer.Option(help="of a model that has none yet")] = 400,
) -> None:
    """Parameters, multiply-adds and memory of a model beside the schemes it is compared with."""
    from xvit.models.cost import FRAMES, compare_schemes

    config, clip, classes = _model(model, overrides or [], num_classes)
    rows = compare_schemes(config, clip, classes)
    typer.echo(f"{config.name}, {clip.num_frames} frames of {clip.size}×{clip.size}, {sum(classes)} classes")
    typer.echo("multiply-adds per clip, attention included; activations of a training step on one clip, fp32")
    head = [
        "scheme",
        "params",
        *(f"{t} frames" for t in FRAMES),
        "exponent",
        "weights",
        "activations",
        "checkpointed",
    ]
    table = [head] + [
        [
            row.scheme,
            f"{row.parameters / 1e6:.2f} M",
            *(f"{row.macs[t] / 1e9:.2f} G" for t in FRAMES),
            f"T^{row.exponent:.3f}",
            f"{row.weight_mb:.0f} MB",
            f"{row.activation_mb:.0f} MB",
            f"{row.activation_checkpointed_mb:.0f} MB",
        ]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    for line in table:
        typer.echo("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if rows[0].gate_ops:
        typer.echo(f"the learned gate adds {rows[0].gate_ops / 1e6:.1f} M elementwise multiply-adds per clip")


def _model(source: str, overrides: list[str], num_classes: int) -> tuple[Any, Any, tuple[int, ...]]:
    """(ModelConfig, ClipConfig, classes a task) of a run folder, a weight file, a configuration or a name."""
    import json

    from xvit.config import load_config
    from xvit.models.convert import inspect_weights
    from xvit.models.zoo import data_settings

    path, classes = Path(source), (num_classes,)
    if path.is_dir() or path.suffix in (".pth", ".pyth", ".safetensors"):
        facts = inspect_weights(path)
        values, classes = {"model": facts["model"], "data": facts["clip"]}, facts["num_classes"]
        config = load_config(
            None, [f"{key}={json.dumps(value)}" for key, value in values.items()] + overrides
        )
    elif path.exists() or "/" in source:
        config = load_config(source, overrides)
    else:
        settings = [f"data.{key}={json.dumps(value)}" for key, value in data_settings(source).items()]
        config = load_config(None, [f"model.name={source}", *settings, *overrides])
    return config.model, config.data, classes


def models() -> None:
    """The published models and results; none of these numbers was measured here."""
    from xvit.models.published import PUBLISHED, is_cached

    head = ("name", "data", "frames", "views", "top-1", "top-5", "", "source", "weights")
    rows = [head] + [
        (
            row.name,
            row.data,
            str(row.num_frames),
            row.views,
            f"{row.top1:.2f}",
            "–" if row.top5 is None else f"{row.top5:.2f}",
            "published",
            row.source,
            "none" if row.file is None else "here" if is_cached(row.name) else row.file,
        )
        for row in PUBLISHED
    ]
    widths = [max(len(line[i]) for line in rows) for i in range(len(head))]
    for line in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


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


@weights.command()
def pull(name: Annotated[str, typer.Argument(help="as `xvit models` lists it")]) -> None:
    """Fetch the authors' file of a published model and convert it; prints the folder."""
    from xvit.models.published import pull as fetch_published

    typer.echo(fetch_published(name))


def _parse(known: list[str] | None) -> dict[str, Any]:
    import yaml

    from xvit.errors import ConfigError

    pairs = [item.partition("=") for item in known or ()]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise ConfigError(f"--known is written key=value, got {key + equals + value!r}")
    return {key: yaml.safe_load(value) for key, _, value in pairs}
