"""Shared by all tests: one thread for each of pytest's two workers, seeds, and the shared test material."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from chromium import chromium

__all__ = ["chromium"]

SHARED = Path(__file__).parents[2] / "shared"

THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2  # the workers share two cores

torch.set_num_threads(THREADS)
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # of the processes that tests start


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of oracle, videos and weights that stands beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared")
    return SHARED
