"""What the tests of exported files share."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xvit.config import ClipConfig, ModelConfig
from xvit.models import XViT, build_model

pytest.importorskip("onnxruntime", reason="needs the extra onnx")


@pytest.fixture(scope="session")
def loud_model() -> Any:
    """Makes a small model whose every parameter says something; takes fields of ModelConfig."""

    def make(frames: int = 4, size: int = 16, classes: tuple[int, ...] = (5,), **config: Any) -> XViT:
        args = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3} | config.pop("args", {})
        fields = {"name": "vit_tiny_patch16_224", "backbone_args": args, **config}
        clip = ClipConfig(num_frames=frames, size=size, sampling="dense", frame_stride=2, std=(0.5, 0.4, 0.3))
        names = [[f"class {task}.{i} ä" for i in range(count)] for task, count in enumerate(classes)]
        model = build_model(
            ModelConfig.model_validate(fields), num_classes=classes, clip=clip, classes=names
        ).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    return make
