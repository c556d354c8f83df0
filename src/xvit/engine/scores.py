"""Every video's scores: what an evaluation leaves behind, and its files."""

from __future__ import annotations

import csv
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvit.engine.metrics import LAST, label_ranks, mean_average_precision, pair_ranks, sigmoid, softmax
from xvit.errors import DatasetError
from xvit.types import VideoRecord


@dataclass(frozen=True, slots=True)
class Scored:
    """Results of n videos over V views and some tasks (verb, noun; usually one).

    rows:       (n,) int64, their places in the manifest.
    scores:     (n, K) float32, tasks side by side.
    labels:     (n, L) int64.
    leaders:    (n, V, tasks) int32, the leading class after the first 1, 2, … V views.
    margins:    (n, V) float32, how far that leader was ahead, in the mean score of those views.
    views_used: (n,) int64, views that were computed.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    leaders: NDArray[np.int32]
    margins: NDArray[np.float32]
    views_used: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Every listed video's scores, in the order of the list.

    video_id:   N names.                    scores: (N, K) float32, tasks side by side.
    labels:     (N, L) int64; L is 0 for a list without labels. One column a task, or, with a single task,
                as many as a video may have labels, filled up with -1.
    missing:    (video_id, reason) of listed videos that have no scores.
    classes:    one tuple of names a task; K is the sum of their lengths.
    combine:    "probabilities" (means of softmaxes) or "logits" (sums over views).
    leaders, margins, views_used: see `Scored`.
    seconds:    wall clock of the evaluation.
    list_sha256: the digest of the list that was scored (`Manifest.digest`); empty where that is not known.
    not_on_disk: how many videos the list names beyond these and the missing ones (`Manifest.missing`).
    """

    video_id: tuple[str, ...]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    missing: tuple[tuple[str, str], ...]
    classes: tuple[tuple[str, ...], ...]
    combine: str
    leaders: NDArray[np.int32]
    margins: NDArray[np.float32]
    views_used: NDArray[np.int64]
    seconds: float = 0.0
    list_sha256: str = ""
    not_on_disk: int = 0

    def ranks(self) -> NDArray[np.int64]:
        """(N,) classes that stand before the true one; with two tasks, pairs before the true (verb, noun).

        Of several labels of a video the best placed counts. Raises ValueError without labels.
        """
        if not self.labels.shape[1]:
            raise ValueError("this list has no labels")
        scores = self.by_task(self.scores)
        if len(scores) == 1:
            ranks = [np.where(label < 0, LAST, label_ranks(self.scores, label)) for label in self.labels.T]
            return np.min(ranks, axis=0)
        if len(scores) == 2:
            first, second = self.probabilities()
            return pair_ranks(first, second, self.labels[:, 0], self.labels[:, 1])
        each = zip(scores, self.labels.T, strict=True)
        return np.max([label_ranks(part, label) for part, label in each], axis=0)

    def summary(self) -> dict[str, float]:
        """`videos` and `missing` (counts); with labels `top1` and `top5` (shares), with several `map`."""
        counts: dict[str, float] = {"videos": len(self.video_id), "missing": len(self.missing)}
        if not self.video_id or not self.labels.shape[1]:
            return counts
        ranks = self.ranks()
        shares = {"top1": float((ranks < 1).mean()), "top5": float((ranks < 5).mean())}
        if self.several_labels:
            shares["map"] = mean_average_precision(self.scores, self.positive())
        return {**shares, **counts}

    def positive(self) -> NDArray[np.bool_]:
        """(N, K) which classes a video of several labels has."""
        table = np.zeros((len(self.labels), self.scores.shape[1] + 1), bool)  # -1 lands in the last column
        np.put_along_axis(table, self.labels, True, axis=1)
        return table[:, :-1]

    @property
    def num_views(self) -> int:
        return self.margins.shape[1]

    @property
    def several_labels(self) -> bool:
        """Whether a video may have several labels of the one task."""
        return self.labels.shape[1] > len(self.classes) == 1

    def by_task(self, scores: NDArray[np.floating]) -> list[NDArray[np.floating]]:
        """(N, K) cut into the tasks' (N, K_task)."""
        return np.split(scores, np.cumsum([len(names) for names in self.classes])[:-1], axis=1)

    def probabilities(self) -> list[NDArray[np.float64]]:
        """Each task's (N, K_task) probabilities; summed logits are averaged over views before the softmax.

        With several labels a video every class has a probability of its own.
        """
        if self.combine == "logits":
            squash = sigmoid if self.several_labels else softmax
            return [squash(scores / max(self.num_views, 1)) for scores in self.by_task(self.scores)]
        return [scores.astype(np.float64) for scores in self.by_task(self.scores)]


