"""Many videos: which they are, and where the answers go."""

from __future__ import annotations

import csv
import glob
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from xvit.data.layouts import videos_below
from xvit.errors import ConfigError, DatasetError
from xvit.predict.predictor import Entry

FORMATS = ("table", "json", "jsonl", "csv")


def find_videos(names: Sequence[str]) -> list[str]:
    """The videos that files, folders (at any depth) and shell patterns name; each once, in order.

    A file that is named itself is kept whatever it is. Raises DatasetError where a folder or a pattern holds
    no video.
    """
    found: dict[str, None] = {}
    for name in names:
        matches = [name] if os.path.lexists(name) or not glob.has_magic(name) else _matches(name)
        for match in matches:
            videos = list(videos_below(Path(match))) if os.path.isdir(match) else [match]
            if not videos:
                raise DatasetError(f"{match}: no videos in this folder")
            found |= dict.fromkeys(sorted(videos))
    return list(found)


def _matches(pattern: str) -> list[str]:
    found = sorted(glob.glob(pattern, recursive=True))
    if not found:
        raise DatasetError(f"{pattern}: matches no file")
    return found


class Writer(Protocol):
    """Takes a video's best classes."""

    def write(self, video: str, entries: list[Entry]) -> None: ...


class Table:
    """For people to read."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def write(self, video: str, entries: list[Entry]) -> None:
        lines = [video, *(f"  {entry['score']:.3f}  {entry['label']}" for entry in entries)]
        print("\n".join(lines), file=self.file, flush=True)


class Lines:
    """One JSON object a line: {"video", "predictions", …}, `about` in each."""

    def __init__(self, file: IO[str], about: dict[str, Any]) -> None:
        self.file, self.about = file, about

    def write(self, video: str, entries: list[Entry]) -> None:
        row = {"video": video, "predictions": entries, **self.about}
        print(json.dumps(row, ensure_ascii=False), file=self.file, flush=True)


class Sheet:
    """One row a class: video, rank, label, score (task where there are several)."""

    def __init__(self, file: IO[str]) -> None:
        self.rows = csv.writer(file, lineterminator="\n")
        self.rows.writerow(["video", "rank", "label", "score", "task"])

    def write(self, video: str, entries: list[Entry]) -> None:
        for rank, entry in enumerate(entries, 1):
            self.rows.writerow([video, rank, entry["label"], f"{entry['score']:.6f}", entry.get("task", 0)])


class Document:
    """One JSON list, written when all is known."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, video: str, entries: list[Entry]) -> None:
        self.rows.append({"video": video, "predictions": entries})


@contextmanager
def open_writer(format: str, output: Path | None, about: dict[str, Any]) -> Iterator[Writer]:
    """A writer of `format` to a file, or to the terminal. JSON lines are added to the file that is there."""
    if format not in FORMATS:
        raise ConfigError(f"--format must be one of {', '.join(FORMATS)}, got {format!r}")
    file: IO[str] = sys.stdout
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        mode = "a" if format == "jsonl" else "w"
        file = output.open(mode, encoding="utf8", newline="", errors="surrogateescape")
    try:
        document = Document()
        match format:
            case "table":
                yield Table(file)
            case "jsonl":
                yield Lines(file, about)
            case "csv":
                yield Sheet(file)
            case _:
                yield document
                print(json.dumps(document.rows, ensure_ascii=False, indent=1), file=file)
    finally:
        if output is not None:
            file.close()


def finished(output: Path, about: dict[str, Any]) -> set[str]:
    """The videos that a JSON-lines file of an interrupted run holds; a line cut short is taken off.

    Raises ConfigError where the file is of another model or other settings, or no such file at all.
    """
    if not output.exists():
        return set()
    videos, whole = set(), 0
    data = output.read_bytes()
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            video, made = row["video"], {key: row[key] for key in about}
        except (ValueError, KeyError, TypeError) as err:
            raise ConfigError(f"{output}:{number}: not predictions; choose another --output") from err
        if made != about:
            raise ConfigError(f"{output}:{number}: made with {made}, not {about}; choose another --output")
        videos.add(video)
        whole += len(line)
    if whole < len(data):
        os.truncate(output, whole)
    return videos
