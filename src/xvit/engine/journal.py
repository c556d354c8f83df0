"""Finished batches of an unfinished evaluation, on disk: what a kill leaves is not computed again."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xvit.engine.scores import Scored

_FIELDS = [field.name for field in dataclasses.fields(Scored)]
_FORM = 2  # of the blocks; a file of another is started anew
_HEADER = struct.Struct("<Q32s")  # length and SHA-256 of the block that follows


class Journal:
    """An append-only file of `Scored` batches that belong to one evaluation.

    `identity` says which evaluation (list, weights, views, …); a file of another one is started anew. A block
    that a kill cut short is dropped, with its video to be computed again.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.finished: list[Scored] = []
        self.seconds = 0.0  # that the finished batches took
        self._since = time.perf_counter()
        first = json.dumps({"journal": _FORM, **identity}, sort_keys=True, default=str).encode()
        blocks, end = _read_blocks(path)
        if blocks and blocks[0] == first:
            found = [_unpack(block) for block in blocks[1:]]
            self.finished = [scored for scored, _ in found]
            self.seconds = sum(seconds for _, seconds in found)
            with path.open("r+b") as file:
                file.truncate(end)
        else:
            path.write_bytes(_frame(first))

    def add(self, scored: Scored) -> None:
        """Write a batch down, for good."""
        file = io.BytesIO()
        now = time.perf_counter()
        np.savez(file, seconds=now - self._since, **{name: getattr(scored, name) for name in _FIELDS})
        self._since = now
        with self.path.open("ab") as journal:
            journal.write(_frame(file.getvalue()))

    def close(self) -> None:
        """The evaluation is written; its journal goes."""
        self.path.unlink(missing_ok=True)


def _frame(block: bytes) -> bytes:
    return _HEADER.pack(len(block), hashlib.sha256(block).digest()) + block


def _read_blocks(path: Path) -> tuple[list[bytes], int]:
    """All whole blocks of a file and where the last of them ends."""
    content = path.read_bytes() if path.exists() else b""
    blocks, end = [], 0
    while end + _HEADER.size <= len(content):
        length, digest = _HEADER.unpack_from(content, end)
        block = content[end + _HEADER.size : end + _HEADER.size + length]
        if len(block) < length or hashlib.sha256(block).digest() != digest:
            break
        blocks.append(block)
        end += _HEADER.size + length
    return blocks, end


def _unpack(block: bytes) -> tuple[Scored, float]:
    """A batch, and the seconds since the one before."""
    with np.load(io.BytesIO(block), allow_pickle=False) as arrays:
        return Scored(**{name: arrays[name] for name in _FIELDS}), float(arrays["seconds"])
