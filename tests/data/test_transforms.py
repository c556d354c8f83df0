"""Crops and resizes: the released code's table, and one draw for all frames of a clip."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from xvit.config import AugmentConfig, ClipConfig
from xvit.data.transforms import TrainTransform, ViewTransform

RELEASED = ClipConfig(num_frames=2, clip_position="released")


def released_input(height: int, width: int) -> torch.Tensor:
    """The table's input as frames (T, C, H, W) float32."""
    wave = np.sin(0.61803398875 * np.arange(3 * 2 * height * width, dtype=np.float64)).astype(np.float32)
    return torch.from_numpy(wave).view(3, 2, height, width).transpose(0, 1)


def test_released_crops(shared: Path) -> None:
    for row in json.loads((shared / "oracle" / "index.json").read_text())["spatial_views"]:
        as_it_is = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
        clip = RELEASED.model_copy(update={"size": row["crop"], **as_it_is})
        views = torch.empty(3, 2, 3, row["crop"], row["crop"])
        frames = released_input(row["height"], row["width"])
        ViewTransform(clip, 3)(frames, np.array([[0, 1]])).unpack(clip, views.numpy())
        view = views[row["view"]]
        torch.testing.assert_close(view[0, 0, :3, :3], torch.tensor(row["corner"]))
        torch.testing.assert_close(view[-1, -1, -3:, -3:], torch.tensor(row["far_corner"]))
        assert view.mean().item() == pytest.approx(row["mean"], abs=1e-6)
        assert view.std().item() == pytest.approx(row["std"], abs=1e-6)


def test_crops_lie_along_the_long_side() -> None:
    frames = torch.arange(90, dtype=torch.uint8).expand(1, 3, 30, 90)
    clip = ClipConfig(num_frames=1, size=30, mean=(0, 0, 0), std=(1, 1, 1))
    for tensor in (frames, frames.transpose(2, 3)):
        views = torch.empty(4, 1, 3, 30, 30)
        ViewTransform(clip, 4)(tensor, np.array([[0]])).unpack(clip, views.numpy())
        views *= 255
        assert views.amin((1, 2, 3, 4)).round().tolist() == [0, 20, 40, 60]
        assert views.amax((1, 2, 3, 4)).round().tolist() == [29, 49, 69, 89]


def test_a_draw_is_its_generators() -> None:
    frames = torch.randint(0, 255, (4, 3, 40, 60), dtype=torch.uint8)
    transform = TrainTransform(ClipConfig(size=24), AugmentConfig())
    first, again, other = (
        transform(frames, np.arange(4)[None], np.random.default_rng(seed))[0].frames for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
