"""`xvit stream`: what is happening now."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from xvit.cli_predict import Device, Model, Precision, load_predictor
from xvit.errors import VideoReadError


def stream(
    model: Model,
    source: Annotated[str, typer.Argument(help="cam:0, rtsp://…, http://…, or a file played in real time")],
    window: Annotated[
        float | None, typer.Option(help="seconds the model's frames span; default: as in training")
    ] = None,
    hop: Annotated[
        int | None,
        typer.Option(help="frames between answers; default: 1, for a model that is not causal half a window"),
    ] = None,
    changes: Annotated[bool, typer.Option("--changes", help="only where another class begins")] = False,
    min_score: Annotated[float, typer.Option(help="leave out answers below")] = 0.0,
    format: Annotated[str, typer.Option(help="of what is printed: table, jsonl or csv")] = "table",
    output: Annotated[Path | None, typer.Option(help="also add to this .jsonl or .csv file")] = None,
    seconds: Annotated[float | None, typer.Option(help="end after so many")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="a file as fast as the model goes")] = False,
    retries: Annotated[int, typer.Option(help="attempts in a row to get a lost stream back", min=0)] = 8,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> None:
    """What is happening now: an answer for every frame of a camera, a network stream or a file.

    A model that is too slow drops frames and says how many. Ctrl-C ends it, with exit code 0; 1 tells that
    the stream was lost for good.
    """
    from xvit.engine.signals import StopSignal
    from xvit.predict.events import open_outputs, worth_telling
    from xvit.predict.stream import Watch

    predictor = load_predictor(model, device, precision)
    with (
        StopSignal() as stop,
        open_outputs(format, output) as write,
        Watch(
            predictor,
            source,
            window=window,
            hop=hop,
            fast=fast,
            seconds=seconds,
            retries=retries,
            stop=lambda: stop.requested,
            on_notice=_tell,
        ) as watch,
    ):
        try:
            for event in worth_telling(watch, changes, min_score):
                write(event)
        except BrokenPipeError:  # whoever read the events has gone: `xvit stream … | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except VideoReadError as err:
            if not watch.counts.received:
                raise
            _tell(str(err))
            _tell(watch.summary())
            raise typer.Exit(1) from err
        _tell(watch.summary())


def _tell(line: str) -> None:
    print(" ".join(line.split()), file=sys.stderr, flush=True)
