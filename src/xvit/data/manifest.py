"""From a directory to a list of labelled videos: which layout it is, and one split of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xvit.config import DataConfig
from xvit.data import epic, folds, layouts, official, released
from xvit.data.layouts import Classes, Split
from xvit.data.records import Manifest
from xvit.errors import ConfigError, DatasetError


@dataclass(frozen=True)
class Wanted:
    """What is asked of a layout."""

    root: Path
    split: str
    val_fraction: float
    fold: int


@dataclass(frozen=True)
class Layout:
    """How one layout is known from its directory, and how a split of it is read."""

    found_in: Callable[[Path], bool]
    read: Callable[[Wanted], Split]


# In the order in which `data.format=auto` asks.
LAYOUTS: dict[str, Layout] = {
    "released_kinetics": Layout(released.is_kinetics, lambda w: released.read_kinetics(w.root, w.split)),
    "released_ssv2": Layout(released.is_ssv2, lambda w: released.read_ssv2(w.root, w.split)),
    "kinetics": Layout(official.is_kinetics, lambda w: official.read_kinetics(w.root, w.split)),
    "ssv2": Layout(official.is_ssv2, lambda w: official.read_ssv2(w.root, w.split)),
    "epic": Layout(epic.is_epic, lambda w: epic.read_epic(w.root, w.split)),
    "ucf101": Layout(folds.is_ucf101, lambda w: folds.read_ucf101(w.root, w.split, w.fold)),
    "hmdb51": Layout(folds.is_hmdb51, lambda w: folds.read_hmdb51(w.root, w.split, w.fold)),
    "csv": Layout(layouts.is_csv, lambda w: layouts.read_csv(w.root, w.split)),
    "split_folders": Layout(layouts.is_split_folders, lambda w: layouts.read_split_folders(w.root, w.split)),
    "class_folders": Layout(
        layouts.is_class_folders,
        lambda w: layouts.read_class_folders(w.root, w.split, w.val_fraction),
    ),
}


# Those whose classes are names, and their numbers no more than the places of these in the alphabet.
ALPHABETICAL = ("kinetics", "split_folders", "class_folders")


def load_manifest(config: DataConfig, split: str, classes: Classes | None = None) -> Manifest:
    """Read one split ("train", "val" or "test") of the dataset at `config.root`.

    `classes` are the names a model counts through, one tuple a task: labels are renumbered to them by name.
    Raises DatasetError (file and line), ConfigError.
    """
    if split not in layouts.SPLIT_FOLDERS:
        raise ConfigError(f"a split is train, val or test, got {split!r}")
    if config.root is None:
        raise ConfigError("data.root is not set: where are the videos? (data.root=FOLDER)")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise DatasetError(f"data.root: {root}: {'not a folder' if root.exists() else 'no such folder'}")
    name = find_layout(root) if config.format == "auto" else config.format
    if name not in LAYOUTS:
        raise ConfigError(f"data.format must be auto, {', '.join(LAYOUTS)}, got {name!r}")
    found = LAYOUTS[name].read(Wanted(root, split, config.val_fraction, config.fold))
    if not len(found.records):
        raise DatasetError(f"{root}: the {split} split ({name}) lists no videos")
    if classes:  # weights of the authors carry no names
        found = _renumber(found, classes, root, counted=name not in ALPHABETICAL)
    return Manifest.of(found.records, found.classes, split, name, found.missing)


def find_layout(root: Path) -> str:
    """The name of the layout of a directory. Raises DatasetError naming what would be recognised."""
    for name, layout in LAYOUTS.items():
        if layout.found_in(root):
            return name
    raise DatasetError(
        f"{root}: no dataset found there: expected class folders of videos, folders train/ and val/, "
        "train.csv and val.csv of `path label`, or one of the layouts in docs/data.md"
    )


def _renumber(found: Split, classes: Classes, root: Path, *, counted: bool) -> Split:
    """Labels that count through `classes`, matched by name wherever both sides have names.

    counted: whether numbers are what labels were given as: they may then be a part of the model's own.
    """
    records = found.records
    labels = records.labels.numpy().copy()
    names = list(classes)
    if len(found.classes) != len(classes) and labels.shape[1]:
        raise DatasetError(f"{root}: {len(found.classes)} tasks here, the model has {len(classes)} tasks")
    for task in range(len(classes) if labels.shape[1] else 0):
        own, wanted = found.classes[task], classes[task]
        columns = labels[:, [task]] if len(classes) > 1 else labels
        present = np.unique(columns[columns >= 0])
        if own == wanted:
            continue
        numbers = only_numbers(wanted)
        if (numbers or only_numbers(own)) and (counted or not set(own) <= set(wanted)):
            if len(own) > len(wanted) or not (counted or len(own) == len(wanted)):
                nameless = ", which has no names for them" if numbers else ""
                raise DatasetError(f"{root}: {len(own)} classes here, {len(wanted)} in the model{nameless}")
            if numbers:  # no names to match: keep those there are
                names[task] = own + wanted[len(own) :]
            continue
        place = {name: i for i, name in enumerate(wanted)}
        missing = [own[label] for label in present if own[label] not in place]
        if missing:
            raise DatasetError(
                f"{root}: the class {missing[0]!r} is not among the model's {len(wanted)} classes"
            )
        table = np.array([*(place.get(name, -1) for name in own), -1], np.int32)  # -1 stays -1
        columns = table[columns]
        labels[:, task : task + columns.shape[1]] = columns
    return Split(records.with_labels(labels), tuple(names), found.missing)


def only_numbers(names: tuple[str, ...]) -> bool:
    """Whether classes have no names but their numbers."""
    return all(name.isdecimal() for name in names)
