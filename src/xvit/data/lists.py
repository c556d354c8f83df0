"""Text lists of videos: `path label` lines, and class names beside them."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from xvit.errors import DatasetError

_HEADERS = {"label", "label_id", "class", "class_id"}
_QUOTED = re.compile(r'"((?:[^"]|"")*)"\s*[,\s]?\s*(.*)')
_SEVERAL_LABELS = re.compile(r"(.*\S)[ \t]+(\d+(?:,\d+)+)")
_LAST_FIELD = re.compile(r"(.*?)(?:\s*[,\t]\s*|\s+)([^,\s]*)")


@dataclass
class VideoList:
    """What a list file says.

    paths:  as written.
    labels: the first label of each (none at all in an unlabelled test list).
    more:   the further labels of rows that have several.
    lines:  where each row stands.
    """

    file: Path
    paths: list[str] = field(default_factory=list)
    labels: array[int] = field(default_factory=lambda: array("q"))
    more: dict[int, tuple[int, ...]] = field(default_factory=dict)
    lines: array[int] = field(default_factory=lambda: array("l"))

    def where(self, row: int) -> str:
        """`file:line` of a row."""
        return f"{self.file}:{self.lines[row]}"

    def row_labels(self) -> Iterator[tuple[int, int]]:
        """(row, label) of every label."""
        yield from enumerate(self.labels)
        yield from ((row, label) for row, labels in self.more.items() for label in labels)

    def label_array(self, columns: int = 1) -> np.ndarray | None:
        """(N, L) labels, None where the list has none; L is at least `columns`, filled up with -1."""
        if not self.labels:
            return None
        columns = max(columns, 1 + max(map(len, self.more.values()), default=0))
        table = np.full((len(self.labels), columns), -1, np.int64)
        table[:, 0] = self.labels
        for row, labels in self.more.items():
            table[row, 1 : 1 + len(labels)] = labels
        return table


def read_list(file: Path, *, labelled: bool = True) -> VideoList:
    """Read `path label` lines: separated by a space, comma or tab, paths with spaces in double quotes.

    A video of several labels has them joined by commas behind a space or tab: `path 3,7,12`.
    `labelled=False` also accepts lines of paths alone (a test split). Raises DatasetError with file and line
    on a line without a label, a label that is not a number from 0, and a path listed twice.
    """
    found = VideoList(file)
    for number, line in enumerate(read_lines(file), start=1):
        line = line.strip()
        if not line:
            continue
        path, label = _split_line(line)
        if number == 1 and label.lower() in _HEADERS:
            continue
        first, *further = label.split(",")
        if not all(part.isdecimal() for part in (first, *further)):
            if labelled or found.labels:
                raise DatasetError(f"{file}:{number}: {_label_problem(path, label, line)}")
            path = line.strip('"')
        elif len(found.labels) < len(found.paths):
            raise DatasetError(f"{file}:{number}: has a label, the lines before have none")
        else:
            found.labels.append(int(first))
            if further:
                found.more[len(found.paths)] = _further(found, int(first), further, number)
        found.paths.append(path)
        found.lines.append(number)
    _refuse_repeats(found)
    return found


def _further(found: VideoList, first: int, further: list[str], line: int) -> tuple[int, ...]:
    labels = tuple(map(int, further))
    if len({first, *labels}) <= len(labels):
        raise DatasetError(f"{found.file}:{line}: a label stands there twice: {first},{','.join(further)}")
    return labels


def joined(labels: Iterable[int]) -> str:
    """Labels as a list line holds them; -1 fills up rows of several and is left out."""
    return ",".join(str(label) for label in labels if label >= 0)


def read_lines(file: Path) -> Iterator[str]:
    """The lines of a UTF-8 text file, one by one. Raises DatasetError."""
    try:
        with file.open(encoding="utf-8-sig") as lines:
            yield from lines
    except UnicodeDecodeError as err:
        raise DatasetError(f"{file}: not a text file (UTF-8)") from err
    except OSError as err:
        raise DatasetError(f"{file}: {err.strerror}") from err


def _split_line(line: str) -> tuple[str, str]:
    path, _, label = line.rpartition(" ")
    if path and label.isdecimal() and path[0] != '"' and path[-1] not in ", \t":  # nearly every line there is
        return path, label
    if line.startswith('"') and (match := _QUOTED.fullmatch(line)):
        return match[1].replace('""', '"'), match[2].strip()
    if match := _SEVERAL_LABELS.fullmatch(line):
        return match[1], match[2]
    match = _LAST_FIELD.fullmatch(line)
    return (match[1].rstrip(" ,\t"), match[2]) if match else (line, "")


def _label_problem(path: str, label: str, line: str) -> str:
    if not label or (not re.fullmatch(r"[+-]?[\d.]+", label) and PurePosixPath(label).suffix):
        return f"no label after {line!r}; expected `path label`"
    return f"the label of {path!r} must be a whole number from 0, got {label!r}"


def _refuse_repeats(found: VideoList) -> None:
    hashes = np.fromiter((hash(path) for path in found.paths), np.int64, len(found.paths))
    if len(np.unique(hashes)) == len(hashes):
        return
    first: dict[str, int] = {}
    for row, path in enumerate(found.paths):
        if path in first:
            raise DatasetError(
                f"{found.where(row)}: {path!r} is listed already in line {found.lines[first[path]]}"
            )
        first[path] = row


def read_class_names(file: Path) -> tuple[str, ...]:
    """Class names, one a line in the order of their labels. Raises DatasetError."""
    names = tuple(line.strip() for line in read_lines(file) if line.strip())
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise DatasetError(f"{file}: the class name {twice!r} stands there twice")
    return names


def names_from_folders(found: VideoList, count: int) -> tuple[str, ...]:
    """Class names of a list without classes.txt: its folders where each class has its own, else numbers."""
    folder_of: dict[int, str] = {}
    if found.more:
        return numbered(count)
    for path, label in zip(found.paths, found.labels, strict=True):
        folder = path.rpartition("/")[0].rpartition("/")[2]
        if not folder or folder_of.setdefault(label, folder) != folder:
            return numbered(count)
    if len(set(folder_of.values())) < len(folder_of) or len(folder_of) < count:
        return numbered(count)
    return tuple(folder_of[label] for label in range(count))


def numbered(count: int) -> tuple[str, ...]:
    """Names for classes that have none: their numbers."""
    return tuple(str(label) for label in range(count))


def quoted(path: str) -> str:
    """A path as a list line holds it: in double quotes where it has spaces, commas or quotes."""
    return '"' + path.replace('"', '""') + '"' if set(path) & set(' ,\t"') else path
