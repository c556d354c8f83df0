"""The list of videos as columns: a million records in a few tens of megabytes, shared between processes."""

from __future__ import annotations

import copy
import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch

from xvit.types import VideoRecord


class TextColumn(Sequence[str]):
    """Strings in one byte tensor; loader workers share the memory of tensors instead of copying it."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = bytearray()
        ends = array("q", [0])
        for text in texts:
            encoded += os.fsencode(text)
            ends.append(len(encoded))
        self.bytes = torch.from_numpy(np.frombuffer(encoded, np.uint8).copy())
        self.ends = torch.from_numpy(np.frombuffer(ends, np.int64).copy())

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not 0 <= row < len(self):
            raise IndexError(row)
        start, end = self.ends[row : row + 2].tolist()
        return os.fsdecode(self.bytes[start:end].numpy().tobytes())


class RecordTable(Sequence[VideoRecord]):
    """VideoRecords, made when they are asked for.

    root:   the folder that relative paths start from.
    ids:    N names, unique; also the paths where `paths` is None.
    labels: (N, L) integers, or None where the split has no labels.
    spans:  (N, 2) start and end in seconds, or None where every record is a whole video.
    rates:  (N,) frames per second, NaN where unknown; None where the list says nothing of them.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        ids: Iterable[str],
        labels: np.ndarray | None = None,
        *,
        paths: Iterable[str] | None = None,
        spans: np.ndarray | None = None,
        rates: np.ndarray | None = None,
    ) -> None:
        self.root = os.fspath(root)
        self.ids = TextColumn(ids)
        self.paths = self.ids if paths is None else TextColumn(paths)
        count = len(self.ids)
        self.labels = torch.zeros(count, 0, dtype=torch.int32)
        if labels is not None:
            columns = np.asarray(labels, np.int32)
            self.labels = torch.from_numpy(columns.reshape(count, *columns.shape[1:2] or (1,)).copy())
        self.spans = (
            None if spans is None else torch.from_numpy(np.array(spans, np.float64).reshape(count, 2))
        )
        self.rates = None if rates is None else torch.from_numpy(np.array(rates, np.float64).reshape(count))

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, row: int) -> VideoRecord: ...
    @overload
    def __getitem__(self, row: slice) -> list[VideoRecord]: ...
    def __getitem__(self, row: int | slice) -> VideoRecord | list[VideoRecord]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        path = os.path.join(self.root, self.paths[row])
        start, end = (None, None) if self.spans is None else self.spans[row].tolist()
        fps = None if self.rates is None or self.rates[row].isnan() else self.rates[row].item()
        return VideoRecord(self.ids[row], path, tuple(self.labels[row].tolist()), start, end, fps)

    def __iter__(self) -> Iterator[VideoRecord]:
        return (self[row] for row in range(len(self)))

    def take(self, rows: Sequence[int] | np.ndarray) -> RecordTable:
        """The table of these rows, in this order."""
        chosen = [int(row) for row in rows]
        return RecordTable(
            self.root,
            [self.ids[row] for row in chosen],
            self.labels.numpy()[chosen],
            paths=None if self.paths is self.ids else [self.paths[row] for row in chosen],
            spans=None if self.spans is None else self.spans.numpy()[chosen],
            rates=None if self.rates is None else self.rates.numpy()[chosen],
        )

    def set_spans(self, spans: np.ndarray, rates: np.ndarray | None = None) -> None:
        """Make every record the segment (N, 2) seconds of its video."""
        self.spans = torch.from_numpy(np.array(spans, float).reshape(len(self), 2))
        self.rates = None if rates is None else torch.from_numpy(np.array(rates, float).reshape(len(self)))

    def with_labels(self, labels: np.ndarray) -> RecordTable:
        """The same videos with (N, L) other labels."""
        table = copy.copy(self)
        table.labels = torch.from_numpy(np.asarray(labels, np.int32))
        return table

    def digest(self) -> str:
        """SHA-256 of ids, paths below the root, labels and spans: equal for the same list anywhere."""
        parts = [self.ids.bytes, self.ids.ends, self.labels]
        if self.paths is not self.ids:
            parts += [self.paths.bytes, self.paths.ends]
        parts += [column for column in (self.spans, self.rates) if column is not None]
        total = hashlib.sha256()
        for part in parts:
            total.update(f"{tuple(part.shape)};".encode())
            total.update(part.numpy().data)
        return total.hexdigest()


@dataclass(frozen=True)
class Manifest:
    """One split of a dataset.

    records: the videos.
    classes: one tuple of class names a task; label i of a task means the i-th name.
    split:   "train", "val" or "test"; empty for a list made by hand, as are the next two.
    format:  the layout it was read from, a key of `LAYOUTS`.
    digest:  SHA-256 of the exact list and its class names.
    missing: videos that an official list names and the disk lacks; they are not among the records.
    """

    records: Sequence[VideoRecord]
    classes: tuple[tuple[str, ...], ...]
    split: str = ""
    format: str = ""
    digest: str = ""
    missing: int = 0

    @classmethod
    def of(
        cls,
        records: RecordTable,
        classes: tuple[tuple[str, ...], ...],
        split: str,
        format: str,
        missing: int = 0,
    ) -> Manifest:
        """A manifest with its digest filled in."""
        names = "\n".join("\t".join(task) for task in classes)
        digest = hashlib.sha256(f"{records.digest()}\n{names}".encode()).hexdigest()
        return cls(records, classes, split, format, digest, missing)

    @property
    def num_classes(self) -> tuple[int, ...]:
        """The number of classes of each task."""
        return tuple(len(task) for task in self.classes)

    @property
    def several_labels(self) -> bool:
        """Whether a video may have several labels of the one task."""
        return len(self.records) > 0 and len(self.records[0].labels) > len(self.classes)

    def __str__(self) -> str:
        classes = " + ".join(str(count) for count in self.num_classes) or "no"
        text = f"{self.format}: {len(self.records):,} videos, {classes} classes, split {self.split}"
        return text + (f"; {self.missing:,} listed videos are not on disk" if self.missing else "")
