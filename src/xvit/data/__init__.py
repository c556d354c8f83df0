"""Videos on disk as batches for the model.

The public names below are imported on first use: decoding (`xvit.data.pyav`) needs no torch, and the web
service decodes in processes without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xvit.data.dataset import VideoDataset
    from xvit.data.loader import make_loader
    from xvit.data.manifest import load_manifest
    from xvit.data.records import Manifest
    from xvit.data.video import FrameSource, open_video

_HOMES = {
    "FrameSource": "xvit.data.video",
    "Manifest": "xvit.data.records",
    "VideoDataset": "xvit.data.dataset",
    "load_manifest": "xvit.data.manifest",
    "make_loader": "xvit.data.loader",
    "open_video": "xvit.data.video",
}
__all__ = [
    "FrameSource",
    "Manifest",
    "VideoDataset",
    "load_manifest",
    "make_loader",
    "open_video",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'xvit.data' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
