"""Small models for the tests of this folder."""

from __future__ import annotations

from typing import Any

from xvit.config import ClipConfig, ModelConfig
from xvit.models import XViT, build_model

ARGS = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}


def small_model(
    frames: int = 8, size: int = 16, num_classes: int | tuple[int, ...] = 5, **config: Any
) -> XViT:
    """A ViT of width 48 with three heads, in eval mode; takes `depth` and the fields of ModelConfig."""
    args = ARGS | {key: config.pop(key) for key in ("depth", "num_heads") if key in config}
    model = ModelConfig.model_validate({"name": "vit_tiny_patch16_224", "backbone_args": args, **config})
    return build_model(model, num_classes=num_classes, clip=ClipConfig(num_frames=frames, size=size)).eval()
