"""Frames of a video by their number in presentation order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import torch

from xvit.data import torchcodec
from xvit.data.pictures import KEY_MARK, FolderStore, PackedStore, PictureVideo
from xvit.data.pyav import VideoFile
from xvit.types import VideoInfo, VideoRecord

PART_BYTES = 64_000_000  # decoded frames that wait to be scaled down


class FrameSource(Protocol):
    """A video as numbered frames; a context manager that closes what it opened."""

    info: VideoInfo

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """Exactly these frames, in this order, repeats included: uint8 (T, C, H, W), RGB, upright.

        Raises VideoReadError, or IndexError past the ends.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def open_video(
    path: str | Path,
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    fps: float | None = None,
    partial: bool = False,
) -> FrameSource:
    """Open a video file, a packed h5 (`file.h5` or `file.h5::key`) or a folder of frames.

    start_seconds, end_seconds: open only the segment `[start, end)`; its frames are numbered from 0.
    fps:     the frame rate, where the caller knows better than the file.
    partial: open what a damaged file still gives; `info` then counts the frames before the damage.
    Raises VideoReadError with path and reason.
    """
    name = os.fspath(path)
    span = {"start_seconds": start_seconds, "end_seconds": end_seconds}
    if name.partition(KEY_MARK)[0].lower().endswith((".h5", ".hdf5")):
        return PictureVideo(name, PackedStore(name), fps=fps, partial=partial, **span)
    if os.path.isdir(name):
        return PictureVideo(name, FolderStore(name), fps=fps, partial=partial, **span)
    if start_seconds is None and end_seconds is None and not partial:
        source = torchcodec.open_file(name, fps=fps)
        if source is not None:
            return source
    return VideoFile(name, fps=fps, partial=partial, **span)


def open_record(record: VideoRecord) -> FrameSource:
    """Open what a record names. Raises VideoReadError."""
    return open_video(
        record.path, start_seconds=record.start_seconds, end_seconds=record.end_seconds, fps=record.fps
    )


def frames_at_once(info: VideoInfo) -> int:
    """How many frames of a video may lie in memory at their own size: PART_BYTES of them, at least one."""
    return max(1, PART_BYTES // (3 * info.height * info.width))
