"""Video files through TorchCodec (the extra `torchcodec`), where it gives the very pixels PyAV gives.

Everything else stays with PyAV: other containers, deeper or turned pictures, variable rates, segments,
several streams and damaged files.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch.utils.data import get_worker_info

from xvit.errors import VideoReadError
from xvit.types import VideoInfo

_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm"}
# Pictures of more than 8 bits are reduced in another way than FFmpeg's scaler reduces them.
_PIXEL_FORMATS = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "rgb24"}


@functools.cache
def video_decoder() -> Any:
    """TorchCodec's VideoDecoder; None where it is not installed or finds no FFmpeg to load."""
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError):
        return None
    return VideoDecoder if getattr(torchcodec, "ffmpeg_major_version", None) else None


def open_file(path: str, *, fps: float | None = None) -> TorchCodecFile | None:
    """Open a file with TorchCodec; None where it is not there or PyAV should read this file."""
    decoder_class = video_decoder()
    if decoder_class is None or os.path.splitext(path)[1].lower() not in _SUFFIXES:
        return None
    threads = 0 if get_worker_info() is None else 1
    try:
        decoder = decoder_class(path, dimension_order="NHWC", num_ffmpeg_threads=threads, seek_mode="exact")
    except (RuntimeError, ValueError):
        return None  # PyAV says what is wrong with it
    about = decoder.metadata
    if about.rotation is not None:
        return None  # a display matrix may mirror, too
    if about.stream_index != 0 or about.pixel_format not in _PIXEL_FORMATS or not about.num_frames:
        return None
    header, counted = about.average_fps_from_header, about.average_fps
    if header is None or counted is None or abs(header - counted) > 0.01 * counted:
        return None  # a variable rate, or a cut file
    return TorchCodecFile(path, decoder, fps or header)


def _reason(err: RuntimeError) -> str:
    """Its first line without the place in TorchCodec's source."""
    return re.sub(r"^.*\.cpp:\d+, ", "", str(err).strip().partition("\n")[0])


class TorchCodecFile:
    """A video file as a FrameSource."""

    def __init__(self, path: str, decoder: Any, fps: float) -> None:
        self.path = path
        self._decoder = decoder
        about = decoder.metadata
        self.info = VideoInfo(about.num_frames, fps, about.height, about.width)

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """See FrameSource.read. The memory lies as (T, H, W, C)."""
        wanted = [int(i) for i in indices]
        if wanted and not 0 <= min(wanted) <= max(wanted) < self.info.num_frames:
            raise IndexError(f"{self.path} has frames 0 to {self.info.num_frames - 1}, asked for {wanted}")
        if not wanted:
            return torch.empty(0, 3, self.info.height, self.info.width, dtype=torch.uint8)
        try:
            frames = self._decoder.get_frames_at(wanted).data
        except RuntimeError as err:
            raise VideoReadError(self.path, f"damaged: {_reason(err)}") from err
        return frames.permute(0, 3, 1, 2)

    def close(self) -> None:
        """Let go of the decoder."""
        self._decoder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
