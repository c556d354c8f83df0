"""Video files through PyAV, whose wheels bring FFmpeg along."""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from xvit.data.packets import PacketIndex, read_packets
from xvit.errors import VideoReadError
from xvit.types import VideoInfo

if TYPE_CHECKING:
    import torch

# Decoding this many frames on costs less than a seek, which empties the decoder.
SEEK_GAP = 8

# What matters is raised here; FFmpeg would print it to stderr as well. Its own level and not PyAV's: that one
# installs a Python callback, and a decoder thread that logs while the main thread frees it waits for ever.
av.logging.set_libav_level(av.logging.PANIC)


class Decoder:
    """The frames of the default video stream of a file, one after the other."""

    def __init__(self, path: str) -> None:
        """Raises VideoReadError."""
        self.path = path
        self.decoded = 0
        self._open()

    def _open(self) -> None:
        with naming_errors(self.path):
            self.container = av.open(self.path)
        self.stream = choose_stream(self.container, self.path)
        # A loader worker has one core; decoder threads would fight over it.
        if _in_loader_worker():
            self.stream.codec_context.thread_count = 1
        else:
            self.stream.thread_type = "AUTO"
        self._frames = self.container.decode(self.stream)

    def next(self) -> av.VideoFrame | None:
        """The next frame in presentation order, None at the end. Raises VideoReadError."""
        with naming_errors(self.path, f"damaged after {self.decoded} decoded frames"):
            frame = next(self._frames, None)
        self.decoded += frame is not None
        return frame

    def seek(self, time: int) -> None:
        """Go on from the keyframe at or before `time` (units of the stream). Raises VideoReadError."""
        with naming_errors(self.path, "cannot seek"):
            self.container.seek(time, stream=self.stream)
        self._frames = self.container.decode(self.stream)

    def restart(self) -> None:
        """Go on from the first frame, also where seeking is not exact. Raises VideoReadError."""
        self.close()
        self._open()

    def close(self) -> None:
        """Close the file."""
        self.container.close()


def _in_loader_worker() -> bool:
    loading = sys.modules.get("torch.utils.data")  # not imported here: decoding alone needs no torch
    return loading is not None and loading.get_worker_info() is not None


def choose_stream(container: av.container.InputContainer, path: str) -> av.VideoStream:
    """The default video stream. Closes the container and raises VideoReadError where there is none."""
    streams = container.streams.video
    if not streams:
        container.close()
        raise VideoReadError(path, "no video stream")
    default = av.stream.Disposition.default
    return next((s for s in streams if s.disposition & default), streams[0])


def draw_rgb(
    frame: av.VideoFrame, reformatter: VideoReformatter, size: tuple[int, int], upright: Upright
) -> np.ndarray:
    """A frame scaled to (width, height) and then turned upright, (H, W, 3) uint8 RGB."""
    width, height = size
    rgb = reformatter.reformat(frame, width, height, "rgb24", threads=1)
    rows = np.frombuffer(memoryview(rgb.planes[0]), np.uint8).reshape(height, -1)
    pixels = rows[:, : 3 * width].reshape(height, width, 3)
    return upright.show(pixels)


@contextmanager
def naming_errors(path: str, what: str = "not a readable video") -> Iterator[None]:
    """FFmpeg's errors as VideoReadError with the path."""
    try:
        yield
    except FileNotFoundError as err:
        raise VideoReadError(path, "no such file") from err
    except av.error.ExitError as err:  # PyAV's timeout, set for live sources
        raise VideoReadError(path, f"{what}: no data") from err
    except av.FFmpegError as err:
        raise VideoReadError(path, f"{what}: {err.strerror}") from err
    except (ValueError, MemoryError, OverflowError) as err:
        raise VideoReadError(path, f"{what}: {err}") from err


class Upright(NamedTuple):
    """How a stored picture is shown: perhaps transposed, then perhaps its rows or columns reversed."""

    transposed: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Upright:
        """What the frame's display matrix asks for, to the nearest quarter turn, mirrored or not.

        The matrix takes a stored (x, y) to the shown (ax + cy, bx + dy).
        """
        stored = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
        if stored is None:
            return cls()
        a, b, _, c, d = np.frombuffer(bytes(stored), np.int32)[:5].tolist()
        if abs(b) > abs(a):
            return cls(True, b < 0, c < 0)
        return cls(False, d < 0, a < 0)

    def show(self, pixels: np.ndarray) -> np.ndarray:
        """A stored (H, W, 3) as it is shown."""
        pixels = pixels.swapaxes(0, 1) if self.transposed else pixels
        rows, columns = (slice(None, None, -1 if back else 1) for back in self[1:])
        return pixels[rows, columns]


