"""The moments head: what it starts as, and that it can tell first from last."""

from __future__ import annotations

import torch

from xvit.models.heads import MomentsHead


def test_starts_on_the_mean() -> None:
    head, features = MomentsHead(8, 3), torch.randn(2, 5, 8)
    torch.testing.assert_close(head(features), features.mean(1) @ head.fc.weight[:, :8].T + head.fc.bias)


def test_standardised_over_clips() -> None:
    head, features = MomentsHead(8, 3), torch.randn(50, 5, 8) * 7 + 3
    head.standardise(features)
    deviation, mean = torch.std_mean(head(features, pre_logits=True), dim=0)
    torch.testing.assert_close(mean, torch.zeros(24), atol=1e-4, rtol=0)
    torch.testing.assert_close(deviation, torch.ones(24), atol=1e-3, rtol=0)


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
