"""From scores to results: what `results.json` and the report say of an evaluation."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvit.engine import metrics
from xvit.engine.scores import Evaluation
from xvit.errors import DatasetError

TASKS = ("verb", "noun")  # what two tasks are: EPIC-KITCHENS
MEASURES = {"ece": "calibration error", "map": "mean average precision"}


def results(
    evaluation: Evaluation, *, top_k: Sequence[int] = (1, 5), groups: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Everything that the scores tell, as plain JSON values.

    `videos`, `missing` (listed, not scored) and `not_on_disk` (how many others the list names); `tasks`: for
    each (its name as key; "class" where there is one, else "verb", "noun" and their pair, "action") the
    accuracies with 95 % bootstrap intervals, `per_class`, `confusion` as [true, predicted, videos] rows,
    `calibration`; or, where videos have several labels, `map` and each class's average precision. Then
    accuracy by number of views, with its interval. `groups` names each video's recording, by video_id;
    intervals then draw recordings.
    """
    numbers = group_numbers(evaluation.video_id, groups)
    found: dict[str, Any] = {
        "videos": len(evaluation.video_id),
        "missing": [{"video_id": name, "reason": reason} for name, reason in evaluation.missing],
        "not_on_disk": evaluation.not_on_disk,
        "groups": None if numbers is None else int(numbers.max(initial=-1)) + 1,
        "combine": evaluation.combine,
        "views": evaluation.num_views,
        "mean_views": float(evaluation.views_used.mean()) if evaluation.video_id else None,
        "seconds": evaluation.seconds,
        "list": {"sha256": evaluation.list_sha256 or None},
        "not_finite": int((~np.isfinite(evaluation.scores).all(1)).sum()),
        "tasks": {},
    }
    if not evaluation.video_id or not evaluation.labels.shape[1]:
        return found
    tasks = found["tasks"]
    if evaluation.several_labels:
        tasks["class"] = _several_labels(evaluation, top_k, numbers)
        return {**found, **_by_views(evaluation, numbers)}
    for task, name in enumerate(task_names(len(evaluation.classes))):
        tasks[name] = _task(evaluation, task, top_k, numbers)
    if len(evaluation.classes) > 1:
        tasks["action"] = accuracies(evaluation.ranks(), top_k, numbers)
    return {**found, **_by_views(evaluation, numbers)}


def task_names(count: int) -> tuple[str, ...]:
    """The names of `count` tasks."""
    return {1: ("class",), 2: TASKS}.get(count, tuple(f"task {n}" for n in range(count)))


def table(found: Mapping[str, Any]) -> str:
    """Results as lines for a terminal: accuracies with their intervals, and over what they were taken."""
    lines = []
    for name, task in found["tasks"].items():
        title = f"{name} " if len(found["tasks"]) > 1 else ""
        for key, figure in task.items():
            if isinstance(figure, dict):
                low, high = 100 * figure["low"], 100 * figure["high"]
                text = f"{100 * figure['value']:6.2f} %   {low:.1f} to {high:.1f}"
            elif key == "ece":
                text = f"{100 * figure:6.2f} %"
            else:
                continue
            shown = key.replace("top", "top-").replace("_", " ")
            lines.append(f"{title + MEASURES.get(key, shown):<26}{text}")
    drawn = "videos" if found["groups"] is None else f"{found['groups']} recordings"
    about = f"; 95 % bootstrap intervals over {drawn}" if lines else "; the list has no labels"
    missing = f"{len(found['missing']) or 'none'} missing"
    if found["not_on_disk"]:
        missing += f", {found['not_on_disk']} more that the list names are not on disk"
    lines.append(f"{found['videos']} videos, {missing}{about}")
    lines += [f"  missing {video['video_id']}: {video['reason']}" for video in found["missing"][:5]]
    if len(found["missing"]) > 5:
        lines.append(f"  … and {len(found['missing']) - 5} more, named in results.json and the report")
    if found["mean_views"] is not None and found["mean_views"] < found["views"]:
        lines.append(f"{found['mean_views']:.2f} of {found['views']} views a video")
    return "\n".join(lines)


def accuracies(
    ranks: NDArray[np.int64], top_k: Sequence[int], groups: NDArray[np.int64] | None
) -> dict[str, Any]:
    """`top1`, `top5`, … with intervals, from the true classes' ranks (N,)."""

    def share(k: int) -> metrics.Interval:
        hit = ranks < k
        return metrics.bootstrap(lambda videos: float(hit[videos].mean()), len(ranks), groups=groups)

    return {f"top{k}": share(k)._asdict() for k in top_k}


