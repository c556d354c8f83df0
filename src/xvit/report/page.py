"""What every page is made of: the template, the filmstrips, the confusion matrix's data."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from xvit.engine.scores import Evaluation

SHOWN_SIDE = 112  # pixels; larger frames are scaled down to it
PNG_SIDE = 64  # up to here a lossless PNG is small enough


@dataclass(frozen=True)
class Filmstrip:
    """A video's frames with its best classes.

    frames: (T, C, H, W) uint8 RGB. labels: the true class or classes, none where they are not known. scores:
    (class, share), best first.
    """

    video_id: str
    frames: NDArray[np.uint8]
    labels: tuple[str, ...]
    scores: tuple[tuple[str, float], ...]

    @property
    def right(self) -> bool | None:
        """Whether the best class is a true one; None where that is not known."""
        return self.scores[0][0] in self.labels if self.labels else None

    @property
    def images(self) -> list[str]:
        """One data URI a frame."""
        return [data_uri(frame) for frame in self.frames]


def filmstrip(evaluation: Evaluation, row: int, frames: NDArray[np.uint8], task: int = 0) -> Filmstrip:
    """The strip of the evaluation's row-th video; `frames` is (T, C, H, W) uint8."""
    names, shares = evaluation.classes[task], evaluation.probabilities()[task][row]
    best = np.argsort(-shares, kind="stable")[:5]
    own = evaluation.labels[row] if evaluation.several_labels else evaluation.labels[row, task : task + 1]
    labels = tuple(names[k] for k in own if k >= 0)
    scores = tuple((names[k], float(shares[k])) for k in best)
    return Filmstrip(evaluation.video_id[row], frames, labels, scores)


def one_per_class(evaluation: Evaluation, task: int = 0) -> list[int]:
    """A row for each class with videos, mistakes first: its surest mistake, or else its surest video."""
    shares = evaluation.probabilities()[task]
    labels = evaluation.labels[:, task]
    wrong = shares.argmax(1) != labels
    sure = shares.max(1)
    rows = [
        max(np.flatnonzero(labels == k), key=lambda row: (wrong[row], sure[row])) for k in np.unique(labels)
    ]
    return sorted(map(int, rows), key=lambda row: (not wrong[row], labels[row]))


def matrix_data(confusion: NDArray[np.integer], names: Sequence[str]) -> Markup:
    """A confusion matrix as JSON for confusion.js, safe inside a <script> element."""
    true, predicted = np.nonzero(confusion)
    cells = np.stack([true, predicted, confusion[true, predicted]], 1).tolist()
    data = {"names": list(names), "cells": cells, "similar": similar_order(confusion)}
    return Markup(json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def similar_order(confusion: NDArray[np.integer]) -> list[int]:
    """Class numbers ordered so that classes taken for each other stand together.

    The order along the second eigenvector of the graph whose edges are the mistakes between two classes.
    """
    mistakes = (confusion + confusion.T).astype(np.float64)
    np.fill_diagonal(mistakes, 0)
    mistakes += 1e-3 * mistakes.max(initial=1e-9)  # joins classes that were never mistaken
    laplacian = np.diag(mistakes.sum(1)) - mistakes
    if len(laplacian) < 3:
        return list(range(len(laplacian)))
    return [int(k) for k in np.argsort(np.linalg.eigh(laplacian)[1][:, 1], kind="stable")]


def render(template: str, path: str | Path, **values: Any) -> None:
    """Write a page of this package's templates."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xvit.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = lambda share: (
        "–" if share is None or np.isnan(share) else f"{100 * share:.1f} %"
    )
    environment.filters["count"] = _short_count
    environment.filters["interval"] = _interval
    environment.filters["range"] = _range
    environment.globals["matrix_data"] = matrix_data
    text = environment.get_template(template).render(values)
    Path(path).write_text(text, encoding="utf8", errors="backslashreplace")  # names of files may be any bytes


def _interval(figure: Mapping[str, float]) -> Markup:
    return Markup("{:.1f} % {}").format(100 * figure["value"], _range(figure))


def _range(figure: Mapping[str, float]) -> Markup:
    return Markup('<span class="range">{:.1f}–{:.1f}</span>').format(
        100 * figure["low"], 100 * figure["high"]
    )


def _short_count(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def data_uri(frame: NDArray[np.uint8], side: int = SHOWN_SIDE) -> str:
    """A frame (C, H, W) uint8 as a picture inside the page, at most `side` pixels wide and high."""
    image = Image.fromarray(np.ascontiguousarray(np.moveaxis(frame, 0, -1)))
    image.thumbnail((side, side))
    kind, options = ("png", {"optimize": True}) if max(image.size) <= PNG_SIDE else ("jpeg", {"quality": 80})
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
