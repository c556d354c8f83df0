"""A contact sheet: what the model sees, one clip a row."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from xvit.config import ClipConfig
from xvit.data.dataset import VideoDataset


def write_sheet(dataset: VideoDataset, path: str | Path, *, num_videos: int = 8) -> None:
    """Write the first view of videos spread over the dataset as rows of frames. Raises VideoReadError."""
    rows = torch.linspace(0, len(dataset) - 1, min(num_videos, len(dataset))).round().int().unique().tolist()
    clips = [visible(dataset[row].frames[0, 0], dataset.clip) for row in rows]
    strips = torch.cat([torch.cat(list(clip), dim=2) for clip in clips], dim=1)
    Image.fromarray(strips.permute(1, 2, 0).numpy()).save(path)


def visible(frames: torch.Tensor, clip: ClipConfig) -> torch.Tensor:
    """Normalised (T, C, H, W) back to uint8."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (clip.mean, clip.std))
    return ((frames * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
