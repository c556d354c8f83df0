"""Frames of a video by their number in presentation order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import torch

from xvit.data.pyav import VideoFile
from xvit.types import VideoInfo


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
    partial: bool = False,
) -> FrameSource:
    """Open a video file, or the segment `[start_seconds, end_seconds)` of it.

    `partial` opens what a damaged file still gives: `info` then counts the frames before the damage.
    Raises VideoReadError with path and reason.
    """
    return VideoFile(os.fspath(path), start_seconds=start_seconds, end_seconds=end_seconds, partial=partial)
