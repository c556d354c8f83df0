"""The layouts on disk that the authors' released code reads: packed frames beside text lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xvit.data.layouts import Split
from xvit.data.lists import VideoList, names_from_folders, numbered, read_class_names, read_lines
from xvit.data.pictures import KEY_MARK
from xvit.data.records import RecordTable
from xvit.errors import DatasetError

_ONE_FILE = "Something-Something-v2-frames.h5"


def is_kinetics(root: Path) -> bool:
    """`annotations/{train,val}.txt` beside `seq_h5/<split>/` or `<split>/`."""
    return any((root / "annotations" / f"{split}.txt").is_file() for split in ("train", "val"))


def read_kinetics(root: Path, split: str) -> Split:
    """Lines `path,num_frames,label`; frames in `[seq_h5/]<split>/<path>.h5`; the test split is val.

    Frame rates come from `annotation/<split>_fps.txt` (`path,fps`) where it exists.
    """
    split = "val" if split == "test" else split
    file = root / "annotations" / f"{split}.txt"
    found = _read_triples(file, ",")
    folder = f"seq_h5/{split}" if (root / "seq_h5" / split).is_dir() else split
    rates = root / "annotation" / f"{split}_fps.txt"
    table = RecordTable(
        root,
        found.paths,
        found.label_array(),
        paths=[f"{folder}/{path}.h5" for path in found.paths],
        rates=_read_rates(rates, found.paths) if rates.is_file() else None,
    )
    return Split(table, (_class_names(root, found, "annotations"),))


def is_ssv2(root: Path) -> bool:
    """`{train,val}_videofolder.txt` beside `seq_h5/` or the single file of all frames."""
    return any((root / f"{split}_videofolder.txt").is_file() for split in ("train", "val"))


def read_ssv2(root: Path, split: str) -> Split:
    """Lines `name num_frames label`; frames in `seq_h5/<name>.h5`, or key `name` of the single file.

    The test split is val where there is no list of its own.
    """
    file = root / f"{split}_videofolder.txt"
    if split == "test" and not file.is_file():
        file = root / "val_videofolder.txt"
    found = _read_triples(file, None)
    if (root / _ONE_FILE).is_file():
        paths = [f"{_ONE_FILE}{KEY_MARK}{name}" for name in found.paths]
    else:
        paths = [f"seq_h5/{name}.h5" for name in found.paths]
    table = RecordTable(root, found.paths, found.label_array(), paths=paths)
    return Split(table, (_class_names(root, found, "."),))


def _read_triples(file: Path, separator: str | None) -> VideoList:
    found = VideoList(file)
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.rsplit(separator, 2)]
        if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
            order = f"path{separator or ' '}num_frames{separator or ' '}label"
            raise DatasetError(f"{file}:{number}: expected `{order}`, got {line.strip()!r}")
        found.paths.append(parts[0])
        found.labels.append(int(parts[2]))
        found.lines.append(number)
    return found


def _read_rates(file: Path, paths: list[str]) -> np.ndarray:
    rates: dict[str, float] = {}
    for number, line in enumerate(read_lines(file), start=1):
        path, _, rate = line.rpartition(",")
        try:
            rates[path.strip()] = float(rate)
        except ValueError as err:
            raise DatasetError(f"{file}:{number}: expected `path,fps`, got {line!r}") from err
    return np.array([rates.get(path, np.nan) for path in paths])


def _class_names(root: Path, found: VideoList, folder: str) -> tuple[str, ...]:
    """Names from a file where there is one; the lists themselves carry numbers alone."""
    for name in ("classes.txt", "category.txt"):
        for file in (root / folder / name, root / name):
            if file.is_file():
                return read_class_names(file)
    count = max(found.labels, default=-1) + 1
    return names_from_folders(found, count) if count else numbered(0)
