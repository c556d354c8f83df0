"""Videos on disk as batches for the model."""

from xvit.data.dataset import VideoDataset
from xvit.data.loader import make_loader
from xvit.data.manifest import load_manifest
from xvit.data.records import Manifest
from xvit.data.video import FrameSource, open_video

__all__ = [
    "FrameSource",
    "Manifest",
    "VideoDataset",
    "load_manifest",
    "make_loader",
    "open_video",
]
