"""Memory that requests have left, for the machine's other programs."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return free memory to the system, in a few milliseconds.

    glibc keeps what threads have freed, each thread for itself, which looks like a leak; other C libraries
    have no such call.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