def read_groups(path: str | Path) -> dict[str, str]:
    """The recording of each video: a csv with a header, then lines with a video first and its group last.

    Fields are separated by commas or spaces; a video stands under its path and under its path without suffix.
    Raises DatasetError (file and line).
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf8").splitlines()
    except OSError as err:
        raise DatasetError(f"{path}: {err.strerror or err}") from err
    except UnicodeDecodeError as err:
        raise DatasetError(f"{path}: not text: {err}") from err
    groups = {}
    separator = "," if lines and "," in lines[0] else " "
    for number, fields in enumerate(csv.reader(lines[1:], delimiter=separator), start=2):
        if not fields:
            continue
        if len(fields) < 2:
            raise DatasetError(f"{path}:{number}: expected a video and its group, got {fields[0]!r}")
        groups[fields[0]] = groups[str(Path(fields[0]).with_suffix(""))] = fields[-1]
    return groups


def _task(
    evaluation: Evaluation, task: int, top_k: Sequence[int], groups: NDArray[np.int64] | None
) -> dict[str, Any]:
    names = evaluation.classes[task]
    scores, labels = evaluation.by_task(evaluation.scores)[task], evaluation.labels[:, task]
    ranks = metrics.label_ranks(scores, labels)
    correct, predicted = ranks < 1, scores.argmax(1)
    confusion = metrics.confusion_matrix(labels, predicted, len(names))
    per_class = metrics.class_accuracy(correct, labels, len(names))
    ends = metrics.class_intervals(correct, labels, len(names), groups=groups).tolist()
    belief = metrics.calibration(evaluation.probabilities()[task], labels)

    def class_mean(videos: NDArray[np.int64]) -> float:
        return metrics.mean_class_accuracy(correct[videos], labels[videos])

    true, other = np.nonzero(confusion)
    return {
        **accuracies(ranks, top_k, groups),
        "mean_class_accuracy": metrics.bootstrap(class_mean, len(labels), groups=groups)._asdict(),
        "ece": belief.ece,
        "calibration": [
            {"videos": int(n), "confidence": float(sure), "accuracy": float(right)}
            for n, sure, right in zip(belief.videos, belief.confidence, belief.accuracy, strict=True)
            if n
        ],
        "per_class": [
            {"class": name, "videos": int(n), "top1": float(share), "low": low, "high": high}
            for name, n, share, (low, high) in zip(names, confusion.sum(1), per_class, ends, strict=True)
            if n
        ],
        "confusion": np.stack([true, other, confusion[true, other]], 1).tolist(),
        "most_confused": [
            {"class": names[a], "taken_for": names[b], "videos": n, "of": int(confusion[a].sum())}
            for a, b, n in metrics.most_confused(confusion, 20)
        ],
    }


def _several_labels(
    evaluation: Evaluation, top_k: Sequence[int], groups: NDArray[np.int64] | None
) -> dict[str, Any]:
    positive = evaluation.positive()
    mean, each = metrics.precision_intervals(evaluation.scores, positive, groups=groups)
    return {
        "map": mean._asdict(),
        **accuracies(evaluation.ranks(), top_k, groups),
        "per_class": [
            {"class": name, "videos": int(n), "average_precision": value, "low": low, "high": high}
            for name, n, (value, low, high) in zip(
                evaluation.classes[0], positive.sum(0), each.tolist(), strict=True
            )
            if n
        ],
    }


def _by_views(evaluation: Evaluation, groups: NDArray[np.int64] | None) -> dict[str, Any]:
    """Accuracy after 1, 2, … views, and for a range of margins at which to stop, accuracy by mean views."""
    if evaluation.several_labels:
        right = (evaluation.leaders == evaluation.labels[:, None]).any(2)  # (N, V)
    else:
        right = (evaluation.leaders == evaluation.labels[:, None]).all(2)
    views = np.arange(1, evaluation.num_views + 1)
    budget, stopped = [], []
    for margin in np.unique(np.quantile(evaluation.margins, np.linspace(0, 1, 21))):
        ahead = evaluation.margins >= margin
        used = np.where(ahead.any(1), ahead.argmax(1) + 1, views[-1])
        used = np.minimum(used, evaluation.views_used)
        budget.append({"margin": float(margin), "mean_views": float(used.mean())})
        stopped.append(right[np.arange(len(right)), used - 1])
    by_views = [{"views": int(count)} for count in views]
    return {
        "by_views": _with_accuracy(by_views, right, groups),
        "by_margin": _with_accuracy(budget, np.stack(stopped, 1), groups) if len(views) > 1 else [],
    }


def _with_accuracy(
    rows: list[dict[str, Any]], right: NDArray[np.bool_], groups: NDArray[np.int64] | None
) -> list[dict[str, Any]]:
    """The rows, each with the accuracy and interval of its column of `right` (N, rows)."""
    ends = metrics.share_intervals(right, groups=groups)
    return [
        {**row, "top1": float(share), "low": float(low), "high": float(high)}
        for row, share, (low, high) in zip(rows, right.mean(0), ends, strict=True)
    ]


def group_numbers(video_id: Sequence[str], groups: Mapping[str, str] | None) -> NDArray[np.int64] | None:
    """(N,) the videos' recordings, numbered from 0. Raises DatasetError naming a video without one."""
    if groups is None:
        return None
    lacking = [name for name in video_id if name not in groups]
    if lacking:
        raise DatasetError(f"no group is given for {lacking[0]} ({len(lacking)} of {len(video_id)} videos)")
    return np.unique([groups[name] for name in video_id], return_inverse=True)[1].astype(np.int64)
