"""The plain layouts: lists of `path label`, and folders that are classes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xvit.data.lists import VideoList, names_from_folders, numbered, read_class_names, read_list
from xvit.data.pictures import IMAGE_SUFFIXES
from xvit.data.records import RecordTable
from xvit.errors import DatasetError

Classes = tuple[tuple[str, ...], ...]

VIDEO_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv"),
    *(".flv", ".3gp", ".ogv", ".vob", ".gif", ".h264", ".hevc", ".h5"),
}
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Split:
    """What a layout finds: the videos of one split and the class names their labels count through.

    `missing` counts videos that an official list names and the disk lacks, as is usual for Kinetics.
    """

    records: RecordTable
    classes: Classes
    missing: int = 0


def find_split_folder(root: Path, split: str) -> Path | None:
    """`root/val`, `root/validation`, …, or None."""
    return next((root / name for name in SPLIT_FOLDERS[split] if (root / name).is_dir()), None)


def is_csv(root: Path) -> bool:
    """`{train,val,test}.csv` stand in the root."""
    return any((root / f"{split}.csv").is_file() for split in SPLIT_FOLDERS)


def read_csv(root: Path, split: str) -> Split:
    """`{train,val,test}.csv` of `path label`; names from classes.txt, else folders, else numbers."""
    file = root / f"{split}.csv"
    if not file.is_file():
        there = ", ".join(f"{s}.csv" for s in SPLIT_FOLDERS if (root / f"{s}.csv").is_file())
        raise DatasetError(f"{root}: no {split}.csv there, only {there}")
    found = read_list(file, labelled=split != "test")
    train_file = root / "train.csv"
    train = read_list(train_file) if split != "train" and train_file.is_file() else found
    named = root / "classes.txt"
    known = _count(train)
    if named.is_file():
        names = read_class_names(named)
        _check_labels(found, len(names), f"{named.name} names {len(names)} classes")
    elif known:
        names = names_from_folders(train, known)
    else:
        names = numbered(_count(found))
    if train is not found:
        _check_known(found, {label for _, label in train.row_labels()})
    labels = found.label_array(columns=2 if train.more else 1)
    return Split(RecordTable(root, found.paths, labels), (names,))


def _count(found: VideoList) -> int:
    return max((label for _, label in found.row_labels()), default=-1) + 1


def _check_labels(found: VideoList, count: int, because: str) -> None:
    for row, label in found.row_labels():
        if label >= count:
            raise DatasetError(
                f"{found.where(row)}: label {label} is too large: {because} (0 to {count - 1})"
            )


def _check_known(found: VideoList, known: set[int]) -> None:
    for row, label in found.row_labels():
        if label not in known:
            raise DatasetError(f"{found.where(row)}: label {label} does not occur in train.csv")


def is_split_folders(root: Path) -> bool:
    """`train/` or `val/` with class folders in them."""
    return any(find_split_folder(root, split) for split in ("train", "val"))


def read_split_folders(root: Path, split: str) -> Split:
    """`train/<class>/…` and `val/<class>/…`."""
    folder = find_split_folder(root, split)
    if folder is None:
        raise DatasetError(f"{root}: no folder {split}/ there")
    train = find_split_folder(root, "train")
    names = class_folders(train or folder)
    strangers = sorted(set(class_folders(folder)) - set(names))
    if strangers:
        raise DatasetError(f"{folder / strangers[0]}: this class has no folder in {train}")
    return folder_split(root, folder, names)


def is_class_folders(root: Path) -> bool:
    """Folders with videos in them."""
    return bool(class_folders(root))


def read_class_folders(root: Path, split: str, val_fraction: float) -> Split:
    """`<class>/…` in one folder: of every class, `val_fraction` (at least one) is val, chosen by its name.

    A run's seed has no say: runs of several seeds are compared on the same videos.
    """
    whole = folder_split(root, root, class_folders(root))
    if split == "test":
        raise DatasetError(f"{root}: one folder of classes is split into train and val; it has no test split")
    labels = whole.records.labels[:, 0].numpy()
    chosen: list[int] = []
    for label, name in enumerate(whole.classes[0]):
        rows = np.flatnonzero(labels == label).tolist()
        random.Random(f"0 {name}").shuffle(rows)
        held_out = min(max(round(len(rows) * val_fraction), 1), len(rows) - 1)
        chosen += rows[:held_out] if split == "val" else rows[held_out:]
    if not chosen:
        raise DatasetError(f"{root}: no class has a second video, which could be held out for val")
    return Split(whole.records.take(sorted(chosen)), whole.classes)


def class_folders(root: Path) -> tuple[str, ...]:
    """Names of the folders in `root` that hold videos or frame folders, sorted."""
    names = sorted(name for name in os.listdir(root) if name[0] not in "._")
    folders = [name for name in names if (root / name).is_dir()]
    return tuple(name for name in folders if next(videos_below(root / name), None) is not None)


def folder_split(root: Path, folder: Path, names: tuple[str, ...]) -> Split:
    """All videos of the class folders `names` in `folder`, with ids relative to `root`."""
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        if (folder / name).is_dir():
            found = sorted(videos_below(folder / name))
            paths += [os.path.relpath(path, root) for path in found]
            labels += [label] * len(found)
    return Split(RecordTable(root, paths, np.array(labels, np.int64)), (names,))


def videos_below(folder: Path) -> Iterator[str]:
    """Video files at any depth, and folders whose files are images; links to folders are followed."""
    within, beside = folder.resolve(), folder.parent.resolve()
    walked = {str(path) for path in (*within.parents, beside, *beside.parents)}
    for where, folders, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(where)
        if here in walked:  # a link that leads up, to where the walk has been, or round in a circle
            folders.clear()
            continue
        walked.add(here)
        folders.sort()
        suffixes = {os.path.splitext(name)[1].lower() for name in files}
        if suffixes & IMAGE_SUFFIXES and not suffixes & VIDEO_SUFFIXES:
            yield where
            continue
        for name in files:
            if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and name[0] != ".":
                yield os.path.join(where, name)
