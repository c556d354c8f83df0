"""SIGINT and SIGTERM as a wish to stop, so that a step is finished and the run saved."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

REPEAT_SECONDS = 3.0


class StopSignal:
    """While entered, the first SIGINT or SIGTERM sets `requested`; a second one interrupts at once.

    One that comes within REPEAT_SECONDS is still the first: torchrun passes on what the terminal or the
    cluster sent to all processes already.

    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested and time.monotonic() - self._since > REPEAT_SECONDS:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested, self._since = True, time.monotonic()

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
