"""SIGINT and SIGTERM as a wish to stop, so that a step is finished and the run saved."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn, Protocol

REPEAT_SECONDS = 3.0
GRACE_SECONDS = 12.0  # for the step that is under way; clusters kill 30 s after they have asked
LISTEN_SECONDS = 0.5  # between looks at what other processes have heard

_replaced: dict[int, Any] = {}  # what stood where `leaving_at_once` put its own handler


@contextlib.contextmanager
def leaving_at_once(command: Sequence[str]) -> Iterator[None]:
    """Until a StopSignal listens, SIGINT and SIGTERM end the process with a line: nothing is done yet.

    `command` began the run. One of several processes keeps what Python does: its launcher ends the others.
    """

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        try:
            print(f"stopped before training began; resume with\n  {shlex.join(command)}", flush=True)
        finally:
            os._exit(0)

    if threading.current_thread() is threading.main_thread() and "RANK" not in os.environ:
        for number in (signal.SIGINT, signal.SIGTERM):
            _replaced[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        while _replaced:
            signal.signal(*_replaced.popitem())


class Board(Protocol):
    """Where processes leave words for each other."""

    def put(self, word: str) -> None: ...

    def has(self, word: str) -> bool: ...


class StopSignal:
    """While entered, the first SIGINT or SIGTERM sets `requested`; a second one interrupts at once.

    One that comes within REPEAT_SECONDS is still the first: torchrun passes on what the terminal or the
    cluster sent to all processes already.

    Where the block is not left GRACE_SECONDS later, a thread of its own calls `overdue`: Python runs no
    handler while one long operation of torch, such as a backward pass, lasts.

    A signal to one process is one to all that share `board`.

    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self, overdue: Callable[[], None] | None = None, board: Board | None = None) -> None:
        self.requested = False
        self.overdue = overdue
        self.board = board
        self._since: float | None = None
        self._giving_up = False
        self._previous: dict[int, Any] = {}
        self._left = threading.Event()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._since is not None and time.monotonic() - self._since > REPEAT_SECONDS:
            raise KeyboardInterrupt
        if self._since is None:
            self._since = time.monotonic()
        self.requested = True

    def _watch(self) -> None:
        """Wait for a signal, then for the end of the block."""
        if not self._heard():
            return
        self.requested = True
        if self.board is not None:
            self.board.put("stop")
        if not self._left.wait(GRACE_SECONDS) and self.overdue is not None:
            self._giving_up = True
            self.overdue()

    def _heard(self) -> bool:
        """True after a signal, whose number Python writes here at once, False at the end of the block."""
        self._reader.settimeout(None if self.board is None else LISTEN_SECONDS)
        while True:
            try:
                told = self._reader.recv(1)
            except TimeoutError:
                if self.board is not None and self.board.has("stop"):
                    return True
            else:
                if not told or told[0] in self._previous:
                    return bool(told)

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                earlier = signal.signal(number, self._on_signal)
                self._previous[number] = _replaced.pop(number, earlier)
            self._reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            self._woken = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        if self._giving_up:  # it ends the process, unless all was written meanwhile
            self._watcher.join()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._previous:
            signal.set_wakeup_fd(self._woken)
            # Closing would not do: a loader's worker holds the other end too. A thread that is left here when
            # Python ends brings the process down with it.
            self._reader.shutdown(socket.SHUT_RDWR)
            self._watcher.join(timeout=1.0)
            self._reader.close()
            self._writer.close()
