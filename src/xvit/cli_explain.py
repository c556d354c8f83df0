"""`xvit explain`: why a model says what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xvit.cli_predict import Device, Model, load_predictor
from xvit.errors import ConfigError


def explain(
    model: Model,
    video: Annotated[str, typer.Argument(help="a video file, a folder of frames, file.h5::key")],
    output: Annotated[
        list[Path], typer.Option("--output", "-o", help="file to write: .png, .mp4 or .html; several times")
    ],
    class_name: Annotated[
        str | None, typer.Option("--class", help="explain this class; default: the predicted one")
    ] = None,
    method: Annotated[
        str, typer.Option(help="gradient: what speaks for the class; rollout: where attention comes from")
    ] = "gradient",
    task: Annotated[int, typer.Option(help="of a model with several tasks, from 0", min=0)] = 0,
    device: Device = "auto",
) -> None:
    """Why: where in the video, in space and in time, the decision came from."""
    from xvit.visualize import WRITERS, write
    from xvit.visualize import explain as explain_video

    for path in output:
        if path.suffix.lower() not in WRITERS:
            raise ConfigError(f"--output {path}: an explanation is one of {', '.join(WRITERS)}")
    predictor = load_predictor(model, device, "fp32")
    found = explain_video(predictor, video, method, class_name, task)
    typer.echo(f"{found.label}  {found.score:.3f}  ({found.method})")
    for number, share in enumerate(found.shares, 1):
        typer.echo(
            f"  frame {number:2}  {100 * share:5.1f} %  {'█' * round(20 * share / found.shares.max())}"
        )
    for path in output:
        write(found, path)
        typer.echo(f"saved {path}", err=True)
