"""Memory that requests have left, for the machine's other programs."""

from __future__ import annotations

import ctypes

M_ARENA_MAX = -8  # of glibc's <malloc.h>


def share_arenas() -> None:
    """Let all threads allocate from two arenas, before there are threads.

    glibc gives each thread one of its own, and pieces that stay in use keep all of them from shrinking.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 2)


def give_back() -> None:
    """Return free memory to the system, in a few milliseconds.

    glibc keeps what threads have freed, each thread for itself, which looks like a leak; other C libraries
    have no such call.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
