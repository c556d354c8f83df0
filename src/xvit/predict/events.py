"""Events of a stream as lines: for people, programs and sheets."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO

from xvit.errors import ConfigError
from xvit.predict.segments import clock_time
from xvit.predict.stream import Event

FORMATS = ("table", "jsonl", "csv")
Write = Callable[[Event], None]


def worth_telling(events: Iterable[Event], changes: bool, min_score: float) -> Iterator[Event]:
    """Events of at least `min_score`; with `changes` only those where another class begins."""
    current: dict[int, str | None] = {}
    for event in events:
        label = event.label if event.score >= min_score else None
        begins = label != current.get(event.task)
        current[event.task] = label
        if label is not None and (begins or not changes):
            yield event


@contextmanager
def open_outputs(format: str, output: Path | None) -> Iterator[Write]:
    """Writes an event to the terminal in `format`, and to `output` in the format of its ending.

    A file that is there is added to. Raises ConfigError.
    """
    if format not in FORMATS:
        raise ConfigError(f"--format must be one of {', '.join(FORMATS)}, got {format!r}")
    with ExitStack() as stack:
        writers = [_writer(format, sys.stdout, header=True)]
        if output is not None:
            kind = output.suffix.removeprefix(".")
            if kind not in ("jsonl", "csv"):
                raise ConfigError(f"--output {output}: must end in .jsonl or .csv")
            output.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(output.open("a", encoding="utf8", newline=""))
            writers.append(_writer(kind, file, header=file.tell() == 0))

        def write(event: Event) -> None:
            for writer in writers:
                writer(event)

        yield write


def _writer(format: str, file: IO[str], header: bool) -> Write:
    match format:
        case "table":
            return lambda event: print(as_text(event), file=file, flush=True)
        case "jsonl":
            return lambda event: print(json.dumps(asdict(event), ensure_ascii=False), file=file, flush=True)
    rows = csv.writer(file, lineterminator="\n")
    if header:
        rows.writerow([field.name for field in fields(Event)])

    def write(event: Event) -> None:
        rows.writerow(asdict(event).values())
        file.flush()

    return write


def as_text(event: Event) -> str:
    """A line for people."""
    dropped = f"  {event.dropped} dropped" if event.dropped else ""
    late = f"{1000 * event.latency:.0f} ms"
    return f"{clock_time(event.time, '.')}  {event.score:.3f}  {event.label:<20} {late:>7}{dropped}"
