"""Why a model decided as it did, and its decisions written on the video."""

from __future__ import annotations

from xvit.visualize.explanation import METHODS, Explanation, explain, explain_clip
from xvit.visualize.pictures import WRITERS, blend, write, write_html, write_mp4, write_png

__all__ = [
    "METHODS",
    "WRITERS",
    "Explanation",
    "blend",
    "explain",
    "explain_clip",
    "write",
    "write_html",
    "write_mp4",
    "write_png",
]
