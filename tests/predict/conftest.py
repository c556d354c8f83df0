"""A small run folder, and how much memory something takes at its peak."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

import pytest

from xvit.models import save_model

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """While entered, the peak of the process's resident memory over what it was; then `megabytes`."""

    megabytes = 0.0

    def __enter__(self) -> Self:
        RESET.write_text("5")  # the kernel starts its high-water mark anew
        self._before = self._mark()
        return self

    def __exit__(self, *error: object) -> None:
        self.megabytes = (self._mark() - self._before) / 1024

    def _mark(self) -> int:
        found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
        assert found is not None
        return int(found[1])


@pytest.fixture
def peak_memory() -> Callable[[], AbstractContextManager[Peak]]:
    try:
        RESET.write_text("5")
    except OSError:
        pytest.skip("needs Linux's /proc to measure memory")
    return Peak


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `make_predictor`'s model."""
    from test_predictor import (
        make_predictor,  # when it runs: pytest rewrites the test files it collects first
    )

    folder = tmp_path_factory.mktemp("run")
    save_model(make_predictor().model, folder)
    return folder
