"""Measures of a set of scores: pure functions over numpy arrays.

Throughout, `scores` is (N, K) float, one row a video; `labels` is (N,) int64; `correct` is (N,) bool.
Accuracies are shares between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]

LAST = np.iinfo(np.int64).max  # the rank of what is never found


class Interval(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


class Calibration(NamedTuple):
    """Confidence against accuracy, in equally wide bins of confidence from 0 to 1.

    `ece` is the expected calibration error: the gap between the two, averaged over videos. The arrays have
    one entry a bin; `confidence` and `accuracy` are nan where `videos` is 0.
    """

    ece: float
    videos: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Probabilities over the last axis, in float64."""
    shifted = np.asarray(logits, np.float64)
    shifted = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def sigmoid(logits: Floats) -> NDArray[np.float64]:
    """A probability for every class by itself, in float64."""
    return 0.5 * (1 + np.tanh(np.asarray(logits, np.float64) / 2))


def label_ranks(scores: Floats, labels: Ints) -> NDArray[np.int64]:
    """How many classes stand before the true one: (N,) with 0 for the leader.

    Equal scores count in order of class, as `argmax` does, so a model that scores everything alike gets what
    guessing class 0 gets. A true class scored nan comes last, so a diverged model is never right.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1])[None] < labels[:, None]
    ranks = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return np.where(np.isnan(own[:, 0]), LAST, ranks)


def top_k_accuracy(scores: Floats, labels: Ints, k: int = 1) -> float:
    """Share of videos whose true class is among the k highest; nan without videos."""
    return float((label_ranks(scores, labels) < k).mean()) if len(labels) else float("nan")


def confusion_matrix(labels: Ints, predicted: Ints, num_classes: int) -> NDArray[np.int64]:
    """(K, K) counts: rows are the true classes, columns the predicted ones."""
    flat = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes).astype(np.int64)


def class_accuracy(correct: NDArray[np.bool_], labels: Ints, num_classes: int) -> NDArray[np.float64]:
    """(K,) accuracy within each true class; nan for classes without videos."""
    count = np.bincount(labels, minlength=num_classes)
    right = np.bincount(labels, weights=correct, minlength=num_classes)
    return np.divide(right, count, out=np.full(num_classes, np.nan), where=count > 0)


def mean_class_accuracy(correct: NDArray[np.bool_], labels: Ints) -> float:
    """Accuracy averaged over the classes that have videos; nan without videos."""
    if not len(labels):
        return float("nan")
    per_class = class_accuracy(correct, labels, int(labels.max()) + 1)
    return float(per_class[~np.isnan(per_class)].mean())


def most_confused(confusion: Ints, limit: int = 10) -> list[tuple[int, int, int]]:
    """The largest mistakes: (true class, predicted class, videos), largest first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = [tuple(map(int, np.unravel_index(i, wrong.shape))) for i in order]
    return [(true, other, int(wrong[true, other])) for true, other in pairs if wrong[true, other]]


def calibration(probabilities: Floats, labels: Ints, bins: int = 15) -> Calibration:
    """How far the leader's probability is to be believed. `probabilities` is (N, K), rows summing to 1."""
    leader = probabilities.argmax(axis=1)
    confidence = np.nan_to_num(probabilities.max(axis=1))
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    empty = np.full(bins, np.nan)
    mean_confidence = np.divide(
        np.bincount(which, weights=confidence, minlength=bins), count, out=empty.copy(), where=count > 0
    )
    accuracy = np.divide(
        np.bincount(which, weights=leader == labels, minlength=bins), count, out=empty, where=count > 0
    )
    gap = np.nansum(np.abs(mean_confidence - accuracy) * count)
    return Calibration(float(gap / max(len(labels), 1)), count, mean_confidence, accuracy)


