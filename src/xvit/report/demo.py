"""The demo's page: a model and its time-blind control, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvit.engine.metrics import confusion_matrix
from xvit.engine.scores import Evaluation
from xvit.report.charts import Series, legend, line_chart, smooth
from xvit.report.page import Filmstrip, render


@dataclass(frozen=True)
class TrainedModel:
    """A row of the demo's table.

    multiply_adds:    of one clip. clips_per_second: measured, forward passes.
    log:              the run's events as `read_log` gives them; "step" events hold `step` and `loss`, "val"
                      events `step` and `top1`.
    evaluation:       over the val split; all models share list and classes.
    """

    name: str
    parameters: int
    multiply_adds: float
    clips_per_second: float
    log: Sequence[Mapping[str, Any]]
    evaluation: Evaluation


def write_demo_report(
    path: str | Path,
    *,
    models: Sequence[TrainedModel],
    strips: Sequence[Filmstrip],
    facts: Mapping[str, str],
    prediction: Filmstrip | None = None,
) -> None:
    """Write the page to `path`.

    `strips` come in the order they are given (see `one_per_class`), `prediction` is the unseen file; `facts`
    are shown as they are (seed, seconds, versions).
    """
    classes = models[0].evaluation.classes[0]
    matrices = [
        confusion_matrix(m.evaluation.labels[:, 0], m.evaluation.scores.argmax(1), len(classes))
        for m in models
    ]
    render(
        "demo.html",
        path,
        title="XViT demo",
        models=[(model, model.evaluation.summary()) for model in models],
        loss=_curve(models, "step", "loss", "training loss"),
        accuracy=_curve(models, "val", "top1", "validation top-1"),
        legend=legend([model.name for model in models]),
        matrices=list(zip([m.name for m in models], matrices, strict=True)),
        classes=classes,
        strips=strips,
        prediction=prediction,
        facts=facts,
    )


def _curve(models: Sequence[TrainedModel], event: str, value: str, what: str) -> str:
    series = []
    for model in models:
        points = [
            (float(e["step"]), float(e[value])) for e in model.log if e["event"] == event and value in e
        ]
        few = len(points) <= 40
        series.append(Series(model.name, points if few else smooth(points), marks=few))
    share = value == "top1"
    ends = "; ".join(f"{line.name} ends at {line.points[-1][1]:.3g}" for line in series if line.points)
    return line_chart(
        series,
        label=f"{what} by step: {ends}",
        x_label="step",
        y_label=what,
        y_range=(0.0, 1.0) if share else None,
        percent=share,
    )
