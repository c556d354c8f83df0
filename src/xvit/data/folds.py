"""UCF101 and HMDB51: published split files, three folds each; val is the fold's test list."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xvit.data.layouts import Split
from xvit.data.lists import read_lines
from xvit.data.official import find_files, present
from xvit.errors import DatasetError

_HMDB_MARKS = {"train": "1", "val": "2", "test": "2"}


def _ucf_folder(root: Path) -> Path | None:
    return next((f for f in (root, root / "ucfTrainTestlist") if (f / "classInd.txt").is_file()), None)


def is_ucf101(root: Path) -> bool:
    """`classInd.txt` here or in ucfTrainTestlist/."""
    return _ucf_folder(root) is not None


def read_ucf101(root: Path, split: str, fold: int) -> Split:
    """`trainlist01.txt` and `testlist01.txt` of `Class/v_Class_g01_c01.avi`; classInd.txt numbers from 1."""
    folder = _ucf_folder(root)
    if folder is None:
        raise DatasetError(f"{root}: no classInd.txt there")
    classes = tuple(line.split()[1] for line in read_lines(folder / "classInd.txt") if line.strip())
    place = {name: label for label, name in enumerate(classes)}
    file = folder / f"{'train' if split == 'train' else 'test'}list{fold:02}.txt"
    ids, labels = [], []
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        path = line.split()[0]
        name = path.partition("/")[0]
        if name not in place:
            raise DatasetError(f"{file}:{number}: class {name!r} is not in classInd.txt")
        ids.append(path)
        labels.append(place[name])
    return _split(root, split, file, ids, labels, classes)


def _hmdb_folder(root: Path) -> Path | None:
    folders = (root, root / "testTrainMulti_7030_splits", root / "splits")
    return next((f for f in folders if next(f.glob("*_test_split1.txt"), None)), None)


def is_hmdb51(root: Path) -> bool:
    """`<class>_test_split1.txt`, here or in testTrainMulti_7030_splits/."""
    return _hmdb_folder(root) is not None


def read_hmdb51(root: Path, split: str, fold: int) -> Split:
    """`<class>_test_split<fold>.txt` of `name.avi mark`: 1 is train, 2 is val, 0 is neither."""
    folder = _hmdb_folder(root)
    end = f"_test_split{fold}.txt"
    files = sorted(folder.glob(f"*{end}")) if folder else []
    if not files:
        raise DatasetError(f"{root}: no <class>{end} there")
    classes = tuple(file.name.removesuffix(end) for file in files)
    ids, labels = [], []
    for label, file in enumerate(files):
        for number, line in enumerate(read_lines(file), start=1):
            if not line.strip():
                continue
            path, _, mark = line.strip().rpartition(" ")
            if mark not in {"0", "1", "2"}:
                raise DatasetError(
                    f"{file}:{number}: expected `name.avi mark` with mark 0, 1 or 2, got {line!r}"
                )
            if mark == _HMDB_MARKS[split]:
                ids.append(f"{classes[label]}/{path.strip()}")
                labels.append(label)
    return _split(root, split, files[0].parent, ids, labels, classes)


def _split(
    root: Path, split: str, file: Path, ids: list[str], labels: list[int], classes: tuple[str, ...]
) -> Split:
    files = find_files(root, split, depth=2)
    paths = [files.get(str(Path(name).with_suffix(""))) for name in ids]
    table, missing = present(root, file, ids, paths, np.array(labels))
    return Split(table, (classes,), missing)
