"""Models by name: ours and every timm image model they can be built on."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Any

import timm
from pydantic import ValidationError
from timm.models import get_pretrained_cfg

from xvit.config import ClipConfig, ModelConfig
from xvit.errors import ConfigError
from xvit.models.backbone import NAMES
from xvit.models.xvit import XViT, build_model


def list_models(pattern: str = "*") -> list[str]:
    """The names of our models and of timm's ViTs that match a shell pattern, ours first."""
    ours = [name for name in NAMES if fnmatch.fnmatch(name, pattern)]
    return ours + timm.list_models(pattern, module="vision_transformer")


def data_settings(name: str) -> dict[str, Any]:
    """`size`, `mean` and `std` that a name's image weights were trained with."""
    settings = get_pretrained_cfg(NAMES.get(name, name))
    if settings is None:
        return {}
    size = settings.input_size[-1]
    # SigLIP's 384 px in patches of 14: timm leaves the last 6 px out.
    patch = re.search(r"patch(\d+)", name)
    size -= size % int(patch[1]) if patch else 0
    return {"size": size, "mean": tuple(settings.mean), "std": tuple(settings.std)}


def create_model(
    name: str,
    *,
    num_classes: int | Sequence[int] = 400,
    num_frames: int = 8,
    size: int | None = None,
    classes: Sequence[Sequence[str]] | None = None,
    several_labels: bool = False,
    pretrained: bool = False,
    **config: Any,
) -> XViT:
    """A video model on the image model `name`, with the frame size, mean and std of its image weights.

    `config` are fields of ModelConfig: mixing=Mixing(…), head="mean", backbone_args={…}, …; `pretrained` is
    short for backbone_weights="timm". Raises ConfigError or WeightsError.
    """
    if pretrained:
        config.setdefault("backbone_weights", "timm")
    settings = data_settings(name)
    if size is not None or "img_size" in config.get("backbone_args", {}):
        settings["size"] = size or config["backbone_args"]["img_size"]
    try:
        model = ModelConfig(name=name, **config)
        clip = ClipConfig(num_frames=num_frames, **settings)
    except ValidationError as err:
        problem = err.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from err
    return build_model(
        model, num_classes=num_classes, clip=clip, classes=classes, several_labels=several_labels
    )
