"""Made-up results for pages to show."""

from __future__ import annotations

import numpy as np

from xvit.engine.metrics import softmax
from xvit.engine.scores import Evaluation


def make_evaluation(
    num_classes: int = 6,
    per_class: int = 8,
    *,
    strength: float = 3.0,
    twins: float = 0.0,
    views: int = 1,
    seed: int = 0,
) -> Evaluation:
    """Made-up scores: the true class is `strength` standard deviations above the rest, its twin `twins`."""
    rng = np.random.default_rng(seed)
    names = tuple(f"class {k}" for k in range(num_classes))
    labels = np.repeat(np.arange(num_classes), per_class)
    each = rng.normal(size=(len(labels), views, num_classes))
    each[np.arange(len(labels)), :, labels] += strength
    each += twins * np.eye(num_classes)[np.minimum(labels ^ 1, num_classes - 1)][:, None]
    each += rng.normal(size=(len(labels), 1, num_classes))  # what all views of a video share
    means = softmax(each).cumsum(1) / np.arange(1, views + 1)[:, None]
    ordered = np.sort(means, axis=2)
    return Evaluation(
        video_id=tuple(f"{names[k]}/{row}.mp4" for row, k in enumerate(labels)),
        scores=means[:, -1].astype(np.float32),
        labels=labels[:, None],
        missing=(),
        classes=(names,),
        combine="probabilities",
        leaders=means.argmax(2)[:, :, None].astype(np.int32),
        margins=(ordered[..., -1] - ordered[..., -2]).astype(np.float32),
        views_used=np.full(len(labels), views),
        seconds=1.5,
    )
