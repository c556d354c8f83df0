"""The segments of a film as text for people, sheets, programs and players."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Segment:
    """A stretch of the film in seconds, its class, and the class's mean smoothed score."""

    start: float
    end: float
    label: str
    score: float


def as_table(segments: Sequence[Segment]) -> str:
    """Start, end, score and label in columns."""
    rows = (
        f"{clock_time(s.start, '.')}  {clock_time(s.end, '.')}  {s.score:.3f}  {s.label}\n" for s in segments
    )
    return "".join(rows)


def as_csv(segments: Sequence[Segment]) -> str:
    """Columns start, end (seconds), label, score."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["start", "end", "label", "score"])
    rows.writerows([f"{s.start:.3f}", f"{s.end:.3f}", s.label, f"{s.score:.6f}"] for s in segments)
    return text.getvalue()


def as_json(segments: Sequence[Segment]) -> str:
    """A list of {"start", "end", "label", "score"}."""
    return json.dumps([asdict(s) for s in segments], ensure_ascii=False, indent=1) + "\n"


def as_srt(segments: Sequence[Segment]) -> str:
    """SubRip subtitles."""
    return "\n".join(_cues(segments, ","))


def as_vtt(segments: Sequence[Segment]) -> str:
    """WebVTT subtitles; the three characters that mean something there are escaped."""
    cues = _cues(segments, ".", {"&": "&amp;", "<": "&lt;", ">": "&gt;"})
    return "\n".join(["WEBVTT\n", *cues])


FORMATS: dict[str, Callable[[Sequence[Segment]], str]] = {
    "table": as_table,
    "csv": as_csv,
    "json": as_json,
    "srt": as_srt,
    "vtt": as_vtt,
}


def _cues(segments: Sequence[Segment], point: str, escapes: dict[str, str] | None = None) -> list[str]:
    marks = str.maketrans(escapes or {})
    return [
        f"{i}\n{clock_time(s.start, point)} --> {clock_time(s.end, point)}\n"
        f"{s.label.translate(marks)} ({s.score:.2f})\n"
        for i, s in enumerate(segments, 1)
    ]


def clock_time(seconds: float, point: str) -> str:
    """1.5 -> "00:00:01.500"."""
    total = round(seconds * 1000)
    minutes, rest = divmod(total, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
