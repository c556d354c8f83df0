"""The official downloads: Kinetics' csv and Something-Something's JSON, with the files found by name."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xvit.data.layouts import SPLIT_FOLDERS, VIDEO_SUFFIXES, Split
from xvit.data.pictures import IMAGE_SUFFIXES
from xvit.data.records import RecordTable
from xvit.errors import DatasetError

_KINETICS = {"youtube_id", "time_start", "time_end"}
_SSV2 = "something-something-v2-"


def find_files(root: Path, split: str, *, depth: int = 1) -> dict[str, str]:
    """Names without suffix -> paths below `root`, of all videos and frame folders.

    A name is the last `depth` parts of the path. Where one stands twice, that in the split's folder counts.
    """
    found: dict[str, str] = {}
    for path in _walk(str(root)):
        relative = os.path.relpath(path, root)
        name = "/".join(Path(relative).with_suffix("").parts[-depth:])
        if name not in found or set(Path(relative).parts) & set(SPLIT_FOLDERS[split]):
            found[name] = relative
    return found


def _walk(folder: str) -> Iterator[str]:
    """Video files and folders of pictures; a folder's pictures are not listed beyond the first."""
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in IMAGE_SUFFIXES:
                yield folder
                return
            if suffix in VIDEO_SUFFIXES:
                yield entry.path
            elif os.path.isdir(entry.path) and not (entry.is_symlink() and _leads_up(entry.path, folder)):
                folders.append(entry.path)
    for inner in sorted(folders):
        yield from _walk(inner)


def _leads_up(link: str, folder: str) -> bool:
    """Whether `link` in `folder` leads to it, or to where it is in."""
    there, here = os.path.realpath(link), os.path.realpath(folder)
    return os.path.commonpath([there, here]) == there


def present(
    root: Path, file: Path, ids: list[str], paths: list[str | None], labels: np.ndarray | None
) -> tuple[RecordTable, int]:
    """The records whose files are on disk, and how many are not. Raises DatasetError where none is."""
    rows = [row for row, path in enumerate(paths) if path is not None]
    if ids and not rows:
        raise DatasetError(
            f"{file}: lists {len(ids)} videos, none of them is below {root} (such as {ids[0]})"
        )
    here = [path for path in paths if path is not None]
    kept = None if labels is None else labels[rows]
    return RecordTable(root, [ids[row] for row in rows], kept, paths=here), len(ids) - len(rows)


def kinetics_list(root: Path, split: str) -> Path | None:
    """`val.csv`, `annotations/validate.csv`, `kinetics_600_val.csv`, …: a csv with Kinetics' columns."""
    names = (*SPLIT_FOLDERS[split], *(["validate"] if split == "val" else []))
    for folder in (root, root / "annotations"):
        for file in sorted(folder.glob("*.csv")):
            stem = file.stem.lower().replace("-", "_")
            if (
                any(stem == name or stem.endswith(f"_{name}") for name in names)
                and set(_header(file)) >= _KINETICS
            ):
                return file
    return None


def _header(file: Path) -> list[str]:
    with file.open(encoding="utf-8-sig", errors="replace") as text:
        return text.readline().strip().split(",")


def is_kinetics(root: Path) -> bool:
    """A csv with the columns youtube_id, time_start, time_end."""
    return any(kinetics_list(root, split) for split in SPLIT_FOLDERS)


def read_kinetics(root: Path, split: str) -> Split:
    """`label,youtube_id,time_start,time_end,split`; files `id_000010_000020.mp4`, or the clip as `id.mp4`."""
    file = kinetics_list(root, split)
    if file is None:
        raise DatasetError(f"{root}: no {split} list with Kinetics' columns there")
    rows = read_table(file, _KINETICS)
    named = [row["label"] for row in rows if row.get("label")]
    train = kinetics_list(root, "train")
    known = named if train in (None, file) else [row["label"] for row in read_table(train, {"label"})]
    classes = tuple(sorted(set(known)))
    place = {name: label for label, name in enumerate(classes)}
    strangers = [name for name in named if name not in place]
    if strangers:
        raise DatasetError(f"{file}: class {strangers[0]!r} does not occur in {train}")
    files = find_files(root, split)
    ids = [f"{r['youtube_id']}_{int(float(r['time_start'])):06}_{int(float(r['time_end'])):06}" for r in rows]
    paths = [files.get(name) or files.get(row["youtube_id"]) for name, row in zip(ids, rows, strict=True)]
    labels = np.array([place[name] for name in named]) if len(named) == len(rows) else None
    table, missing = present(root, file, ids, paths, labels)
    return Split(table, (classes,), missing)


def read_table(file: Path, columns: set[str]) -> list[dict[str, str]]:
    """The rows of a csv with a header. Raises DatasetError on a missing column or a short row."""
    with file.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text)
        lacking = columns - set(reader.fieldnames or ())
        if lacking:
            raise DatasetError(f"{file}:1: no column {sorted(lacking)[0]!r}")
        rows = []
        for row in reader:
            empty = [name for name in sorted(columns) if not row[name]]
            if empty:
                raise DatasetError(f"{file}:{reader.line_num}: nothing in column {empty[0]!r}")
            rows.append(row)
    return rows


def _ssv2_list(root: Path, split: str) -> Path | None:
    name = {"val": "validation"}.get(split, split)
    for folder in (root, root / "annotations", root / "labels"):
        for file in (folder / f"{_SSV2}{name}.json", folder / f"{name}.json"):
            if file.is_file():
                return file
    return None


def is_ssv2(root: Path) -> bool:
    """`something-something-v2-train.json` or `-validation.json`, or `labels/train.json`."""
    return any(_ssv2_list(root, split) for split in ("train", "val"))


def read_ssv2(root: Path, split: str) -> Split:
    """JSON lists of `id` and `template`; labels count through the labels file; files `<id>.webm`."""
    file = _ssv2_list(root, split)
    if file is None:
        raise DatasetError(f"{root}: no list of the {split} split there")
    entries = _read_json(file)
    names_file = _ssv2_list(root, "labels")
    if names_file is None:
        raise DatasetError(f"{file.parent}: no {_SSV2}labels.json there, which numbers the classes")
    numbers = {name: int(number) for name, number in _read_json(names_file).items()}
    classes = tuple(sorted(numbers, key=numbers.__getitem__))
    label_of = {name: label for label, name in enumerate(classes)}
    labels = []
    for place, entry in enumerate(entries, start=1):
        if "template" not in entry:
            continue
        name = entry["template"].replace("[", "").replace("]", "")
        if name not in label_of:
            raise DatasetError(f"{file}: entry {place}: {name!r} is not in {names_file.name}")
        labels.append(label_of[name])
    ids = [str(entry["id"]) for entry in entries]
    files = find_files(root, split)
    labelled = np.array(labels) if len(labels) == len(ids) else None
    table, missing = present(root, file, ids, [files.get(name) for name in ids], labelled)
    return Split(table, (classes,), missing)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf8"))
    except json.JSONDecodeError as err:
        raise DatasetError(f"{file}:{err.lineno}: not JSON: {err.msg}") from err
