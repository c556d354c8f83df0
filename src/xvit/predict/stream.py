"""What is happening now: the answers to a camera, a network stream or a file played in real time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from torch import Tensor

from xvit.data.live import Painter, find_source
from xvit.errors import ConfigError
from xvit.predict.predictor import Predictor
from xvit.predict.reader import Counts, FrameQueue, LiveFrame, Reader
from xvit.predict.windows import centre_crops, follow_stream

POLL_SECONDS = 0.1  # how soon a wish to stop is heard while no frame comes
LATENCIES = 1000  # the last answers, whose latencies are kept


@dataclass(frozen=True)
class Event:
    """One answer.

    time:    seconds from the stream's first frame to the newest frame of the answer.
    clock:   when that frame came, in UTC.
    latency: seconds from then to the answer.
    dropped: frames that were not scored so far because the model was busy.
    task:    its number, for models of several.
    """

    time: float
    clock: str
    label: str
    score: float
    latency: float
    dropped: int
    task: int = 0


class Watch:
    """The events of a live source, as an iterator and context manager. Memory does not grow with time.

    >>> with Watch(Predictor.load("runs/causal"), "cam:0") as events:
    ...     for event in events:
    ...         print(event.time, event.label)

    name:    `cam:0`, `rtsp://…`, `http://…` or a file, which plays in real time, or with `fast` as fast as
             the model goes, without dropping a frame.
    window:  seconds that the model's T frames span; default: as in training.
    hop:     frames from one answer to the next; default: 1 for causal models, for others half a window.
    seconds: end after so many.
    retries: attempts in a row to get a lost stream back, with growing pauses.
    stop:    asked often; True ends the stream.
    on_notice: told, one line each, that a stream was lost or is back.

    `counts` says what became of the frames. Iterating raises VideoReadError where the source cannot be
    opened, or is lost for good; ConfigError for settings that do not go together.
    """

    def __init__(
        self,
        predictor: Predictor,
        name: str,
        *,
        window: float | None = None,
        hop: int | None = None,
        fast: bool = False,
        seconds: float | None = None,
        retries: int = 8,
        stop: Callable[[], bool] = lambda: False,
        on_notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.predictor = predictor
        self.source = find_source(name)
        if fast and self.source.kind != "file":
            raise ConfigError("--fast is for files: a live source has its own pace")
        self.follower = follow_stream(predictor, hop)
        self.counts = Counts()
        self.latencies: deque[float] = deque(maxlen=LATENCIES)
        self.seconds = 0.0
        self._fast, self._limit, self._stop = fast, seconds, stop
        # While a window is scored the frames of the next one come in.
        self.queue = FrameQueue(self.follower.hop + 1, drop=not fast, counts=self.counts)
        self._reader = Reader(
            self.source,
            self.queue,
            predictor.model.clip,
            window,
            paced=self.source.bursts and not fast,
            retries=retries,
            on_notice=on_notice,
        )
        self._paint = Painter()

    def __iter__(self) -> Iterator[Event]:
        connection = 0
        for frame in self._frames():
            if frame.connection != connection:  # what came before the gap is no past of this frame
                self.follower.reset()
                connection = frame.connection
            picture = centre_crops(self._paint(frame.picture)[None], self.predictor.model.clip)[0]
            scores = self.follower.push(picture)
            if scores is not None:
                yield from self._events(frame, scores)

    def _frames(self) -> Iterator[LiveFrame]:
        self._reader.start()
        began = time.monotonic()
        while not self._stop():
            frame = self.queue.get(POLL_SECONDS)
            if frame is None and self.queue.finished:
                if self.queue.error is not None:
                    raise self.queue.error
                return
            passed = time.monotonic() - began if frame is None else frame.seconds
            if self._limit is not None and passed >= self._limit and not (frame is None and self._fast):
                return
            if frame is not None:
                self.seconds = frame.seconds
                yield frame

    def _events(self, frame: LiveFrame, scores: Tensor) -> Iterator[Event]:
        latency = time.monotonic() - frame.arrived
        self.latencies.append(latency)
        clock = datetime.now(UTC) - timedelta(seconds=latency)
        for entry in self.predictor.entries(scores, 1):
            yield Event(
                round(frame.seconds, 3),
                clock.isoformat(timespec="milliseconds"),
                str(entry["label"]),
                float(entry["score"]),
                round(latency, 4),
                self.counts.dropped,
                int(entry.get("task", 0)),
            )

    def close(self) -> None:
        """Stop reading."""
        self._reader.stop()
        if self._reader.is_alive():
            self._reader.join(timeout=1.0)  # it may be waiting for the network, and ends by itself

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def summary(self) -> str:
        """What became of the stream, in one line."""
        counts = self.counts
        parts = [
            f"{self.seconds:.1f} s, {counts.received} frames, {counts.picked} at the model's rate, "
            f"{counts.dropped} of them dropped"
        ]
        if counts.damaged:
            parts.append(f"{counts.damaged} damaged packets")
        if counts.reconnected:
            parts.append(f"lost and back {counts.reconnected} times")
        if self.latencies:
            ordered = sorted(self.latencies)
            median, late = ordered[len(ordered) // 2], ordered[int(0.95 * len(ordered))]
            parts.append(f"latency {1000 * median:.0f} ms (95 % within {1000 * late:.0f})")
        return "; ".join(parts)
