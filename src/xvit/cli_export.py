"""`xvit export`: a trained model as a file that runs without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xvit.errors import ConfigError


def export(
    model: Annotated[str, typer.Argument(help="a run folder, a weight file, a published name, owner/name")],
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write: .onnx or .pt2")],
    to: Annotated[str, typer.Option(help="onnx, onnx-int8 or pt2")] = "onnx",
    streaming: Annotated[
        bool, typer.Option("--streaming", help="one step of a causal model: state in, state out")
    ] = False,
    verify: Annotated[bool, typer.Option(help="score clips with the model and with the file")] = True,
    calibrate: Annotated[
        str | None, typer.Option(metavar="DATA", help="compare on these val videos; default: rendered ones")
    ] = None,
) -> None:
    """Write a model for onnxruntime or torch.export, its classes and preprocessing inside; check the file."""
    from xvit.export.files import check_target, export_model, unfinished
    from xvit.export.verify import labelled_clips, verify_export, verify_stream
    from xvit.exported import load_exported, load_stream
    from xvit.predict import Predictor

    if calibrate is not None and (streaming or not verify):
        raise ConfigError("--calibrate compares whole clips; it goes without --streaming and --no-verify")
    check_target(output, to)
    network = Predictor.load(model, "cpu").network
    with unfinished(output) as draft:  # a file that is refused takes nobody's place
        description = export_model(network, draft, to, streaming=streaming)
        size = draft.stat().st_size / 1e6
        if verify:
            if streaming:
                found = verify_stream(network, load_stream(draft, "cpu"))
            else:
                clips = labelled_clips(network, calibrate) if calibrate is not None else None
                found = verify_export(network, load_exported(draft, "cpu"), clips)
            for line in found.lines(description.kind):
                typer.echo(line)
            found.check(output, description.kind)
    use = f"xvit predict {output} VIDEO" if not streaming else "xvit.exported.load_stream"
    typer.echo(f"saved {output}, {size:.1f} MB; next: {use}")