def average_precision(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Area under precision against recall for one class, no interpolation; nan without positives.

    Videos with equal scores enter together, so their order does not matter.
    """
    return precision_of_counts(scores, positive)(np.ones(len(scores), np.int64))


def mean_average_precision(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Average precision over the classes that have positives. `positive` is (N, K): videos may have many."""
    return mean_precision_of_draws(scores, positive)(np.arange(len(scores)))


def mean_precision_of_draws(scores: Floats, positive: NDArray[np.bool_]) -> Callable[[Ints], float]:
    """What `bootstrap` takes: mean average precision as a function of video numbers, with repeats.

    Classes that a draw has no positives of are left out of its mean.
    """
    each = precision_of_draws(scores, positive)
    return lambda videos: float(_known_mean(each(videos), 0))


def precision_of_draws(scores: Floats, positive: NDArray[np.bool_]) -> Callable[[Ints], NDArray[np.float64]]:
    """(K,) average precisions as a function of video numbers, with repeats; nan without positives."""
    classes = np.flatnonzero(positive.any(0))
    each = [precision_of_counts(scores[:, k], positive[:, k]) for k in classes]

    def precisions(videos: Ints) -> NDArray[np.float64]:
        counts, found = np.bincount(videos, minlength=len(scores)), np.full(scores.shape[1], np.nan)
        found[classes] = [precision(counts) for precision in each]
        return found

    return precisions


def precision_intervals(
    scores: Floats,
    positive: NDArray[np.bool_],
    *,
    groups: Ints | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[Interval, NDArray[np.float64]]:
    """Mean average precision, and (K, 3) every class's with its ends, drawn and moved as by `bootstrap`.

    nan for classes without positives; draws without a class's positives say nothing of it.
    """
    each = precision_of_draws(scores, positive)
    values = each(np.arange(len(scores)))
    drawn = np.array([each(draw) for draw in _draws(len(scores), groups, samples, seed)])
    values = np.append(values, _known_mean(values, 0))
    drawn = np.hstack([drawn, _known_mean(drawn, 1)[:, None]])
    ends = _ends(list(drawn + values - _known_mean(drawn, 0)))
    table = np.column_stack([values, ends.clip(0, 1)])  # what is moved may leave 0 to 1
    return Interval(*table[-1].tolist()), table[:-1]


def _known_mean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The mean of what is not nan; nan where all is."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0).sum(axis), known.sum(axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def precision_of_counts(scores: Floats, positive: NDArray[np.bool_]) -> Callable[[Ints], float]:
    """Average precision as a function of how often each video counts, (N,) integers; sorted once."""
    order = np.argsort(-scores, kind="stable")
    tie = np.cumsum(np.append(False, np.diff(scores[order]) != 0)[: len(order)])  # (N,) numbers of ties
    found = np.flatnonzero(positive[order])
    reached, first = np.unique(tie[found], return_index=True)  # ties with positives: recall grows there alone
    last = np.searchsorted(tie, reached, side="right") - 1
    hits_at = order[found]

    def precision(counts: Ints) -> float:
        new = np.add.reduceat(counts[hits_at], first) if len(first) else first
        hits, seen = np.cumsum(new), np.cumsum(counts[order])[last]
        if not new.any():
            return float("nan")
        return float((new * hits / np.maximum(seen, 1)).sum() / hits[-1])

    return precision


def pair_ranks(
    first: Floats, second: Floats, first_labels: Ints, second_labels: Ints, *, chunk: int = 256
) -> NDArray[np.int64]:
    """(N,) ranks of the true (verb, noun) among all pairs, scored by their probabilities' product."""
    ranks = []
    for start in range(0, len(first), chunk):
        part = slice(start, start + chunk)
        pairs = np.asarray(first[part, :, None] * second[part, None, :])
        labels = first_labels[part] * second.shape[1] + second_labels[part]
        ranks.append(label_ranks(pairs.reshape(len(pairs), -1), labels))
    return np.concatenate(ranks) if ranks else np.zeros(0, np.int64)


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    num_videos: int,
    *,
    groups: Ints | None = None,
    samples: int = 1000,
    seed: int = 0,
    centred: bool = False,
) -> Interval:
    """A statistic of a set of videos with its 95 % percentile bootstrap interval.

    `statistic` takes video numbers (with repeats). Videos are drawn anew, or whole groups of them where
    `groups` (N,) numbers the recordings from 0: clips of one recording are not independent. `centred` moves
    the draws by the distance of their mean from the value, for statistics that repeated videos raise: average
    precision does, where one positive drawn twice stands for two that were found together.
    """
    everything = np.arange(num_videos)
    value = float(statistic(everything))
    if num_videos == 0:
        return Interval(value, value, value)
    drawn = np.array([statistic(draw) for draw in _draws(num_videos, groups, samples, seed)])
    if centred:
        drawn += value - np.nanmean(drawn)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def class_intervals(
    correct: NDArray[np.bool_],
    labels: Ints,
    num_classes: int,
    *,
    groups: Ints | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """(K, 2) ends of the 95 % bootstrap interval of `class_accuracy`, drawn as `bootstrap` draws.

    nan for classes without videos; draws without a class's videos say nothing of it.
    """
    draws = _draws(len(labels), groups, samples, seed)
    return _ends([class_accuracy(correct[draw], labels[draw], num_classes) for draw in draws])


def share_intervals(
    hits: NDArray[np.bool_], *, groups: Ints | None = None, samples: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """(M, 2) ends of 95 % bootstrap intervals of M accuracies, drawn as `bootstrap` draws. hits: (N, M)."""
    shares = hits.astype(np.float64)
    draws = _draws(len(hits), groups, samples, seed)
    return _ends([np.bincount(draw, minlength=len(hits)) @ shares / len(draw) for draw in draws])


def _ends(drawn: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The 2.5 % and 97.5 % quantiles over the draws, each (M,): (M, 2); nan where no draw says anything."""
    table = np.array(drawn)
    ends = np.full((table.shape[1], 2), np.nan)
    seen = ~np.isnan(table).all(0)
    ends[seen] = np.nanquantile(table[:, seen], [0.025, 0.975], axis=0).T
    return ends


def _draws(num_videos: int, groups: Ints | None, samples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Video numbers, with repeats: of as many videos as there are, or of as many whole groups."""
    rng = np.random.default_rng(seed)
    if groups is None:
        yield from (rng.integers(num_videos, size=num_videos) for _ in range(samples))
        return
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    picks = (rng.integers(len(members), size=len(members)) for _ in range(samples))
    yield from (np.concatenate([members[g] for g in pick]) for pick in picks)
