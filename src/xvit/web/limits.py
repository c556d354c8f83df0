"""What one request may cost, and how a request beyond that is refused."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """max_bytes: of an upload. max_seconds: of a video. max_pixels: of a frame, width × height.

    max_views:       crops × clips of one prediction.
    upload_seconds:  for a whole upload; idle_seconds: between two pieces of it, and for the headers.
    request_seconds: from the end of the upload to the answer.
    decoder_bytes:   memory of a decoding process, beyond its own at the start.
    queue:           requests in the house; workers: those that are decoded and scored at a time.
    """

    max_bytes: int = 200 * 2**20
    max_seconds: float = 600.0
    max_pixels: int = 4096 * 2304
    max_views: int = 30
    upload_seconds: float = 120.0
    idle_seconds: float = 10.0
    request_seconds: float = 120.0
    decoder_bytes: int = 2**30
    queue: int = 32
    workers: int = 4


class Refused(Exception):
    """A request that is answered with `status` and one sentence; `limit` names the limit it is over."""

    def __init__(
        self, status: int, detail: str, limit: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.limit, self.retry_after = status, detail, limit, retry_after


class Deadline:
    """The moment at which a request's time is over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, at least a little more than none."""
        return max(self._end - time.monotonic(), 1e-3)

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._end

    def refusal(self) -> Refused:
        """What a request hears whose time is up."""
        return Refused(
            422,
            f"this video takes longer than the {self.seconds:g} s that a request may take; "
            "cut it, or ask for fewer views",
            "request_seconds",
        )
