"""The page of one evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from xvit.config import ClipConfig
from xvit.data import Manifest, VideoDataset
from xvit.engine.scores import Evaluation
from xvit.errors import VideoReadError
from xvit.report.charts import Series, line_chart
from xvit.report.page import Filmstrip, filmstrip, render

if TYPE_CHECKING:
    from xvit.engine.protocol import EvaluatedRun

MOST_STRIPS = 24


def write_report(
    path: str | Path, found: Mapping[str, Any], evaluation: Evaluation, strips: Sequence[Filmstrip] = ()
) -> None:
    """Write the page of an evaluation to `path`.

    `found` is what `results` gives; what else `results.json` holds (model, list, command) is shown where
    present. `strips` are the mistakes to show, in this order.
    """
    tasks = []
    for number, (name, task) in enumerate(found["tasks"].items()):
        names = evaluation.classes[number] if number < len(evaluation.classes) else ()
        tasks.append(
            {
                "name": name,
                "found": task,
                "classes": names,
                "matrix": _matrix(task, len(names)) if "confusion" in task else None,
                "calibration": _calibration(task.get("calibration", ()), name),
            }
        )
    render(
        "evaluation.html",
        path,
        title="XViT evaluation",
        found=found,
        tasks=tasks,
        charts=_view_charts(found),
        strips=strips,
        facts=_facts(found),
    )


def report_run(run: EvaluatedRun) -> Path:
    """Write `report.html` beside a run's results, with its surest mistakes; returns the page."""
    strips = read_strips(run.evaluation, worst_mistakes(run.evaluation), run.manifest, run.clip)
    write_report(run.folder / "report.html", run.found, run.evaluation, strips)
    return run.folder / "report.html"


def worst_mistakes(evaluation: Evaluation, limit: int = MOST_STRIPS) -> list[int]:
    """Rows of the first task's mistakes, the surest first."""
    if not evaluation.labels.shape[1]:
        return []
    shares = evaluation.probabilities()[0]
    leader = shares.argmax(1)
    labels = evaluation.labels if len(evaluation.classes) == 1 else evaluation.labels[:, :1]
    wrong = np.flatnonzero((leader[:, None] != labels).all(1))
    return wrong[np.argsort(-shares[wrong, leader[wrong]], kind="stable")][:limit].tolist()


def read_strips(
    evaluation: Evaluation, rows: Sequence[int], manifest: Manifest, clip: ClipConfig
) -> list[Filmstrip]:
    """The strips of these rows of the evaluation, with the frames as the model sees them, middle crop.

    A video that cannot be read any more is left out.
    """
    place = {record.video_id: row for row, record in enumerate(manifest.records)}
    dataset = VideoDataset(manifest, clip, views=(1, 1))
    strips = []
    for row in rows:
        try:
            frames = dataset[place[evaluation.video_id[row]]].frames[0, 0].numpy()
        except VideoReadError:
            continue
        strips.append(filmstrip(evaluation, row, shown(frames, clip)))
    return strips


def shown(frames: NDArray[np.float32], clip: ClipConfig) -> NDArray[np.uint8]:
    """Normalised (T, C, H, W) frames as the uint8 pictures they were."""
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (clip.mean, clip.std))
    return np.clip((frames * std + mean) * 255 + 0.5, 0, 255).astype(np.uint8)


def _matrix(task: Mapping[str, Any], count: int) -> NDArray[np.int64]:
    matrix = np.zeros((count, count), np.int64)
    for true, predicted, videos in task["confusion"]:
        matrix[true, predicted] = videos
    return matrix


def _calibration(bins: Sequence[Mapping[str, float]], name: str) -> Markup | None:
    if not bins:
        return None
    series = [
        Series("as sure as right", [(0, 0), (1, 1)], style=3),
        Series(name, [(b["confidence"], b["accuracy"]) for b in bins], marks=True, style=0),
    ]
    return line_chart(
        series,
        label=f"accuracy by confidence, {name}, against the diagonal of a calibrated model",
        x_label="confidence",
        y_label="accuracy",
        x_range=(0, 1),
        y_range=(0, 1),
        percent=True,
    )


def _view_charts(found: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    charts = []
    by_views, by_margin = found.get("by_views", ()), found.get("by_margin", ())
    for title, rows, key in (
        ("the first views of each video", by_views, "views"),
        ("views added until the leader is far enough ahead", by_margin, "mean_views"),
    ):
        if len(rows) < 2:
            continue
        rows = sorted(rows, key=lambda row: (row[key], row["top1"]))
        points = [(row[key], row["top1"]) for row in rows]
        bounds = [(row["low"], row["high"]) for row in rows]
        ends = " to ".join(
            f"{100 * share:.1f} % with {count:.3g}" for count, share in (points[0], points[-1])
        )
        chart = line_chart(
            [Series(title, points, marks=True, bounds=bounds)],
            label=f"top-1 by views, {title}: {ends}",
            x_label="views" if key == "views" else "mean views",
            y_label="top-1",
            y_range=_round_tenths(bounds),
            percent=True,
            whole_x=key == "views",
        )
        charts.append((title, chart))
    return charts


def _round_tenths(bounds: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """An axis from 0 to 1 in whole tenths that all intervals fit on."""
    low = math.floor(10 * min(low for low, _ in bounds)) / 10
    high = math.ceil(10 * max(high for _, high in bounds)) / 10
    return (low, high) if low < high else (max(0.0, low - 0.1), min(1.0, high + 0.1))


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    facts = {"views": f"{found['views']}, {found['combine']} combined"}
    if found.get("config"):
        facts["views"] = f"{found['config']['eval']['views']} (crops×clips), {found['combine']} combined"
        clip = found["config"]["clip"]
        facts["clip"] = f"{clip['num_frames']} frames of {clip['size']}², {clip['sampling']} sampling"
    if found["not_on_disk"]:
        facts["not on disk"] = f"{found['not_on_disk']} more videos that the list names"
    if found["seconds"]:
        rate = found["videos"] / found["seconds"]
        facts["time"] = f"{found['seconds']:.1f} s, {rate:.1f} videos/s"
    for name in ("weights", "list"):
        facts |= {f"{name} {key}": str(value) for key, value in found.get(name, {}).items() if value}
    if found.get("command"):
        facts["command"] = found["command"]
    if found.get("versions"):
        facts["versions"] = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return facts
