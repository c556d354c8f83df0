from __future__ import annotations

import numpy as np
import pytest

from xvit.engine import metrics


def test_label_ranks_break_ties_as_argmax_does() -> None:
    scores = np.array([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0], [5.0, 5.0, 5.0]])
    assert metrics.label_ranks(scores, np.array([2, 0, 2])).tolist() == [1, 0, 2]
    assert metrics.top_k_accuracy(scores, np.array([2, 0, 2])) == pytest.approx(1 / 3)
    assert metrics.top_k_accuracy(scores, np.array([2, 0, 2]), k=2) == pytest.approx(2 / 3)


def test_a_diverged_model_is_never_right() -> None:
    scores = np.full((4, 3), np.nan)
    assert metrics.top_k_accuracy(scores, np.zeros(4, np.int64), k=5) == 0.0


def test_accuracy_of_nothing_is_nan() -> None:
    assert np.isnan(metrics.top_k_accuracy(np.zeros((0, 3)), np.zeros(0, np.int64)))
    assert np.isnan(metrics.mean_class_accuracy(np.zeros(0, bool), np.zeros(0, np.int64)))


def test_confusion_and_class_accuracy() -> None:
    labels, predicted = np.array([0, 0, 0, 2]), np.array([0, 1, 1, 2])
    confusion = metrics.confusion_matrix(labels, predicted, 3)
    assert confusion.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]
    per_class = metrics.class_accuracy(labels == predicted, labels, 3)
    np.testing.assert_allclose(per_class, [1 / 3, np.nan, 1])
    assert metrics.mean_class_accuracy(labels == predicted, labels) == pytest.approx(2 / 3)
    assert metrics.most_confused(confusion) == [(0, 1, 2)]


def test_calibration_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.0, 1.0]])
    result = metrics.calibration(probabilities, np.array([0, 1, 1, 1]), bins=5)
    assert result.videos.tolist() == [0, 0, 1, 0, 3]
    # .6 is sure of what it gets right; of the three in the last bin two are right at mean confidence .9333
    assert result.ece == pytest.approx((0.4 * 1 + abs(0.9 * 2 + 1 - 2) / 3 * 3) / 4)


def test_average_precision_by_hand_and_with_ties() -> None:
    positive = np.array([True, False, True, False])
    scores = np.array([4.0, 3.0, 2.0, 1.0])
    assert metrics.average_precision(scores, positive) == pytest.approx((1 + 2 / 3) / 2)
    # all tied: precision is the base rate, whatever the order
    assert metrics.average_precision(np.ones(4), positive) == pytest.approx(0.5)
    assert metrics.average_precision(np.ones(4), positive[::-1]) == pytest.approx(0.5)
    assert np.isnan(metrics.average_precision(np.ones(4), np.zeros(4, bool)))


def test_mean_average_precision_skips_classes_without_positives() -> None:
    scores = np.array([[0.9, 0.3, 0.1], [0.2, 0.8, 0.3]])
    positive = np.array([[True, True, False], [False, True, False]])
    assert metrics.mean_average_precision(scores, positive) == pytest.approx(1.0)


def plain_average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Over the positives: what share of the videos that score at least as high are positive."""
    reached = [positive[scores >= score] for score in scores[positive]]
    return float(np.mean([above.mean() for above in reached]))


def plain_mean_average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    classes = np.flatnonzero(positive.any(0))
    return float(np.mean([plain_average_precision(scores[:, k], positive[:, k]) for k in classes]))


@pytest.mark.parametrize("grouped", [False, True])
def test_interval_of_mean_average_precision_equals_a_plain_computation(grouped: bool) -> None:
    rng = np.random.default_rng(3)
    positive = rng.random((30, 4)) < [0.5, 0.3, 0.1, 0.0]
    scores = np.round(positive + rng.normal(size=positive.shape), 1)  # with ties
    group = np.arange(30) // 5 if grouped else None
    found = metrics.bootstrap(
        metrics.mean_precision_of_draws(scores, positive), 30, groups=group, samples=200, seed=7, centred=True
    )
    draws = np.random.default_rng(7)
    means = []
    for _ in range(200):
        if grouped:
            videos = np.concatenate([np.arange(5) + 5 * g for g in draws.integers(6, size=6)])
        else:
            videos = draws.integers(30, size=30)
        means.append(plain_mean_average_precision(scores[videos], positive[videos]))
    value = plain_mean_average_precision(scores, positive)
    assert found.value == pytest.approx(value)
    low, high = np.quantile(means, [0.025, 0.975]) + value - np.mean(means)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.low < found.value < found.high


def test_pair_ranks_equal_brute_force() -> None:
    rng = np.random.default_rng(0)
    verb, noun = metrics.softmax(rng.normal(size=(50, 4))), metrics.softmax(rng.normal(size=(50, 6)))
    verbs, nouns = rng.integers(4, size=50), rng.integers(6, size=50)
    ranks = metrics.pair_ranks(verb, noun, verbs, nouns, chunk=7)
    for n in range(50):
        own = verb[n, verbs[n]] * noun[n, nouns[n]]
        assert ranks[n] == (np.outer(verb[n], noun[n]) > own).sum()


def test_bootstrap_covers_the_binomial_and_widens_with_groups() -> None:
    rng = np.random.default_rng(0)
    group_right = rng.random(40) < 0.7
    right = np.repeat(group_right, 10)  # ten clips of a recording are all right or all wrong
    alone = metrics.bootstrap(lambda i: float(right[i].mean()), 400)
    grouped = metrics.bootstrap(lambda i: float(right[i].mean()), 400, groups=np.repeat(np.arange(40), 10))
    p = right.mean()
    assert alone.value == grouped.value == p
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 400), rel=0.15)
    assert grouped.high - grouped.low == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 40), rel=0.15)


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_of_classes_equal_one_bootstrap_each(grouped: bool) -> None:
    rng = np.random.default_rng(1)
    labels, correct = rng.choice([0, 1, 3], 60), rng.random(60) < 0.7
    group = np.arange(60) // 6 if grouped else None
    found = metrics.class_intervals(correct, labels, 4, groups=group)
    for k in (0, 1, 3):

        def accuracy(videos: np.ndarray, k: int = k) -> float:
            own = videos[labels[videos] == k]
            return float(correct[own].mean()) if len(own) else float("nan")

        alone = metrics.bootstrap(accuracy, 60, groups=group)
        assert tuple(found[k]) == pytest.approx((alone.low, alone.high))
        assert alone.low < alone.value < alone.high
    assert np.isnan(found[2]).all()
