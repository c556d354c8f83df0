"""How a worker hands videos to the loader: as few uint8 frames as there are, unpacked into views on arrival.

Six float views of a video are nine times the bytes of the uint8 frames they come from, and fresh shared
memory costs more to write than the frames to decode. So a worker sends the frames and what to cut from them;
they are normalised and cut where the batch is used (with CUDA in the loader's pinning thread).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from xvit.config import ClipConfig
from xvit.data.crops import Box
from xvit.types import Batch


@dataclass
class Parcel:
    """One video on its way.

    frames:  (N, C, H, W) of 0 to 255, uint8 or float.
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
            places = np.argwhere(self.clips == number).tolist()
            if len(places) * len(self.corners) == 1:  # straight to where it is wanted
                (top, left), ((at, place),) = self.corners[0], places
                normalise(frame[:, top : top + size, left : left + size], clip, views[at, place])
                continue
            normalise(frame, clip, normalised)
            for at, place in places:
                for crop, (top, left) in enumerate(self.corners):
                    view = views[at * len(self.corners) + crop, place]
                    view.copy_(normalised[:, top : top + size, left : left + size])
        if self.erased is not None:
            top, left, height, width = self.erased
            views[..., top : top + height, left : left + width] = 0

    def same_views(self) -> list[int]:
        """For each view the first one that is cut from the same pixels: itself, or one before it.

        Clips of a video that is shorter than a clip's span hold the same frames.
        """
        cuts = [(row, corner) for row in self.clips.tolist() for corner in self.corners]
        return [cuts.index(cut) for cut in cuts]

    def __reduce__(self) -> tuple[Callable[..., Parcel], tuple[Any, ...]]:
        """Frames travel in shared memory, or through the pipe where none is to be had.

        An error here would be lost in the queue's thread, and the loader would wait for ever.
        """
        frames: torch.Tensor | np.ndarray = self.frames
        try:
            self.frames.share_memory_()
        except RuntimeError:  # /dev/shm is full, or there are too many open files
            frames = self.frames.numpy()
        return _receive, (frames, self.clips, self.corners, self.erased)


def _receive(frames: torch.Tensor | np.ndarray, *values: Any) -> Parcel:
    return Parcel(torch.as_tensor(frames), *values)


def normalise(frames: torch.Tensor, clip: ClipConfig, out: torch.Tensor) -> torch.Tensor:
    """(..., C, H, W) of 0 to 255 -> `out`, float32 (x/255 − mean)/std."""
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
        block = lend_block(shape)
        for parcel, out in zip(self.parcels, block, strict=True):
            parcel.unpack(self.clip, out)
        same = torch.tensor([parcel.same_views() for parcel in self.parcels], dtype=torch.int64)
        same = same.view(len(self.parcels), self.num_views)
        return Batch(torch.from_numpy(block), self.labels, self.index, self.failures, same)

    def __reduce__(self) -> tuple[Callable[..., Batch], tuple[Any, ...]]:
        # Small tensors are not worth shared memory: arrays go through the pipe.
        small = self.labels.numpy(), self.index.numpy()
        return _unpack, (self.clip, self.num_views, self.parcels, *small, self.failures)


_spare: list[np.ndarray] = []


def lend_block(shape: tuple[int, ...]) -> np.ndarray:
    """Memory for a batch, float32: that of an earlier batch which nobody holds any more, or fresh memory.

    The system clears fresh pages, which costs a third of what filling them does.
    """
    try:
        block = _spare.pop()
    except IndexError:  # another thread may have been faster
        block = np.empty(0)
    if block.shape != shape:
        block = np.empty(shape, np.float32)  # numpy asks for huge pages, which torch does not
    lent = block.view()
    weakref.finalize(lent, _take_back, block).atexit = False
    return lent


def _take_back(block: np.ndarray) -> None:
    _spare[:] = [block]


def _unpack(
    clip: ClipConfig,
    num_views: int,
    parcels: list[Parcel],
    labels: np.ndarray,
    index: np.ndarray,
    failures: tuple[tuple[int, str], ...],
) -> Batch:
    shipment = Shipment(clip, num_views, parcels, torch.from_numpy(labels), torch.from_numpy(index), failures)
    return shipment.unpack()