class VideoFile:
    """A video file as a FrameSource. It decodes on from where it stands, and seeks where that is cheaper."""

    def __init__(
        self,
        path: str,
        *,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        fps: float | None = None,
        partial: bool = False,
    ) -> None:
        """Raises VideoReadError. See `xvit.data.open_video`."""
        self.path = path
        self._decoder = Decoder(path)
        self._reformatter = VideoReformatter()
        self._next = 0  # number of the frame the decoder gives next
        self._held: tuple[int, av.VideoFrame] | None = None  # the frame it gave last
        try:
            index = self._read_packets(start_seconds, end_seconds, partial)
            self.cut = index.cut  # a packet is incomplete; what decodes is still given
            self._times, self._keyframes, self._skipped = index.times, index.keyframes, index.skipped
            count = index.count
            self._rewind()
            if self._times:
                lost = self._find_first()
                count = None if count is None else count - lost
            if partial or count is None:
                count = self._count_frames(count, end_seconds, partial)
            first = self._frame(0) if count else None
            if first is None or count is None:
                raise VideoReadError(path, "no frame can be decoded")
        except VideoReadError:
            self.close()
            raise
        self._size = first.width, first.height
        self._upright = Upright.of(first)
        width, height = self._size[::-1] if self._upright.transposed else self._size
        self.info = VideoInfo(count, fps or index.fps, height, width)

    @property
    def decoded_frames(self) -> int:
        """Frames decoded so far, counting ones included; tests of cost look at it."""
        return self._decoder.decoded

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """See FrameSource.read. The memory lies as (T, H, W, C)."""
        import torch

        return torch.from_numpy(self.draw(indices)).permute(0, 3, 1, 2)

    def draw(self, indices: Sequence[int]) -> np.ndarray:
        """The same frames as they lie in memory: (T, H, W, C)."""
        wanted = [int(i) for i in indices]
        if wanted and not 0 <= min(wanted) <= max(wanted) < self.info.num_frames:
            raise IndexError(f"{self.path} has frames 0 to {self.info.num_frames - 1}, asked for {wanted}")
        out = np.empty((len(wanted), self.info.height, self.info.width, 3), np.uint8)
        rows: dict[int, int] = {}
        for row in sorted(range(len(wanted)), key=wanted.__getitem__):
            number = wanted[row]
            if number in rows:
                out[row] = out[rows[number]]
                continue
            frame = self._frame(number)
            if frame is None:
                reason = f"ends after {self._next} of the {self.info.num_frames} frames its packets announce"
                raise VideoReadError(self.path, reason)
            self._draw(frame, out[row])
            rows[number] = row
        return out

    def close(self) -> None:
        """Close the file."""
        self._held = None
        self._decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read_packets(self, start: float | None, end: float | None, partial: bool) -> PacketIndex:
        try:
            with naming_errors(self.path, "damaged"):
                return read_packets(self._decoder.container, self._decoder.stream, start, end)
        except VideoReadError:
            if not partial:
                raise
            return PacketIndex(None, [], [], 0, None)

    def _count_frames(self, known: int | None, end: float | None, partial: bool) -> int:
        """The number of frames that can be decoded, up to the first damage where `partial`."""
        stream = self._decoder.stream
        limit = None if end is None else end + float((stream.start_time or 0) * stream.time_base)
        count = 0
        try:
            while known is None or count < known:
                frame = self._frame(count)
                if frame is None or (limit is not None and frame.time is not None and frame.time >= limit):
                    break
                count += 1
        except VideoReadError:
            if not partial:
                raise
        return count

    def _find_first(self) -> int:
        """Forget times before the first frame that decodes; a stream cut in mid-group lacks those frames."""
        lost = -1
        while lost < 0:
            frame = self._decoder.next()
            if frame is None:
                raise VideoReadError(self.path, "no frame can be decoded")
            lost = self._number(frame)
        self._times = self._times[lost:]
        self._next, self._held = 1, (0, frame)
        return lost

    def _frame(self, number: int) -> av.VideoFrame | None:
        """Frame `number`, None where the stream ends before it. Raises VideoReadError."""
        if self._held is not None and self._held[0] == number:
            return self._held[1]
        self._approach(number)
        while (frame := self._decoder.next()) is not None:
            here = self._number(frame)
            self._next = here + 1
            if here == number:
                self._held = number, frame
                return frame
            if here > number and len(self._keyframes) > 1:  # the seek came out late: never seek again here
                self._keyframes = self._keyframes[:1]
                self._rewind()
            elif here > number:
                raise VideoReadError(self.path, f"frame {number} is missing: damaged before frame {here}")
        return None

    def _number(self, frame: av.VideoFrame) -> int:
        """The number of a frame the decoder gave; negative before a segment's start."""
        if not self._times or frame.pts is None:
            return self._next
        return -1 if frame.pts < self._times[0] else bisect_left(self._times, frame.pts)

    def _approach(self, number: int) -> None:
        """Seek or start again where decoding on does not lead to `number`, or only slowly."""
        if not self._times:
            if number < self._next:
                self._rewind()
            return
        before = bisect_right(self._keyframes, self._times[number]) - 1
        if before >= 0:
            keyframe = bisect_left(self._times, self._keyframes[before])
            if number < self._next or keyframe > self._next + SEEK_GAP:
                self._decoder.seek(self._keyframes[before])
                self._next = keyframe
        elif number < self._next:
            self._rewind()

    def _rewind(self) -> None:
        if self._times and self._keyframes:
            self._decoder.seek(self._keyframes[0])
            self._next = 0
        else:
            self._decoder.restart()
            self._next = -self._skipped

    def _draw(self, frame: av.VideoFrame, out: np.ndarray) -> None:
        """Write a frame as RGB into (H, W, 3); a size that changes in mid-stream is scaled to the first."""
        with naming_errors(self.path, "cannot be converted to RGB"):
            out[:] = draw_rgb(frame, self._reformatter, self._size, self._upright)
