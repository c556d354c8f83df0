"""Augmentation: the published policy, one draw for all frames, and boxes that stay inside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from xvit.config import AugmentConfig, ClipConfig
from xvit.data.augment import AUTOAUGMENT_V0, OPERATIONS, autoaugment, randaugment
from xvit.data.crops import erase_box, multi_scale_box, train_box
from xvit.data.transforms import TrainTransform
from xvit.errors import ConfigError


def clip(frames: int = 3, height: int = 48, width: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8).expand(frames, -1, -1, -1)


def transformed(transform: TrainTransform, frames: torch.Tensor, seed: int) -> torch.Tensor:
    """The clip of all `frames`, float (T, C, size, size)."""
    size = transform.clip.size
    out = np.empty((1, len(frames), 3, size, size), np.float32)
    parcel, _ = transform(frames, np.arange(len(frames))[None], np.random.default_rng(seed))
    parcel.unpack(transform.clip, out)
    return torch.from_numpy(out[0])


def test_the_policy_is_timms() -> None:
    """timm keeps the same published table for single pictures."""
    from timm.data.auto_augment import auto_augment_policy_v0

    theirs = auto_augment_policy_v0({})
    assert len(AUTOAUGMENT_V0) == len(theirs) == 25
    for ours, pair in zip(AUTOAUGMENT_V0, theirs, strict=True):
        for (name, probability, level), op in zip(ours, pair, strict=True):
            assert (name, probability, level) == (op.name.removesuffix("Rel"), op.prob, op.magnitude)


@pytest.mark.parametrize("name", ["AutoContrast", "Equalize", "Invert", "Color", "Solarize", "SolarizeAdd"])
def test_operations_agree_with_timms_on_a_picture(name: str) -> None:
    from timm.data.auto_augment import AugmentOp

    smooth = np.add.outer(np.arange(48), np.arange(64))[..., None] * [1, 2, 1] % 200 + 20
    picture = smooth.astype(np.uint8)
    theirs = np.array(AugmentOp(name, prob=1.0, magnitude=6)(Image.fromarray(picture)))
    ours = OPERATIONS[name](torch.from_numpy(picture).permute(2, 0, 1)[None], 6, 1)[0].permute(1, 2, 0)
    assert np.abs(ours.numpy().astype(int) - theirs.astype(int)).max() <= 2


@pytest.mark.parametrize("name", sorted(OPERATIONS))
@pytest.mark.parametrize("level", [0, 2, 10])
def test_operations_treat_all_frames_alike(name: str, level: int) -> None:
    for sign in (1, -1):
        changed = OPERATIONS[name](clip(), level, sign)
        assert changed.dtype == torch.uint8
        assert changed.shape == clip().shape
        assert torch.equal(changed[0], changed[2])


def test_auto_policies_repeat_with_their_generator() -> None:
    frames = clip()
    for policy in (autoaugment, lambda x, rng: randaugment(x, rng, ops=2, magnitude=9)):
        draws = [policy(frames, np.random.default_rng(seed)) for seed in range(30)]
        again = [policy(frames, np.random.default_rng(seed)) for seed in range(30)]
        assert all(torch.equal(a, b) for a, b in zip(draws, again, strict=True))
        assert len({d.numpy().tobytes() for d in draws}) > 15


@given(
    st.integers(8, 400),
    st.integers(8, 400),
    st.sampled_from(["random_resized", "multi_scale", "jitter", "none"]),
    st.integers(0, 2**32),
)
def test_boxes_stay_inside(height: int, width: int, crop: str, seed: int) -> None:
    augment = AugmentConfig.model_validate({"crop": crop})
    top, left, h, w = train_box(height, width, 224, augment, np.random.default_rng(seed))
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert min(h, w) > 0


def test_multi_scale_boxes() -> None:
    rng = np.random.default_rng(0)
    boxes = {multi_scale_box(256, 340, rng) for _ in range(5000)}
    sides = [256, 224, 192, 168]
    assert {(h, w) for _, _, h, w in boxes} == {
        (h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1
    }
    assert len({(top, left) for top, left, h, w in boxes if (h, w) == (192, 192)}) == 13


def test_erase_boxes() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([erase_box(100, 100, rng) for _ in range(500)])
    assert (boxes[:, :2] + boxes[:, 2:]).max() <= 100
    shares = boxes[:, 2] * boxes[:, 3] / 1e4
    assert 0.015 < shares.min() < 0.05
    assert 0.25 < shares.max() < 0.35


def test_erasing_fills_one_box_of_all_frames() -> None:
    augment = AugmentConfig(crop="none", flip_prob=0, erase_prob=1)
    config = ClipConfig(size=48, mean=(-1, -1, -1))  # so that nothing else is 0
    values = transformed(TrainTransform(config, augment), clip(), seed=4)
    zero = values[:, 0] == 0
    assert torch.equal(zero[0], zero[2])
    assert zero[0].sum() == zero[0].any(0).sum() * zero[0].any(1).sum() > 0


@pytest.mark.parametrize(
    "recipe",
    [
        {"crop": "multi_scale", "auto": "autoaugment"},
        {
            "crop": "jitter",
            "jitter_sides": (36, 48),
            "auto": "autoaugment",
            "flip_prob": 0,
            "erase_prob": 0.5,
        },
        {"crop": "random_resized", "auto": "randaugment", "color_jitter": 0.4},
    ],
)
def test_recipes_draw_once_a_clip(recipe: dict[str, object]) -> None:
    transform = TrainTransform(ClipConfig(size=32), AugmentConfig.model_validate(recipe))
    frames = clip()
    for seed in range(20):
        values = transformed(transform, frames, seed)
        assert torch.equal(values[0], values[2])


def test_jitter_sides_reach_the_crop() -> None:
    with pytest.raises(ConfigError, match=r"jitter_sides must be two rising sides from data.size=224"):
        TrainTransform(ClipConfig(size=224), AugmentConfig(crop="jitter", jitter_sides=(200, 320)))
