"""Shared by all tests: two threads at most, fixed seeds, and the place of the shared test material."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chromium import chromium

__all__ = ["chromium"]

SHARED = Path(__file__).parents[2] / "shared"

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of oracle, videos and weights that stands beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared")
    return SHARED
