"""A film as a page: thumbnails, score curves of the leading classes, segments; a click jumps there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from xvit.data import open_video
from xvit.report.charts import LEFT, RIGHT, WIDTH, Series, legend, line_chart, smooth
from xvit.report.page import data_uri, render

LEADERS = 5  # classes with a curve
THUMBNAILS = 24
POINTS = 400  # of a curve; a longer one is averaged down


def write_timeline(
    page: Path,
    film: str,
    *,
    seconds: float,
    centres: NDArray[Any],
    scores: NDArray[Any],
    classes: Sequence[str],
    segments: Sequence[Any],
) -> None:
    """Write `page`, which plays `film` from where it lies.

    centres: (W,) seconds; scores: (W, K) smoothed; segments: with start, end, label and score.
    Raises VideoReadError.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    leaders = np.argsort(-scores.max(axis=0), kind="stable")[:LEADERS]
    curves = [
        Series(classes[k], smooth(list(zip(centres.tolist(), scores[:, k].tolist(), strict=True)), POINTS))
        for k in leaders
    ]
    chart = line_chart(
        curves,
        label=f"Scores of {len(leaders)} classes over {seconds:.0f} seconds",
        x_label="seconds",
        y_label="score",
        x_range=(0.0, seconds),
        y_range=(0.0, 1.0),
        percent=True,
    )
    place = os.path.relpath(film, page.parent)
    render(
        "timeline.html",
        page,
        title=f"Timeline of {Path(film).name}",
        source=quote(os.fsencode(place)),
        place=place,
        name=Path(film).name,
        seconds=seconds,
        thumbnails=_thumbnails(film, seconds),
        legend=legend([curve.name for curve in curves]),
        chart=chart,
        axis={"left": LEFT / WIDTH, "right": RIGHT / WIDTH},
        segments=segments,
    )


def _thumbnails(film: str, seconds: float) -> list[tuple[float, str]]:
    """(seconds, data URI) of frames spread over the film, one of them in memory at a time."""
    with open_video(film) as video:
        count = video.info.num_frames
        numbers = np.unique((np.arange(THUMBNAILS) + 0.5) * count // THUMBNAILS).astype(int).tolist()
        return [(seconds * n / count, data_uri(video.read([n])[0].numpy())) for n in numbers]
