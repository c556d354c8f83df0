"""Two score files side by side: which is better, by how much, and on which videos; or both together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvit.engine import metrics
from xvit.engine.results import group_numbers
from xvit.engine.scores import Evaluation
from xvit.errors import DatasetError


def align(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The videos that all of them scored, in one order. Raises DatasetError where the labels differ."""
    first = evaluations[0]
    common = set(first.video_id).intersection(*(other.video_id for other in evaluations[1:]))
    names = [name for name in first.video_id if name in common]
    if not names:
        raise DatasetError("these scores have no video in common")
    aligned = []
    for one in evaluations:
        if [len(task) for task in one.classes] != [len(task) for task in first.classes]:
            raise DatasetError("these scores are over different classes")
        place = {name: row for row, name in enumerate(one.video_id)}
        aligned.append(_take(one, np.array([place[name] for name in names])))
    for one in aligned[1:]:
        if not np.array_equal(one.labels, aligned[0].labels):
            raise DatasetError("these scores are of different labels: the lists are not the same")
    return aligned


def ensemble(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The mean of the probabilities over the videos that all of them scored."""
    aligned = align(evaluations)
    mean = np.mean([np.concatenate(one.probabilities(), axis=1) for one in aligned], axis=0)
    base = aligned[0]
    scores = mean.astype(np.float32)
    tasks = base.by_task(scores)
    dropped = sorted({name for one in evaluations for name in one.video_id} - set(base.video_id))
    return dataclasses.replace(
        base,
        scores=scores,
        missing=(*base.missing, *((name, "not in all score files") for name in dropped)),
        combine="probabilities",
        leaders=np.stack([task.argmax(1) for task in tasks], 1)[:, None].astype(np.int32),
        list_sha256=base.list_sha256 if len({one.list_sha256 for one in evaluations}) == 1 else "",
        margins=np.min([_lead(task) for task in tasks], axis=0)[:, None],
        views_used=np.sum([one.views_used for one in aligned], axis=0),
        seconds=sum(one.seconds for one in aligned),
    )


def compare(a: Evaluation, b: Evaluation, *, groups: Mapping[str, str] | None = None) -> dict[str, Any]:
    """How `b` differs from `a` on the videos that both scored.

    `top1`, `top5`, and `map` where videos have several labels: `a`, `b`, and their `difference` b − a with
    its paired 95 % bootstrap interval; `fixed` and `broken`: the videos whose top-1 flipped, with both
    answers; `only_a`, `only_b`: videos that the other lacks.
    Raises DatasetError without labels.
    """
    one, two = align([a, b])
    if not one.labels.shape[1]:
        raise DatasetError("these scores have no labels: there is nothing to compare them by")
    numbers = group_numbers(one.video_id, groups)
    ranks = one.ranks(), two.ranks()
    lists = {"a": a.list_sha256 or None, "b": b.list_sha256 or None}
    found: dict[str, Any] = {"videos": len(one.video_id), "list_sha256": lists}
    for k in (1, 5):
        a_right, b_right = (_share(each < k) for each in ranks)
        found[f"top{k}"] = _paired(a_right, b_right, len(one.video_id), numbers)
    if one.several_labels:
        a_map, b_map = (metrics.mean_precision_of_draws(e.scores, e.positive()) for e in (one, two))
        found["map"] = _paired(a_map, b_map, len(one.video_id), numbers, centred=True)
    right = [each < 1 for each in ranks]
    found["fixed"] = [_flip(one, two, row) for row in np.flatnonzero(~right[0] & right[1]).tolist()]
    found["broken"] = [_flip(one, two, row) for row in np.flatnonzero(right[0] & ~right[1]).tolist()]
    found["only_a"] = sorted(set(a.video_id) - set(b.video_id))
    found["only_b"] = sorted(set(b.video_id) - set(a.video_id))
    return found


def comparison_text(found: Mapping[str, Any], a: str, b: str, flips: int) -> str:
    """A comparison as lines for a terminal, with at most `flips` videos each way."""
    lines = [f"A  {a}", f"B  {b}", f"{found['videos']} videos that both scored"]
    for side in ("a", "b"):
        if found[f"only_{side}"]:
            lines.append(f"{len(found[f'only_{side}'])} only in {side.upper()}")
    for key, title in (("map", "mAP"), ("top1", "top-1"), ("top5", "top-5")):
        if key not in found:
            continue
        figures, change = found[key], found[key]["difference"]
        lines.append(
            f"{title:<5}  A {100 * figures['a']:.2f} %  B {100 * figures['b']:.2f} %  "
            f"B − A {100 * change['value']:+.2f}, {100 * change['low']:+.2f} to {100 * change['high']:+.2f}"
        )
    for key, title in (("fixed", "right only in B"), ("broken", "right only in A")):
        lines.append(f"{len(found[key])} {title}")
        lines += [f"  {v['video_id']}: {v['label']}; A {v['a']}, B {v['b']}" for v in found[key][:flips]]
        if len(found[key]) > flips:
            lines.append(f"  … and {len(found[key]) - flips} more")
    return "\n".join(lines)


Statistic = Callable[[NDArray[np.int64]], float]


def _paired(
    a: Statistic,
    b: Statistic,
    videos: int,
    groups: NDArray[np.int64] | None,
    *,
    centred: bool = False,
) -> dict[str, Any]:
    """Both figures over all videos, and the interval of their difference over the same draws."""
    everything = np.arange(videos)
    change = metrics.bootstrap(lambda draw: b(draw) - a(draw), videos, groups=groups, centred=centred)
    return {"a": a(everything), "b": b(everything), "difference": change._asdict()}


def _share(right: NDArray[np.bool_]) -> Statistic:
    return lambda videos: float(right[videos].mean())


def _lead(scores: NDArray[np.floating]) -> NDArray[np.float32]:
    best = np.sort(scores, axis=1)[:, -2:]
    return (best[:, -1] - best[:, 0]).astype(np.float32)


def _flip(one: Evaluation, two: Evaluation, row: int) -> dict[str, str]:
    def answer(evaluation: Evaluation) -> str:
        parts = evaluation.by_task(evaluation.scores)
        return " ".join(names[part[row].argmax()] for names, part in zip(one.classes, parts, strict=True))

    if len(one.classes) == 1:
        truth = "|".join(one.classes[0][label] for label in one.labels[row] if label >= 0)
    else:
        truth = " ".join(names[k] for names, k in zip(one.classes, one.labels[row], strict=True))
    return {"video_id": one.video_id[row], "label": truth, "a": answer(one), "b": answer(two)}


def _take(one: Evaluation, rows: NDArray[np.int64]) -> Evaluation:
    columns = ("scores", "labels", "leaders", "margins", "views_used")
    return dataclasses.replace(
        one,
        video_id=tuple(one.video_id[row] for row in rows),
        **{name: getattr(one, name)[rows] for name in columns},
    )
