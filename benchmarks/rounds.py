"""Two ways of doing the same, run in turn: medians and ratios, by the clock and in processor time."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Pace(NamedTuple):
    """Medians over the rounds: items a second, and processor seconds an item, all processes together."""

    rate: float
    processor: float


def alternate(ways: dict[str, Callable[[], int]], rounds: int = 5) -> dict[str, Pace]:
    """The pace of each way, which returns how many items it did; the first round warms up."""
    paces: dict[str, list[Pace]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start, used = time.perf_counter(), processor_seconds()
            count = way()
            seconds = time.perf_counter() - start
            paces[name].append(Pace(count / seconds, (processor_seconds() - used) / count))
    return {name: Pace(*map(statistics.median, zip(*each[1:], strict=True))) for name, each in paces.items()}


def report(question: str, unit: str, paces: dict[str, Pace]) -> None:
    """Print the paces, and their ratios over the last one."""
    print(question)
    base = list(paces.values())[-1]
    for name, pace in paces.items():
        print(
            f"  {name:<38} {pace.rate:7.2f} {unit}s/s {pace.rate / base.rate:5.2f}×"
            f"   {1000 * pace.processor:7.1f} processor ms a {unit} {base.processor / pace.processor:5.2f}×",
            flush=True,
        )


def processes() -> list[str]:
    """This process and its children, as /proc names them."""
    children = Path("/proc/self/task").glob("*/children")
    return ["self", *(pid for file in children for pid in file.read_text().split())]


def processor_seconds() -> float:
    """User and system time so far of this process and its children, the ended ones included."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in processes())
    return sum(sum(map(int, field[11:15])) for field in fields) / os.sysconf("SC_CLK_TCK")
