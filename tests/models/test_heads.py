"""The moments head: what it starts as, and that it can tell first from last."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from xvit.models.heads import MomentsHead, explained_variance


def test_starts_on_the_mean() -> None:
    head, features = MomentsHead(8, 3), torch.randn(2, 5, 8)
    torch.testing.assert_close(head(features), features.mean(1) @ head.fc.weight[:, :8].T + head.fc.bias)


def deviations(head: MomentsHead, features: Tensor, targets: Tensor) -> list[float]:
    """Of each moment once it is standardised; the same for all of its features."""
    head.standardise(features, targets)
    deviation, mean = torch.std_mean(head(features, pre_logits=True), dim=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-4, rtol=0)
    by_moment = deviation.unflatten(0, (head.moments, -1))
    torch.testing.assert_close(by_moment, by_moment[:, :1].expand_as(by_moment), atol=1e-3, rtol=0)
    return by_moment[:, 0].tolist()


def test_a_moment_deviates_by_what_it_says_of_the_classes() -> None:
    labels = torch.arange(300) % 3
    targets = F.one_hot(labels).float()
    noise, sign = torch.randn(300, 6, 8) * 7 + 3, (labels - 1.0)[:, None, None]
    still = noise + 30 * sign
    ramp = torch.linspace(-1, 1, 6)[None, :, None]
    assert deviations(MomentsHead(8, 3), still, targets) == pytest.approx([1, 0.05, 0.05], abs=0.02)
    assert deviations(MomentsHead(8, 3), noise + 30 * sign * ramp, targets) == pytest.approx(
        [0.05, 1, 0.05], abs=0.02
    )
    both = deviations(MomentsHead(8, 3), still + 3 * sign * ramp, targets)
    assert both[0] == pytest.approx(1, abs=1e-3)
    assert 0.1 < both[1] < 0.9
    wide = deviations(MomentsHead(768, 3), still.repeat(1, 1, 96), targets)
    assert wide[0] == pytest.approx(0.5, abs=1e-3)


def test_where_nothing_tells_the_classes_all_moments_count_alike() -> None:
    features, own = torch.randn(6, 5, 8), torch.eye(6)  # every clip has a class of its own
    assert deviations(MomentsHead(8, 6), features, own) == pytest.approx([1, 1, 1], abs=1e-3)
    head = MomentsHead(8, 6)
    head.standardise(torch.ones(6, 5, 8), own)
    assert head.scale.isfinite().all()


def test_draws_of_a_video_are_one_observation() -> None:
    """Else what classes explain by chance, of few videos, would be taken for what they tell."""
    values, targets = torch.randn(60, 500), F.one_hot(torch.arange(60) % 12).float()
    repeated = explained_variance(values.repeat(4, 1), targets.repeat(4, 1), draws=4)
    torch.testing.assert_close(repeated, explained_variance(values, targets), atol=1e-4, rtol=0)
    assert abs(float(repeated.mean())) < 0.03
    assert explained_variance(values.repeat(4, 1), targets.repeat(4, 1)).mean() > 0.1


def test_explained_variance_is_the_adjusted_r2() -> None:
    values, labels = torch.randn(40, 3), torch.randint(4, (40,))
    values[:, 0] += labels
    targets = F.one_hot(labels, 5).float()  # a class without clips is no degree of freedom
    within = sum((values[labels == k] - values[labels == k].mean(0)).square().sum(0) for k in range(4))
    total = (values - values.mean(0)).square().sum(0)
    torch.testing.assert_close(explained_variance(values, targets), 1 - (within / 36) / (total / 39))


def test_turning_a_clip_round_changes_the_sign_of_odd_moments_alone() -> None:
    head, features = MomentsHead(8, 3, moments=4), torch.randn(2, 6, 8)
    there = head(features, pre_logits=True).unflatten(1, (4, 8))
    back = head(features.flip(1), pre_logits=True).unflatten(1, (4, 8))
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None]
    torch.testing.assert_close(back, there * signs)


def test_twice_the_frames_are_the_same_moments() -> None:
    """A clip sampled more densely is the same clip: a feature that changes slowly keeps its moments."""
    head = MomentsHead(2, 3, moments=3)

    def moments(frames: int) -> torch.Tensor:
        time = (torch.arange(frames) + 0.5) / frames
        return head(torch.stack([time, 1 - time**2], -1)[None], pre_logits=True)

    torch.testing.assert_close(moments(32), moments(64), atol=0.02, rtol=0)
