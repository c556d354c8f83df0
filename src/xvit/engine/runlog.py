"""What a run tells: a line of JSON per event in the run folder, a progress bar on a terminal."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 15.0  # between lines where there is no terminal


class RunLog:
    """Appends events to `log.jsonl`; each is one object with `event` and `time` (Unix seconds).

    A new run begins a new file, a resumed one goes on with it. Without a folder nothing is written.
    """

    def __init__(self, folder: Path | None, *, resume: bool = False) -> None:
        self.path = None if folder is None else folder / "log.jsonl"
        if self.path is not None and not resume:
            self.path.write_text("", encoding="utf8")

    def write(self, event: str, **values: Any) -> None:
        """Append one event."""
        if self.path is None:
            return
        line = json.dumps({"event": event, "time": round(time.time(), 3), **values})
        with self.path.open("a", encoding="utf8") as file:
            file.write(line + "\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The events of a run, oldest first; a line cut short by a kill is left out."""
    events = []
    for line in (folder / "log.jsonl").read_text(encoding="utf8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            events.append(json.loads(line))
    return events


class ProgressLine:
    """A progress bar on a terminal; elsewhere a plain line now and then and one at the end.

    Use as a context manager: `with ProgressLine("train", total) as bar: bar.advance(1, loss=0.3)`.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, quiet: bool = False) -> None:
        self.title, self.total, self.done, self.quiet = title, total, done, quiet
        self.started = self.shown = time.monotonic()
        self.values = ""
        self.notes: dict[str, Any] = {}
        self._live = sys.stderr.isatty() and not quiet
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            disable=not self._live,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, values="")

    def note(self, **values: Any) -> None:
        """Values to show from now on."""
        self.notes |= values

    def advance(self, steps: int = 1, **values: Any) -> None:
        """Move on by `steps` and show `values`."""
        self.done += steps
        self.values = "  ".join(f"{name} {_short(value)}" for name, value in (values | self.notes).items())
        self._bar.update(self._task, advance=steps, values=self.values)
        now = time.monotonic()
        if not self._live and now - self.shown > PLAIN_SECONDS:
            self.shown = now
            self._line()

    def _line(self) -> None:
        if not self.quiet:
            elapsed = time.monotonic() - self.started
            print(
                f"{self.title} {self.done}/{self.total}  {self.values}  {elapsed:.0f} s",
                file=sys.stderr,
                flush=True,
            )

    def __enter__(self) -> ProgressLine:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if not self._live:
            self._line()


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
