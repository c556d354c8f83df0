"""The thread that reads a live source: keeps time, picks the model's frames, drops what is not fetched."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import av

from xvit.config import ClipConfig
from xvit.data.live import LiveSource, LiveVideo
from xvit.data.sampling import DEFAULT_FPS, frame_spacing
from xvit.errors import VideoReadError

BACKOFF_SECONDS = 0.5, 30.0  # before the first attempt to reconnect, doubled up to the second
JUMP_SECONDS = 5.0  # a timestamp this far ahead is a fault of the clock, not a pause


class LiveFrame(NamedTuple):
    """A frame on its way to the model. seconds: since the stream began. arrived: time.monotonic().

    connection: counts up from 0 when a lost stream comes back.
    """

    picture: av.VideoFrame
    seconds: float
    arrived: float
    connection: int


@dataclass
class Counts:
    """What became of a stream's frames.

    received: decoded. picked: at the model's frame rate. dropped: of those, not scored because the model was
    busy. damaged: packets that could not be decoded. reconnected: times a lost stream came back.
    """

    received: int = 0
    picked: int = 0
    dropped: int = 0
    damaged: int = 0
    reconnected: int = 0


class FrameQueue:
    """A bounded queue between reader and model. Full, it drops its oldest frame, or lets the reader wait."""

    def __init__(self, size: int, drop: bool, counts: Counts) -> None:
        self.size, self.drop, self.counts = size, drop, counts
        self._frames: deque[LiveFrame] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.error: VideoReadError | None = None

    def put(self, frame: LiveFrame) -> None:
        """Add the newest frame."""
        with self._changed:
            self._changed.wait_for(lambda: self.drop or self._closed or len(self._frames) < self.size)
            if len(self._frames) == self.size:
                self._frames.popleft()
                self.counts.dropped += 1
            self._frames.append(frame)
            self._changed.notify_all()

    def get(self, timeout: float) -> LiveFrame | None:
        """The oldest frame, None where there is none yet."""
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._closed, timeout)
            frame = self._frames.popleft() if self._frames else None
            self._changed.notify_all()
            return frame

    def close(self, error: VideoReadError | None = None) -> None:
        """There will be no more frames."""
        with self._changed:
            self._closed, self.error = True, error
            self._changed.notify_all()

    @property
    def finished(self) -> bool:
        """Whether the last frame has been fetched."""
        with self._changed:
            return self._closed and not self._frames


@dataclass
class Ticks:
    """Picks the frames nearest to the ticks of a steady rate, each at most once.

    spacing: seconds between ticks. interval: seconds between the source's frames. Ticks that a pause or a
    slower source left without a frame are passed over.
    """

    spacing: float
    interval: float
    next: float = field(default=0.0, init=False)

    def pick(self, seconds: float) -> bool:
        """Whether the frame shown at `seconds` is wanted."""
        late = seconds - self.next
        if late < -self.interval / 2:
            return False
        on_time = late < (self.spacing + self.interval) / 2
        self.next = (self.next if on_time else seconds) + self.spacing
        return True


class Reader(threading.Thread):
    """Reads a source to its end, or until `stop`, into a queue."""

    def __init__(
        self,
        source: LiveSource,
        queue: FrameQueue,
        clip: ClipConfig,
        window: float | None,
        *,
        paced: bool,
        retries: int,
        on_notice: Callable[[str], None],
    ) -> None:
        super().__init__(name="xvit-stream", daemon=True)  # FFmpeg may be waiting for data at exit
        self.source, self.queue, self.clip, self.window = source, queue, clip, window
        self.paced, self.retries, self.on_notice = paced, retries, on_notice
        self.counts = queue.counts
        self.started: float | None = None
        self._connection = 0
        self._attempts = 0
        self._stop_asked = threading.Event()

    def stop(self) -> None:
        """End after the frame at hand."""
        self._stop_asked.set()
        self.queue.close()

    def run(self) -> None:
        """Read, and reconnect where a camera or a network stream is lost."""
        try:
            while not self._read_connection() and not self._stop_asked.is_set():
                pass
        except VideoReadError as err:
            self.queue.close(err)
        else:
            self.queue.close()

    def _read_connection(self) -> bool:
        """Read until the source ends (True) or is lost (False). Raises VideoReadError where that is final."""
        try:
            with LiveVideo(self.source) as video:
                self._read_frames(video)
                if self.source.kind == "file" or video.complete or self._stop_asked.is_set():
                    return True
                reason = "the other side ended it"
        except VideoReadError as err:
            if self.started is None or self.source.kind == "file":
                raise
            reason = err.reason
        if self.started is None:
            raise VideoReadError(self.source.name, "gives no frame")
        if self._attempts == self.retries:
            again = f"still lost after {self.retries} attempts" if self.retries else "lost"
            raise VideoReadError(self.source.name, f"{again}: {reason}")
        pause = min(BACKOFF_SECONDS[0] * 2**self._attempts, BACKOFF_SECONDS[1])
        self._attempts += 1
        self.on_notice(f"{self.source.name}: lost: {reason}; trying again in {pause:g} s")
        self._stop_asked.wait(pause)
        return False

    def _read_frames(self, video: LiveVideo) -> None:
        fps = video.fps or DEFAULT_FPS
        ticks = Ticks(frame_spacing(self.clip, fps, self.window), 1 / fps)
        if video.fps and video.fps * ticks.spacing < 0.9 and not self._connection:
            self.on_notice(
                f"{self.source.name}: has {video.fps:.3g} frames a second, the model was trained on "
                f"{1 / ticks.spacing:.3g}"
            )
        begun: float | None = None  # when this connection's first frame came
        for seconds, picture in video:
            begun = self._begin() if begun is None else begun
            if self.paced:
                begun = self._hold_back(begun, seconds)
            if self._stop_asked.is_set():
                return
            self.counts.received += 1
            self.counts.damaged += video.damaged
            video.damaged = 0
            if ticks.pick(seconds):
                assert self.started is not None
                self.counts.picked += 1
                at = begun - self.started + seconds
                self.queue.put(LiveFrame(picture, at, time.monotonic(), self._connection))

    def _begin(self) -> float:
        """The first frame of a connection has come."""
        now = time.monotonic()
        if self.started is None:
            self.started = now
        else:
            self._connection += 1
            self.counts.reconnected += 1
            self.on_notice(f"{self.source.name}: back after {self._attempts} attempts")
        self._attempts = 0
        return now

    def _hold_back(self, begun: float, seconds: float) -> float:
        """Wait until a frame is due; returns when the connection began, moved where its clock jumps."""
        ahead = begun + seconds - time.monotonic()
        if ahead > JUMP_SECONDS:
            return begun - ahead
        if ahead > 0:
            self._stop_asked.wait(ahead)
        return begun
