from __future__ import annotations

from chromium import chromium

__all__ = ["chromium"]
