"""Features of many videos in one h5 file, gathered so that a kill loses none."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from xvit.errors import ConfigError

ROWS_AT_ONCE = 256  # also a chunk of the file


class FeatureFile:
    """`features` (N, width) float32 and `videos` (N,) text, in the same order; `about` as attributes.

    Every video is on the disk once it is added, in an SQLite file beside it; the h5 file, which a kill could
    leave unreadable, is written at the end of the `with` block. A file that is there already is added to.
    `finished` are the videos that need not be added again.

    Raises ConfigError where what is there is of another model or other settings, or no such file at all.
    """

    def __init__(self, path: Path, width: int, **about: str) -> None:
        self.path, self._width, self._about = path, width, about
        path.parent.mkdir(parents=True, exist_ok=True)
        self._written = set(_videos_in(path, width, about)) if path.exists() else set()
        self._unfinished = path.with_name(f".{path.name}.unfinished")
        self._journal = _open_journal(self._unfinished, {**about, "width": str(width)})
        added = self._journal.execute("SELECT video FROM features")
        self.finished = self._written | {os.fsdecode(video) for (video,) in added}

    def add(self, video: str, feature: np.ndarray) -> None:
        """One more row, for good; feature: (width,)."""
        row = (os.fsencode(video), np.ascontiguousarray(feature, "<f4").tobytes())
        self._journal.execute("INSERT OR REPLACE INTO features VALUES (?, ?)", row)
        self.finished.add(video)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self._write()
        empty = self._journal.execute("SELECT count(*) FROM features").fetchone() == (0,)
        self._journal.close()
        if kind is None or empty:
            self._unfinished.unlink()

    def _write(self) -> None:
        """The h5 file with what was added, under its name when it is complete."""
        draft = self.path.with_name(f".{self.path.name}")
        if self.path.exists():
            shutil.copyfile(self.path, draft)
        with h5py.File(draft, "a" if self.path.exists() else "w") as file:
            if not self.path.exists():
                self._lay_out(file)
            rows = self._journal.execute("SELECT video, feature FROM features ORDER BY rowid")
            while block := rows.fetchmany(ROWS_AT_ONCE):
                # All of them are there where a kill came after the file was written.
                new = [row for row in block if os.fsdecode(row[0]) not in self._written]
                start = len(file["videos"])
                for name in ("videos", "features"):
                    file[name].resize(start + len(new), axis=0)
                if new:
                    file["videos"][start:] = [video for video, _ in new]
                    file["features"][start:] = np.stack([np.frombuffer(found, "<f4") for _, found in new])
        os.replace(draft, self.path)

    def _lay_out(self, file: Any) -> None:
        file.attrs.update(self._about)
        shape, chunks = (0, self._width), (ROWS_AT_ONCE, self._width)
        file.create_dataset("features", shape, np.float32, maxshape=(None, self._width), chunks=chunks)
        text = h5py.string_dtype("utf-8")
        file.create_dataset("videos", (0,), text, maxshape=(None,), chunks=(ROWS_AT_ONCE,))


def _videos_in(path: Path, width: int, about: dict[str, str]) -> list[str]:
    """The videos of a file that was finished before."""
    try:
        with h5py.File(path) as file:
            made, found_width = dict(file.attrs), file["features"].shape[1]
            videos = [os.fsdecode(video) for video in file["videos"]]
    except (OSError, KeyError, IndexError) as err:
        raise ConfigError(f"{path}: not a file of xvit features; choose another --output") from err
    if made != about:
        raise ConfigError(f"{path}: made with {made}, not {about}; choose another --output")
    if found_width != width:
        raise ConfigError(f"{path}: its features have {found_width} numbers, not {width}")
    return videos


def _open_journal(path: Path, about: dict[str, str]) -> sqlite3.Connection:
    """One row a video; each INSERT is a transaction."""
    journal = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        journal.execute("PRAGMA locking_mode = EXCLUSIVE")
        journal.execute("PRAGMA journal_mode = WAL")  # a transaction is one append
        journal.execute("PRAGMA synchronous = NORMAL")
        journal.execute("CREATE TABLE IF NOT EXISTS about (text TEXT)")
        journal.execute("CREATE TABLE IF NOT EXISTS features (video BLOB PRIMARY KEY, feature BLOB)")
        made = journal.execute("SELECT text FROM about").fetchone()
        if made is None:
            journal.execute("INSERT INTO about VALUES (?)", (json.dumps(about),))
    except sqlite3.OperationalError as err:
        raise ConfigError(f"{path}: {err}; is another xvit features writing this file?") from err
    except sqlite3.DatabaseError as err:
        raise ConfigError(f"{path}: {err}; delete it to begin again") from err
    if made is not None and json.loads(made[0]) != about:
        journal.close()
        raise ConfigError(f"{path}: begun with {json.loads(made[0])}, not {about}; delete it to begin again")
    return journal
