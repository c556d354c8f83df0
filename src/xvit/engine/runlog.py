"""What a run tells: a line of JSON per event in the run folder, a progress bar on a terminal."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

PLAIN_SECONDS = 15.0  # between lines where there is no terminal
RECENT = 30  # steps whose pace is shown


class RunLog:
    """Appends events to `log.jsonl`; each is one object with `event` and `time` (Unix seconds).

    A new run begins a new file. A run that is resumed at a step goes on with it, but drops the events of
    later steps, which are about to happen again. Without a folder nothing is written.
    """

    def __init__(self, folder: Path | None, *, resume_at: int | None = None) -> None:
        self.path = None if folder is None else folder / "log.jsonl"
        if folder is not None and self.path is not None:
            past = [] if resume_at is None else read_log(folder)
            kept = [json.dumps(event) + "\n" for event in past if event.get("step", 0) <= (resume_at or 0)]
            draft = self.path.with_name("log.jsonl.unfinished")
            draft.write_text("".join(kept), encoding="utf8")
            draft.replace(self.path)

    def write(self, event: str, **values: Any) -> None:
        """Append one event, see `to_json`."""
        if self.path is None:
            return
        line = to_json({"event": event, "time": round(time.time(), 3), **values})
        with self.path.open("a", encoding="utf8") as file:
            file.write(line + "\n")


def to_json(values: dict[str, Any], **layout: Any) -> str:
    """`values` as JSON, which has no NaN: a number that is not finite stands as null."""
    values = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return json.dumps(values, allow_nan=False, **layout)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The events of a run, oldest first; what is none, such as a line cut short by a kill, is left out."""
    events = []
    path = folder / "log.jsonl"
    for line in path.read_text(encoding="utf8", errors="replace").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                events.append(event)
    return events


class ProgressLine:
    """A progress bar on a terminal; elsewhere a plain line now and then and one at the end.

    Use as a context manager: `with ProgressLine("train", total) as bar: bar.step(…)` or `bar.advance(1)`.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, quiet: bool = False) -> None:
        self.title, self.total, self.done, self.quiet = title, total, done, quiet
        self.first = done
        self.started = self.shown = time.monotonic()
        self._recent: deque[tuple[int, float, float]] = deque(maxlen=RECENT)
        self.values: dict[str, Any] = {}
        self.notes: dict[str, Any] = {}
        self._live = sys.stderr.isatty() and not quiet
        self._bar = _TwoLines(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            disable=not self._live,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, values="")

    def note(self, **values: Any) -> None:
        """Values to show from now on."""
        self.notes |= values
        self._bar.update(self._task, values=self._values())

    def step(self, *, clips: int, seconds: float, waiting: float, **values: Any) -> None:
        """One training step of `clips` clips that took `seconds`, `waiting` of them for data."""
        self._recent.append((clips, seconds, waiting))
        clips, seconds, waiting = (sum(column) for column in zip(*self._recent, strict=True))
        pace = {"clips/s": clips / seconds, "waiting": f"{100 * waiting / seconds:.0f} %"}
        self.advance(1, **(values | pace))

    def advance(self, steps: int = 1, **values: Any) -> None:
        """Move on by `steps` and show `values`."""
        self.done += steps
        self.values = values
        self._bar.update(self._task, advance=steps, values=self._values())
        now = time.monotonic()
        if not self._live and now - self.shown > PLAIN_SECONDS:
            self.shown = now
            self._line()

    def _values(self) -> str:
        return "  ".join(f"{name} {_short(value)}" for name, value in (self.values | self.notes).items())

    def _line(self) -> None:
        if not self.quiet:
            elapsed = time.monotonic() - self.started
            left = elapsed / max(self.done - self.first, 1) * (self.total - self.done)
            done = f"{self.title} {self.done}/{self.total}  {self._values()}"
            print(f"{done}  {elapsed:.0f} s, {left:.0f} s left", file=sys.stderr, flush=True)

    def __enter__(self) -> ProgressLine:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if not self._live:
            self._line()


class _TwoLines(Progress):
    """The bar, and below it the values, which would not fit beside it on a terminal of 80 columns."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["values"]:
                yield Text(task.fields["values"], no_wrap=True, overflow="ellipsis")


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"
