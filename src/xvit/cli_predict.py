"""`xvit predict`, `xvit features` and `xvit timeline`: what happens in these videos."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xvit.errors import ConfigError, VideoReadError

if TYPE_CHECKING:
    from xvit.predict import Predictor
    from xvit.predict.shares import Share

Model = Annotated[
    str, typer.Argument(help="a run folder, a weight or exported file, a published name, owner/name")
]
Videos = Annotated[list[str], typer.Argument(help="video files, folders of them, patterns")]
Views = Annotated[str, typer.Option(help="crops×clips scored per video, such as 3x2")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …; auto takes a GPU where there is one")]
Precision = Annotated[str, typer.Option(help="fp32, bf16 or fp16")]
Overlay = Annotated[
    Path | None, typer.Option(help="mp4 to write: the video with its classes on it, sound kept")
]
Shard = Annotated[
    str | None, typer.Option(help="i/n: only the i-th of n shares; default: by torchrun's rank")
]


def predict(
    model: Model,
    videos: Videos,
    top_k: Annotated[int, typer.Option(help="classes to show", min=1)] = 5,
    views: Views = "1x1",
    format: Annotated[str, typer.Option(help="table, json, jsonl or csv")] = "table",
    output: Annotated[Path | None, typer.Option(help="file to write; jsonl goes on where it ended")] = None,
    overlay: Overlay = None,
    shard: Shard = None,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> None:
    """What happens in videos: their best classes and scores.

    Unreadable files are listed at the end, with exit code 1.
    """
    from xvit.engine.runlog import ProgressLine
    from xvit.predict.corpus import find_videos, finished, open_writer
    from xvit.predict.shares import Share

    share = Share.find(shard)
    paths = share.of(find_videos(videos))
    if overlay is not None and len(paths) != 1:
        raise ConfigError(f"--overlay {overlay}: takes one video, and these are {len(paths)}")
    output = share.file(output) if output is not None else None
    about = {"model": model, "views": views, "top_k": top_k}
    done = finished(output, about) if output is not None and format == "jsonl" else set()
    rest = [path for path in paths if path not in done]
    predictor = load_predictor(model, device, precision)
    alone = share.count == len(videos) == 1 and paths == videos
    quiet = len(paths) == 1 or not share.speaks
    failures: list[VideoReadError] = []
    with (
        open_writer(format, output, about) as writer,
        ProgressLine("predict", len(paths), done=len(done & set(paths)), quiet=quiet) as bar,
    ):
        for path, scores in predictor.stream(rest, views=views):
            if isinstance(scores, VideoReadError):
                if alone:
                    raise scores
                failures.append(scores)
            else:
                entries = predictor.entries(scores, top_k)
                writer.write(path, entries)
                if overlay is not None:
                    lines = tuple((str(entry["label"]), float(entry["score"])) for entry in entries)
                    _write_overlay(path, overlay, [(0, math.inf, lines)])
            bar.advance()
    _conclude(share, failures, len(paths))


def features(
    model: Model,
    videos: Videos,
    output: Annotated[Path, typer.Option("--output", "-o", help="h5 file to write")],
    views: Views = "1x1",
    shard: Shard = None,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> None:
    """One feature a video, as the classifier sees it: `features` (N, D) and `videos` (N,) in an h5 file.

    Given again after a kill, the same command goes on with what is missing.
    """
    from xvit.engine.runlog import ProgressLine
    from xvit.predict.corpus import find_videos
    from xvit.predict.features import FeatureFile
    from xvit.predict.shares import Share

    share = Share.find(shard)
    paths = share.of(find_videos(videos))
    target = share.file(output)
    predictor = load_predictor(model, device, precision)
    failures: list[VideoReadError] = []
    width, quiet = predictor.model.head_hidden_size, len(paths) == 1 or not share.speaks
    with (
        FeatureFile(target, width, model=model, views=views) as file,
        ProgressLine("features", len(paths), done=len(file.finished & set(paths)), quiet=quiet) as bar,
    ):
        rest = [path for path in paths if path not in file.finished]
        for path, found in predictor.stream(rest, views=views, features=True):
            if isinstance(found, VideoReadError):
                failures.append(found)
            else:
                file.add(path, found.numpy())
            bar.advance()
    typer.echo(f"saved {target}: {len(file.finished)} videos, {width} numbers each", err=True)
    _conclude(share, failures, len(paths))


def timeline(
    model: Model,
    film: Annotated[str, typer.Argument(help="a video file of any length")],
    window: Annotated[
        float | None, typer.Option(help="seconds a window spans; default: the model's clip")
    ] = None,
    hop: Annotated[
        int | None, typer.Option(help="frames between windows; default: a group or half a window", min=1)
    ] = None,
    smooth: Annotated[int, typer.Option(help="windows averaged before segments are cut", min=1)] = 3,
    min_score: Annotated[float, typer.Option(help="leave out segments below")] = 0.0,
    format: Annotated[str, typer.Option(help="table, csv, json, srt or vtt")] = "table",
    output: Annotated[Path | None, typer.Option(help="file to write")] = None,
    html: Annotated[Path | None, typer.Option(help="page to write: pictures, curves, click to jump")] = None,
    overlay: Overlay = None,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> None:
    """What happens when in a film: segments with start, end, label and score."""
    from xvit.engine.runlog import ProgressLine
    from xvit.predict.segments import FORMATS
    from xvit.predict.timeline import make_timeline

    if format not in FORMATS:
        raise ConfigError(f"--format must be one of {', '.join(FORMATS)}, got {format!r}")
    predictor = load_predictor(model, device, precision)
    with ProgressLine("timeline", 100) as bar:
        found = make_timeline(
            predictor,
            film,
            window=window,
            hop=hop,
            on_progress=lambda read, total: bar.advance(100 * read // total - bar.done),
        )
    segments = found.segments(smooth, min_score)
    if html is not None:
        from xvit.report import write_timeline

        write_timeline(
            html,
            film,
            seconds=found.seconds,
            centres=found.centres,
            scores=found.smoothed(smooth),
            classes=found.classes,
            segments=segments,
        )
        typer.echo(f"saved {html}", err=True)
    if overlay is not None:
        # An uneven frame rate may take frames beyond the last segment's end.
        ends = [math.inf if s.end >= found.seconds else s.end for s in segments]
        shown = [(s.start, end, ((s.label, s.score),)) for s, end in zip(segments, ends, strict=True)]
        _write_overlay(film, overlay, shown)
    text = FORMATS[format](segments)
    if output is None:
        typer.echo(text, nl=False)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf8")
    typer.echo(f"saved {output}", err=True)


def load_predictor(model: str, device: str, precision: str) -> Predictor:
    """The model of a command line on its device. Raises WeightsError or ConfigError."""
    import torch

    from xvit.exported import is_exported
    from xvit.predict import Predictor

    if device == "auto" and not is_exported(model) and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        return Predictor.load(model, device, precision)
    except (RuntimeError, AssertionError) as err:
        if device in ("auto", "cpu"):
            raise
        raise ConfigError(f"--device {device}: {str(err).splitlines()[0]}") from err


def _write_overlay(
    video: str, overlay: Path, captions: Sequence[tuple[float, float, tuple[tuple[str, float], ...]]]
) -> None:
    """captions: (start, end, lines of label and score), in seconds."""
    from xvit.visualize.overlay import Caption, write_overlay

    write_overlay(video, overlay, [Caption(*caption) for caption in captions])
    typer.echo(f"saved {overlay}", err=True)


def _conclude(share: Share, failures: list[VideoReadError], total: int) -> None:
    """One line for each video that could not be read, then exit code 1, in every process that shares them."""
    parts = share.gather((failures, total))
    unread = [failure for found, _ in parts for failure in found]
    if unread and share.speaks:
        for failure in unread:
            print(f"not read: {' '.join(str(failure).split())}", file=sys.stderr)
        print(f"{len(unread)} of {sum(n for _, n in parts)} videos could not be read", file=sys.stderr)
        sys.stderr.flush()
    share.part()
    if unread:
        raise typer.Exit(1)
