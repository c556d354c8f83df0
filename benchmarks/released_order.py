"""The released code's order of work, to measure ours against."""

from __future__ import annotations

import io
from collections.abc import Sequence

import h5py
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from xvit.config import ClipConfig
from xvit.data.crops import random_resized_box, view_corners
from xvit.data.sampling import train_frames, view_frames
from xvit.types import VideoInfo, VideoRecord


class OneByOne(Dataset[torch.Tensor]):
    """The released code's order of work: each view decodes its own JPEGs with Pillow, then works in float."""

    def __init__(
        self, records: Sequence[VideoRecord], clip: ClipConfig, views: tuple[int, int] | None = None
    ) -> None:
        """`views` are crops×clips; None gives random training clips."""
        self.records, self.clip = records, clip
        self.num_crops, self.num_clips = views or (1, 1)
        self.train = views is None

    def __len__(self) -> int:
        return len(self.records) * self.num_crops * self.num_clips

    def __getitem__(self, item: int) -> torch.Tensor:
        """(T, C, size, size) float."""
        rng = np.random.default_rng(item)
        row, view = divmod(item, self.num_crops * self.num_clips)
        frames = torch.from_numpy(self._decode(row, view // self.num_crops, rng))
        frames = frames.permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.clip.mean, self.clip.std))
        frames, size = (frames - mean) / std, self.clip.size
        height, width = frames.shape[-2:]
        if self.train:
            top, left, h, w = random_resized_box(height, width, (0.5, 1), (0.75, 4 / 3), rng)
            frames = frames[..., top : top + h, left : left + w]
            frames = torch.nn.functional.interpolate(frames, (size, size), mode="bilinear")
            return frames.flip(-1) if rng.random() < 0.5 else frames
        scale = size / min(height, width)
        shape = (int(height * scale), int(width * scale))
        frames = torch.nn.functional.interpolate(frames, shape, mode="bilinear")
        top, left = view_corners(*shape, size, self.num_crops)[view % self.num_crops]
        return frames[..., top : top + size, left : left + size].contiguous()

    def _decode(self, row: int, clip: int, rng: np.random.Generator) -> np.ndarray:
        """(T, H, W, 3) uint8."""
        with h5py.File(self.records[row].path) as file:
            stored = file[next(iter(file))]
            info = VideoInfo(len(stored), None, 1, 1)
            if self.train:
                numbers = train_frames(info, self.clip, rng)
            else:
                numbers = view_frames(info, self.clip, self.num_clips)[clip]
            pictures = (Image.open(io.BytesIO(stored[n].tobytes())).convert("RGB") for n in numbers)
            return np.stack([np.array(picture) for picture in pictures])
