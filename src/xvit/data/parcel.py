"""How a worker hands videos to the loader: as few uint8 frames as there are, unpacked into views on arrival.

Six float views of a video are nine times the bytes of the uint8 frames they come from, and fresh shared
memory costs more to write than the frames to decode. So a worker sends the frames and what to cut from them;
they are normalised and cut where the batch is used (with CUDA in the loader's pinning thread).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from xvit.config import ClipConfig
from xvit.data.crops import Box
from xvit.types import Batch


@dataclass
class Parcel:
    """One video on its way.

    frames:  (N, C, H, W) uint8; or float, normalised already.
    clips:   (num_clips, T) rows of `frames`.
    corners: (top, left) of each size × size crop.
    erased:  a box of every crop that becomes 0.
    """

    frames: torch.Tensor
    clips: np.ndarray
    corners: list[tuple[int, int]]
    erased: Box | None = None

    def unpack(self, clip: ClipConfig, out: np.ndarray) -> None:
        """Write the views, clips outermost, to `out`, float (num_clips·num_crops, T, C, size, size)."""
        size, views = clip.size, torch.from_numpy(out)
        normalised = torch.empty(self.frames.shape[1:])  # one frame's, which stays in the cache
        for number, frame in enumerate(self.frames):
            wide = normalise(frame, clip, normalised) if frame.dtype == torch.uint8 else frame
            for at, place in np.argwhere(self.clips == number).tolist():
                for crop, (top, left) in enumerate(self.corners):
                    view = views[at * len(self.corners) + crop, place]
                    view.copy_(wide[:, top : top + size, left : left + size])
        if self.erased is not None:
            top, left, height, width = self.erased
            views[..., top : top + height, left : left + width] = 0


def normalise(frames: torch.Tensor, clip: ClipConfig, out: torch.Tensor | None = None) -> torch.Tensor:
    """uint8 (..., C, H, W) -> float32 (x/255 − mean)/std, contiguous, in `out` where that is given."""
    if out is None:
        out = torch.empty(frames.shape)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (clip.mean, clip.std))
    return out.copy_(frames).mul_(1 / (255 * std)).sub_(mean / std)


@dataclass
class Shipment:
    """A batch on its way: pickled as parcels, unpickled as a Batch."""

    clip: ClipConfig
    num_views: int
    parcels: list[Parcel]
    labels: torch.Tensor
    index: torch.Tensor
    failures: tuple[tuple[int, str], ...]

    def unpack(self) -> Batch:
        """The batch, in one block of fresh memory."""
        size = self.clip.size
        shape = (len(self.parcels), self.num_views, self.clip.num_frames, 3, size, size)
        block = np.empty(shape, np.float32)  # numpy asks for huge pages, which torch does not
        for parcel, out in zip(self.parcels, block, strict=True):
            parcel.unpack(self.clip, out)
        return Batch(torch.from_numpy(block), self.labels, self.index, self.failures)

    def __reduce__(self) -> tuple[Callable[..., Batch], tuple[Any, ...]]:
        return _unpack, tuple(getattr(self, field.name) for field in fields(self))


def _unpack(*values: Any) -> Batch:
    return Shipment(*values).unpack()
