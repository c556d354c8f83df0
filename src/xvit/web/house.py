"""How many requests are in the house, and what the one at the full house's door is told."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from xvit.web.limits import Limits, Refused
from xvit.web.metrics import Metrics

UPLOADS_PER_PLACE = 2  # so that slow senders alone do not fill the house


class House:
    """Counts of one event loop: uploads under way, and requests whose upload is complete."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits, self._metrics = limits, metrics
        self.uploads = self.jobs = 0
        self._seconds = 1.0  # of a job, a moving average

    @contextmanager
    def upload(self) -> Iterator[None]:
        """A place to send from. Raises Refused with 429 where there is none, or nobody would take it on."""
        if self.uploads >= UPLOADS_PER_PLACE * self.limits.queue or self.jobs >= self.limits.queue:
            raise self._full()
        self.uploads += 1
        try:
            yield
        finally:
            self.uploads -= 1

    @contextmanager
    def job(self) -> Iterator[None]:
        """A place in the queue. Raises Refused with 429 where there is none."""
        if self.jobs >= self.limits.queue:
            raise self._full()
        self.jobs += 1
        self._metrics.waiting.set(self.jobs)
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds += 0.1 * (time.monotonic() - started - self._seconds)
            self.jobs -= 1
            self._metrics.waiting.set(self.jobs)

    def _full(self) -> Refused:
        seconds = math.ceil(self._seconds * max(self.jobs, 1) / self.limits.workers)
        return Refused(
            429,
            f"{self.limits.queue} requests are waiting already; try again in {seconds} s",
            "queue",
            retry_after=seconds,
        )
