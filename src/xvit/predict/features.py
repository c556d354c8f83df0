"""Features of many videos in one h5 file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

import h5py
import numpy as np


class FeatureFile:
    """`features` (N, width) float32 and `videos` (N,) text, in the same order; `about` as attributes.

    Appears under its name when it is complete.
    """

    def __init__(self, path: Path, width: int, **about: str) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._unfinished = path.with_name(f".{path.name}")
        self._file = h5py.File(self._unfinished, "w")
        self._file.attrs.update(about)
        self._features = self._file.create_dataset(
            "features", (0, width), np.float32, maxshape=(None, width), chunks=(256, width)
        )
        self._videos = self._file.create_dataset(
            "videos", (0,), h5py.string_dtype("utf-8"), maxshape=(None,), chunks=(256,)
        )

    def add(self, video: str, feature: np.ndarray) -> None:
        """One more row; feature: (width,)."""
        count = len(self._features) + 1
        self._features.resize(count, axis=0)
        self._videos.resize(count, axis=0)
        self._features[-1], self._videos[-1] = feature, os.fsencode(video)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._file.close()
        if kind is None:
            os.replace(self._unfinished, self.path)
        else:
            self._unfinished.unlink()
