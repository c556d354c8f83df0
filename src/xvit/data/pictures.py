"""Videos stored as pictures: a packed h5 of JPEGs, or a folder of frames."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self

import h5py
import numpy as np
import simplejpeg
import torch
from PIL import Image

from xvit.errors import VideoReadError
from xvit.types import VideoInfo

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
_JPEG = b"\xff\xd8"
_READ_TOGETHER = 64  # encoded frames in memory
KEY_MARK = "::"  # `file.h5::key` is one video of a file that holds many


class PictureStore(Protocol):
    """Encoded frames by number."""

    fps: float | None

    def __len__(self) -> int: ...

    def load(self, numbers: Sequence[int]) -> Iterable[bytes]:
        """The bytes of frames whose numbers rise."""
        ...

    def close(self) -> None: ...


class PictureVideo:
    """Encoded frames as a FrameSource."""

    def __init__(
        self,
        path: str,
        store: PictureStore,
        *,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        fps: float | None = None,
        partial: bool = False,
    ) -> None:
        """Raises VideoReadError. `fps` is the rate where the store knows none; segments need one."""
        self.path = path
        self._store = store
        self.decoded_frames = 0
        fps = fps or store.fps
        self._first, last = 0, len(store)
        if start_seconds is not None or end_seconds is not None:
            if fps is None:
                raise VideoReadError(path, "a segment in seconds needs the frame rate of these frames")
            self._first = round((start_seconds or 0) * fps)
            last = last if end_seconds is None else min(round(end_seconds * fps), last)
        if last <= self._first:
            raise VideoReadError(path, "no frames")
        height, width = self._size(0)
        self.info = VideoInfo(last - self._first, fps, height, width)
        if partial:
            self.info = VideoInfo(self._count_sound(), fps, height, width)

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """See FrameSource.read. The memory lies as (T, H, W, C)."""
        wanted = [int(i) for i in indices]
        if wanted and not 0 <= min(wanted) <= max(wanted) < self.info.num_frames:
            raise IndexError(f"{self.path} has frames 0 to {self.info.num_frames - 1}, asked for {wanted}")
        out = np.empty((len(wanted), self.info.height, self.info.width, 3), np.uint8)
        first: dict[int, int] = {}
        for row, number in enumerate(wanted):
            first.setdefault(number, row)
        numbers = sorted(first)
        for number, data in zip(numbers, self._load(numbers), strict=True):
            self._draw(number, data, out[first[number]])
        for row, number in enumerate(wanted):
            if first[number] != row:
                out[row] = out[first[number]]
        return torch.from_numpy(out).permute(0, 3, 1, 2)

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _count_sound(self) -> int:
        count = 0
        try:
            while count < self.info.num_frames:
                self._decode(count, next(self._load([count])))
                count += 1
        except VideoReadError:
            return count
        return count

    def _size(self, number: int) -> tuple[int, int]:
        """Height and width of a stored frame; a JPEG's header says them."""
        (data,) = self._load([number])
        try:
            if data[:2] == _JPEG:
                height, width = simplejpeg.decode_jpeg_header(data)[:2]
                return height, width
        except ValueError as err:
            raise VideoReadError(self.path, f"frame {number} is not a picture: {err}") from err
        height, width = self._decode(number, data).shape[:2]
        return height, width

    def _draw(self, number: int, data: bytes, out: np.ndarray) -> None:
        """Write a frame to (H, W, 3); another size than the first frame's is scaled to it."""
        pixels = self._decode(number, data, out)
        if np.may_share_memory(pixels, out):
            return
        if pixels.shape != out.shape:
            pixels = np.asarray(Image.fromarray(pixels).resize(out.shape[1::-1], Image.Resampling.BILINEAR))
        out[:] = pixels

    def _decode(self, number: int, data: bytes, out: np.ndarray | None = None) -> np.ndarray:
        """The pixels of a stored frame, in `out` itself where they fit."""
        self.decoded_frames += 1
        try:
            if data[:2] == _JPEG:
                fits = out is not None and simplejpeg.decode_jpeg_header(data)[:2] == out.shape[:2]
                return simplejpeg.decode_jpeg(data, "RGB", buffer=out if fits else None)
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        except (ValueError, OSError, SyntaxError) as err:
            raise VideoReadError(self.path, f"frame {number} is not a picture: {err}") from err

    def _load(self, numbers: Sequence[int]) -> Iterator[bytes]:
        """The bytes of frames whose numbers rise, read a few dozen at a time."""
        for start in range(0, len(numbers), _READ_TOGETHER):
            some = numbers[start : start + _READ_TOGETHER]
            try:
                yield from self._store.load([self._first + number for number in some])
            except OSError as err:
                where = f"frames {some[0]} to {some[-1]}" if len(some) > 1 else f"frame {some[0]}"
                raise VideoReadError(self.path, f"{where} cannot be read: {err}") from err


class PackedStore:
    """A dataset of byte strings in an h5: `file.h5::key`, or the first key of `file.h5`."""

    def __init__(self, path: str) -> None:
        """Raises VideoReadError."""
        file, _, key = path.partition(KEY_MARK)
        try:
            self._file = h5py.File(file, "r")
        except OSError as err:
            reason = "no such file" if not os.path.exists(file) else f"not a readable h5: {err}"
            raise VideoReadError(path, reason) from err
        try:
            self._frames = self._file[key or next(iter(self._file), "")]
        except (KeyError, ValueError) as err:
            self._file.close()
            raise VideoReadError(path, f"no key {key!r} in this h5" if key else "an empty h5") from err
        if not isinstance(self._frames, h5py.Dataset):
            self._file.close()
            raise VideoReadError(path, "holds no list of frames")
        rate = self._frames.attrs.get("fps")
        self.fps = None if rate is None else float(rate)

    def __len__(self) -> int:
        return len(self._frames)

    def load(self, numbers: Sequence[int]) -> Iterable[bytes]:
        """The bytes of frames, from one reading: each call into HDF5 costs as much as a few kilobytes."""
        frames = self._frames[list(numbers)]
        return (frame.tobytes() if isinstance(frame, np.ndarray) else bytes(frame) for frame in frames)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class FolderStore:
    """The pictures of a folder, ordered by the numbers in their names."""

    fps: float | None = None

    def __init__(self, path: str) -> None:
        try:
            names = [name for name in os.listdir(path) if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
        except OSError as err:
            raise VideoReadError(path, str(err.strerror)) from err
        self._files = [Path(path, name) for name in sorted(names, key=_natural)]

    def __len__(self) -> int:
        return len(self._files)

    def load(self, numbers: Sequence[int]) -> Iterable[bytes]:
        """The bytes of frames."""
        return (self._files[number].read_bytes() for number in numbers)

    def close(self) -> None:
        """Nothing is held open."""


def _natural(name: str) -> tuple[int, str]:
    """img_9.jpg before img_10.jpg: the last number of a name, then the name."""
    numbers = re.findall(r"\d+", os.path.splitext(name)[0])
    return int(numbers[-1]) if numbers else -1, name
