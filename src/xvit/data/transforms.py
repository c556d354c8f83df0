"""From decoded frames to the model's input: one draw a clip, the same for all its frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from xvit.config import AugmentConfig, ClipConfig


@dataclass(frozen=True)
class TrainTransform:
    """Random crop, flip and normalisation of one training clip."""

    clip: ClipConfig
    augment: AugmentConfig

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, bool]:
        """uint8 (T, C, H, W) -> float (T, C, size, size) and whether the clip was flipped."""
        frames = random_crop(frames, self.clip.size, self.augment, rng)
        flipped = rng.random() < self.augment.flip_prob
        if flipped:
            frames = F.horizontal_flip(frames)
        return normalise(frames, self.clip), flipped


@dataclass(frozen=True)
class ViewTransform:
    """The crops that a video is scored on: short side to `size`, then crops along the long side."""

    clip: ClipConfig
    num_crops: int = 1

    def __call__(self, frames: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
        """The views of a video, clips outermost, from frames that clips may share.

        frames uint8 (N, C, H, W), clips int64 (num_clips, T) rows of it ->
        float (num_clips·num_crops, T, C, size, size).
        """
        size = self.clip.size
        released = self.clip.clip_position == "released"
        if released:  # NOTE(parity): resized after normalising, without antialiasing
            frames = normalise(frames, self.clip)
        frames = resize_short_side(frames, size, antialias=not released)
        if not released:
            frames = normalise(frames, self.clip)
        height, width = frames.shape[-2:]
        corners = crop_corners(height, width, size, self.num_crops)
        views = torch.empty(len(clips) * len(corners), clips.shape[1], frames.shape[1], size, size)
        for view, (rows, (top, left)) in zip(views, product(clips, corners), strict=True):
            torch.index_select(frames[..., top : top + size, left : left + size], 0, rows, out=view)
        return views


def normalise(frames: torch.Tensor, clip: ClipConfig) -> torch.Tensor:
    """uint8 (..., C, H, W) -> float32 (x/255 − mean)/std, contiguous."""
    std = torch.tensor(clip.std).view(-1, 1, 1)
    mean = torch.tensor(clip.mean).view(-1, 1, 1)
    values = torch.empty(frames.shape, dtype=torch.float32)
    return torch.mul(frames, 1 / (255 * std), out=values).sub_(mean / std)


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


def crop_corners(height: int, width: int, size: int, num_crops: int) -> list[tuple[int, int]]:
    """(top, left) of crops spread along the long side; one crop is the centre."""
    room_y, room_x = height - size, width - size
    places = [0.5] if num_crops == 1 else [i / (num_crops - 1) for i in range(num_crops)]
    if room_x >= room_y:
        return [(math.ceil(room_y / 2), math.ceil(room_x * place)) for place in places]
    return [(math.ceil(room_y * place), math.ceil(room_x / 2)) for place in places]


def random_crop(
    frames: torch.Tensor, size: int, augment: AugmentConfig, rng: np.random.Generator
) -> torch.Tensor:
    """uint8 (T, C, H, W) -> uint8 (T, C, size, size), as `augment.crop` says."""
    height, width = frames.shape[-2:]
    if augment.crop == "none":
        frames = resize_short_side(frames, size)
        height, width = frames.shape[-2:]
        top, left = crop_corners(height, width, size, 1)[0]
        return frames[..., top : top + size, left : left + size]
    top, left, h, w = resized_crop_box(height, width, augment.scale, augment.ratio, rng)
    return F.resized_crop(frames, top, left, h, w, [size, size], InterpolationMode.BILINEAR, antialias=True)


def resized_crop_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a box with a random share of the area and a random aspect ratio.

    Ten draws; after them the largest centred box within the ratios.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    return (height - h) // 2, (width - w) // 2, h, w
