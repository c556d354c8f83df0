"""EPIC-Kitchens-100: segments of long videos or of frame folders, each with a verb and a noun."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xvit.data.layouts import Split
from xvit.data.lists import numbered
from xvit.data.official import find_files, present, read_table
from xvit.errors import DatasetError

_NAMES = {
    "train": ("EPIC_100_train.csv",),
    "val": ("EPIC_100_validation.csv",),
    "test": ("EPIC_100_test_timestamps.csv",),
}
_COLUMNS = {"narration_id", "video_id", "start_timestamp", "stop_timestamp"}
_FOLDERS = (".", "annotations", "epic-kitchens-100-annotations")


def _find(root: Path, name: str) -> Path | None:
    return next((root / folder / name for folder in _FOLDERS if (root / folder / name).is_file()), None)


def _list_file(root: Path, split: str) -> Path | None:
    return next((file for name in _NAMES[split] if (file := _find(root, name))), None)


def is_epic(root: Path) -> bool:
    """`EPIC_100_train.csv` or `EPIC_100_validation.csv`, here or in annotations/."""
    return any(_list_file(root, split) for split in ("train", "val"))


def read_epic(root: Path, split: str) -> Split:
    """Segments with (verb, noun) labels. Videos are `<video_id>.MP4`, frames a folder `<video_id>/`.

    The rate of frame folders comes from EPIC_100_video_info.csv, or from the list's own frame numbers.
    """
    file = _list_file(root, split)
    if file is None:
        raise DatasetError(f"{root}: no {_NAMES[split][0]} there")
    rows = read_table(file, _COLUMNS | (set() if split == "test" else {"verb_class", "noun_class"}))
    files = find_files(root, split)
    labels = None
    if "verb_class" in rows[0]:
        labels = np.array([[int(row["verb_class"]), int(row["noun_class"])] for row in rows])
    ids = [row["narration_id"] for row in rows]
    table, missing = present(root, file, ids, [files.get(row["video_id"]) for row in rows], labels)
    here = set(table.ids)
    rows = [row for row in rows if row["narration_id"] in here]
    spans = [(_seconds(row["start_timestamp"]), _seconds(row["stop_timestamp"])) for row in rows]
    known = _rates(root)
    rates = [known.get(row["video_id"]) or _rate(row) for row in rows]
    table.set_spans(np.array(spans), np.array(rates, float))
    return Split(table, (_names(root, "verb", labels, 0), _names(root, "noun", labels, 1)), missing)


def _names(root: Path, task: str, labels: np.ndarray | None, column: int) -> tuple[str, ...]:
    file = _find(root, f"EPIC_100_{task}_classes.csv")
    if file is not None:
        return tuple(row["key"] for row in read_table(file, {"id", "key"}))
    return numbered(0 if labels is None else int(labels[:, column].max()) + 1)


def _rates(root: Path) -> dict[str, float]:
    file = _find(root, "EPIC_100_video_info.csv")
    return (
        {}
        if file is None
        else {r["video_id"]: float(r["fps"]) for r in read_table(file, {"video_id", "fps"})}
    )


def _rate(row: dict[str, str]) -> float:
    """From the frame number and the time of the segment's end; NaN where the list has no frame numbers."""
    seconds = _seconds(row["stop_timestamp"])
    return int(row["stop_frame"]) / seconds if row.get("stop_frame") and seconds else float("nan")


def _seconds(timestamp: str) -> float:
    hours, minutes, seconds = timestamp.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