def assemble(
    parts: Sequence[Scored],
    failures: dict[int, str],
    records: Sequence[VideoRecord],
    classes: tuple[tuple[str, ...], ...],
    *,
    combine: str,
    seconds: float,
    list_sha256: str = "",
) -> Evaluation:
    """One Evaluation from batches in any order; a video scored twice (a padded sampler) counts once."""
    columns = len(records[0].labels) if records else len(classes)
    nothing = Scored(
        rows=np.zeros(0, np.int64),
        scores=np.zeros((0, sum(map(len, classes))), np.float32),
        labels=np.zeros((0, columns), np.int64),
        leaders=np.zeros((0, 1, len(classes)), np.int32),
        margins=np.zeros((0, 1), np.float32),
        views_used=np.zeros(0, np.int64),
    )
    rows = np.concatenate([part.rows for part in parts or [nothing]])
    unique, first = np.unique(rows, return_index=True)

    def merged(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts or [nothing]])[first]

    have = set(unique.tolist())
    missing = tuple(
        (record.video_id, failures.get(row, "never arrived"))
        for row, record in enumerate(records)
        if row not in have
    )
    names = ("scores", "labels", "leaders", "margins", "views_used")
    return Evaluation(
        video_id=tuple(records[row].video_id for row in unique),
        missing=missing,
        classes=classes,
        combine=combine,
        seconds=seconds,
        list_sha256=list_sha256,
        **{name: merged(name) for name in names},
    )


def write_scores(evaluation: Evaluation, path: str | Path) -> None:
    """Write `scores.npz`: video_id (N,), scores (N, K), labels and the rest of an Evaluation.

    Labels are (N,) where a video has one, else (N, L).
    """
    path = Path(path)
    names = ("combine", "classes", "seconds", "list_sha256", "not_on_disk")
    about = {name: getattr(evaluation, name) for name in names}
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            video_id=np.array(evaluation.video_id, dtype=np.str_),
            scores=evaluation.scores,
            labels=evaluation.labels[:, 0] if evaluation.labels.shape[1] == 1 else evaluation.labels,
            missing=np.array(evaluation.missing, dtype=np.str_).reshape(-1, 2),
            leaders=evaluation.leaders,
            margins=evaluation.margins,
            views_used=evaluation.views_used,
            about=np.array(json.dumps(about)),
        )
    os.replace(partial, path)


def read_scores(path: str | Path) -> Evaluation:
    """What `write_scores` wrote; a folder stands for its `scores.npz`. Raises DatasetError."""
    path = Path(path)
    path = path / "scores.npz" if path.is_dir() else path
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            return Evaluation(
                video_id=tuple(file["video_id"].tolist()),
                scores=file["scores"],
                labels=_columns(file["labels"]),
                missing=tuple((name, reason) for name, reason in file["missing"].tolist()),
                classes=tuple(tuple(names) for names in about["classes"]),
                combine=about["combine"],
                leaders=file["leaders"],
                margins=file["margins"],
                views_used=file["views_used"],
                seconds=about["seconds"],
                list_sha256=about.get("list_sha256", ""),
                not_on_disk=about.get("not_on_disk", 0),
            )
    except OSError as err:
        raise DatasetError(f"{path}: {err.strerror or err}") from err
    except (EOFError, KeyError, ValueError, zipfile.BadZipFile) as err:
        raise DatasetError(f"{path}: not a scores.npz that `xvit eval` wrote ({err})") from err


def _columns(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    return labels[:, None] if labels.ndim == 1 else labels


def write_predictions(evaluation: Evaluation, path: str | Path) -> None:
    """Write `predictions.csv`: a row a video and task with its label, its leader and the five best scores."""
    with Path(path).open("w", newline="", encoding="utf8") as file:
        rows = csv.writer(file)
        rows.writerow(["video_id", "task", "label", "predicted", "top5", "scores"])
        for task, scores in enumerate(evaluation.by_task(evaluation.scores)):
            names = evaluation.classes[task]
            best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
            for row, video in enumerate(evaluation.video_id):
                labels = evaluation.labels[row]
                labels = labels if len(evaluation.classes) == 1 else labels[task : task + 1]
                truth = "|".join(names[label] for label in labels if label >= 0)
                top = [names[k] for k in best[row]]
                values = " ".join(f"{scores[row, k]:.6g}" for k in best[row])
                rows.writerow([video, task, truth, top[0], "|".join(top), values])
