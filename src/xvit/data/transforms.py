"""From decoded frames to the model's input: one draw a clip, the same for all its frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from xvit.config import AugmentConfig, ClipConfig
from xvit.data.augment import autoaugment, color_jitter, randaugment
from xvit.data.crops import erase_box, train_box, view_corners
from xvit.data.parcel import Parcel
from xvit.errors import ConfigError


@dataclass(frozen=True)
class TrainTransform:
    """What training does to a clip, in this order: auto-augmentation, crop, colour, flip, normalise, erase.

    Raises ConfigError for a jitter that would need more of the frames than there is.
    """

    clip: ClipConfig
    augment: AugmentConfig

    def __post_init__(self) -> None:
        low, high = self.augment.jitter_sides
        if self.augment.crop == "jitter" and not self.clip.size <= low <= high:
            raise ConfigError(
                f"data.augment.jitter_sides must be two rising sides from data.size={self.clip.size}, "
                f"got {low}, {high}"
            )

    def __call__(
        self, frames: torch.Tensor, clips: np.ndarray, rng: np.random.Generator
    ) -> tuple[Parcel, bool]:
        """uint8 frames (N, C, H, W) of one clip, clips (1, T) -> the clip, and whether it was flipped."""
        augment, size = self.augment, self.clip.size
        if augment.auto == "autoaugment":
            frames = autoaugment(frames, rng)
        elif augment.auto == "randaugment":
            frames = randaugment(
                frames, rng, ops=augment.randaugment_ops, magnitude=augment.randaugment_magnitude
            )
        height, width = frames.shape[-2:]
        box = train_box(height, width, size, augment, rng)
        frames = F.resized_crop(frames, *box, [size, size], InterpolationMode.BILINEAR, antialias=True)
        if augment.color_jitter:
            frames = color_jitter(frames, rng, augment.color_jitter)
        flipped = rng.random() < augment.flip_prob
        if flipped:
            frames = F.horizontal_flip(frames)
        erased = None
        if augment.erase_prob and rng.random() < augment.erase_prob:
            erased = erase_box(size, size, rng)
        return Parcel(frames, clips, [(0, 0)], erased), flipped


@dataclass(frozen=True)
class ViewTransform:
    """The crops that a video is scored on: short side to `size`, then crops along the long side."""

    clip: ClipConfig
    num_crops: int = 1

    def __call__(self, frames: torch.Tensor, clips: np.ndarray) -> Parcel:
        """uint8 frames (N, C, H, W), clips (num_clips, T) rows of them -> the views of a video."""
        return self.cut(self.resize(frames), clips)

    def resize(self, frames: torch.Tensor) -> torch.Tensor:
        """The first half, each frame by itself: uint8 (N, C, H, W) -> with the short side `size`."""
        released = self.clip.clip_position == "released"
        if released:  # NOTE(parity): resized as floats, without antialiasing
            frames = frames.float()
        return resize_short_side(frames, self.clip.size, antialias=not released)

    def cut(self, frames: torch.Tensor, clips: np.ndarray) -> Parcel:
        """The second half: frames from `resize` -> the views."""
        height, width = frames.shape[-2:]
        return Parcel(frames, clips, view_corners(height, width, self.clip.size, self.num_crops))


def resize_short_side(frames: torch.Tensor, size: int, *, antialias: bool = True) -> torch.Tensor:
    """Bilinear, keeping the aspect ratio; the long side is rounded down."""
    height, width = frames.shape[-2:]
    if min(height, width) == size:
        return frames
    if height <= width:
        shape = [size, max(math.floor(width / height * size), size)]
    else:
        shape = [max(math.floor(height / width * size), size), size]
    return F.resize(frames, shape, InterpolationMode.BILINEAR, antialias=antialias)
