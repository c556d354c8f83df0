"""What frames see of each other."""

from __future__ import annotations

import pytest
import torch

from xvit.config import ClipConfig, Mixing, ModelConfig
from xvit.models import XViT, build_model

SMALL = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}


def small_model(frames: int = 8, depth: int = 3, **config: object) -> XViT:
    values = {"temporal_embedding": "none", "head": "mean", **config}
    model = ModelConfig.model_validate(
        {"name": "vit_tiny_patch16_224", "backbone_args": SMALL | {"depth": depth}, **values}
    )
    return build_model(model, num_classes=5, clip=ClipConfig(num_frames=frames, size=16)).eval()


def moved_frames(model: XViT, frame: int, frames: int = 8) -> set[int]:
    """The frames whose features change when the pixels of one frame do."""
    clip = torch.randn(1, frames, 3, 16, 16)
    other = clip.clone()
    other[:, frame] += torch.randn(3, 16, 16)
    with torch.no_grad():
        change = (model.forward_features(clip) - model.forward_features(other)).abs().amax((0, 2))
    return set(change.nonzero().flatten().tolist())


@pytest.mark.parametrize("layout", ["heads", "channels"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("window", [0, 1, 2])
def test_receptive_field(layout: str, depth: int, window: int) -> None:
    model = small_model(depth=depth, mixing=Mixing(window=window, layout=layout))
    for frame in (0, 4, 7):
        reach = range(frame - depth * window, frame + depth * window + 1)
        assert moved_frames(model, frame) == {t for t in reach if 0 <= t < 8}


def test_receptive_field_within_groups() -> None:
    model = small_model(mixing=Mixing(group=4))
    assert moved_frames(model, 3) == {0, 1, 2, 3}
    assert moved_frames(model, 4) == {4, 5, 6, 7}


def test_causal_mixing_sees_no_later_frame() -> None:
    model = small_model(depth=2, mixing=Mixing(causal=True))
    assert moved_frames(model, 4) == {4, 5, 6}


def test_group_that_does_not_divide_the_clip() -> None:
    model = small_model(mixing=Mixing(group=4))
    with pytest.raises(ValueError, match="6 frames cannot be mixed in groups of 4"):
        model(torch.zeros(1, 6, 3, 16, 16))
