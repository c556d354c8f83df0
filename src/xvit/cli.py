"""`xvit …`: a command is a function. Heavy imports stay inside them, so that --help is instant."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from xvit import __version__
from xvit.cli_data import app as data
from xvit.cli_eval import compare, evaluate
from xvit.cli_explain import explain
from xvit.cli_export import export
from xvit.cli_models import info, models, weights
from xvit.cli_predict import features, predict, timeline
from xvit.cli_serve import serve
from xvit.cli_stream import stream
from xvit.errors import XViTError, warn_in_one_line

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="XViT: video recognition at the cost of an image transformer.",
)
app.add_typer(weights, name="weights")
app.add_typer(data, name="data")
app.command()(info)
app.command()(models)
app.command("eval")(evaluate)
app.command()(compare)
app.command()(export)
app.command()(predict)
app.command()(features)
app.command()(timeline)
app.command()(stream)
app.command()(explain)
app.command()(serve)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="dotted overrides")]


def _print_version(asked: bool) -> None:
    if asked:
        print(f"xvit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="show it and exit")
    ] = False,
) -> None:
    """XViT: video recognition at the cost of an image transformer."""


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="folder to write")] = Path("xvit-demo"),
    seed: Annotated[int, typer.Option(help="of the videos and the weights")] = 0,
) -> None:
    """Learn motion that a single frame cannot show, in minutes on a CPU; writes report.html."""
    from xvit.demo import run_demo

    run_demo(output, seed=seed)


def _print_keys(word: str | None) -> None:
    if word is not None:
        from xvit.config import Config
        from xvit.config_keys import list_keys, write_keys

        print(write_keys(list_keys(Config(), "" if word == "all" else word)))
        raise typer.Exit


@app.command()
def train(
    config: Annotated[
        str, typer.Argument(help="a YAML file, or one of the package's: demo/small, finetune/small_data, …")
    ],
    overrides: Overrides = None,
    keys: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            callback=_print_keys,
            is_eager=True,
            help="list the keys about WORD, or all",
        ),
    ] = None,
) -> None:
    """Train a model: xvit train CONFIG data.root=FOLDER output=runs/mine.

    Images' weights on your own videos: finetune/small_data for dozens to hundreds of them, on a CPU too;
    finetune/adapters, which leaves the image model as it is; finetune/whole_model for thousands, on GPUs.

    Any key can be set behind CONFIG, such as train.epochs=20, train.lr=1e-4, train.trained_blocks=4,
    train.ema_decay=0.99, train.precision=bf16 or data.num_workers=4. --keys lists them with defaults and
    meanings, docs/training.md explains. train.resume=auto goes on with a run that was stopped.
    """
    from xvit.config import load_config
    from xvit.engine.signals import leaving_at_once

    settings = load_config(config, overrides or ())
    again = ["xvit", "train", config, *(overrides or ())]
    with leaving_at_once(again):
        from xvit.engine.processes import part
        from xvit.engine.train import train as train_model
        from xvit.report.curves import conclude

        train_model(settings, conclude=lambda folder: conclude(folder, again))
    part()


def main() -> None:
    """Entry point: the user's mistakes give one line and exit code 2, `--debug` anywhere a traceback."""
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    warn_in_one_line()
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be any bytes, and come out as such
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        app(arguments, prog_name="xvit")
    except XViTError as err:
        if debug:
            raise
        print(f"xvit: {' '.join(str(err).split())}", file=sys.stderr)
        sys.exit(2)
