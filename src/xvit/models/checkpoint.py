"""Save and load: our folders (model.safetensors + config.json) and the authors' .pth files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from xvit.config import ClipConfig, ModelConfig
from xvit.errors import WeightsError
from xvit.models.backbone import load_strictly
from xvit.models.released import read_released
from xvit.models.xvit import XViT

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_model(model: XViT, folder: str | Path) -> None:
    """Write `model.safetensors` and `config.json` into `folder`; a killed process leaves the old ones."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    description = {
        "model": model.config.model_dump(mode="json"),
        "clip": ClipConfig.model_validate(
            {name: getattr(model.clip, name) for name in ClipConfig.model_fields}
        ).model_dump(mode="json"),
        "num_classes": model.num_classes,
        "classes": model.classes,
    }
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / f".{WEIGHTS}", metadata={"format": "pt"})
    (folder / f".{CONFIG}").write_text(json.dumps(description, indent=1), encoding="utf8")
    for name in (WEIGHTS, CONFIG):
        os.replace(folder / f".{name}", folder / name)


def load_model(path: str | Path, **known: Any) -> XViT:
    """A model in eval mode from a run folder, our weight file, or the authors' `.pth`/`.pyth`.

    `known` names what the authors' file does not tell, such as group=8, fraction=0.25, num_heads=12.
    Raises WeightsError; nothing is half loaded.
    """
    path = Path(path)
    if not path.exists():
        raise WeightsError(path, "no such file or folder")
    if path.is_file() and path.suffix != ".safetensors":
        released = read_released(path, **known)
        model = XViT(released.config, num_classes=released.num_classes, clip=released.clip)
        load_strictly(model, released.state, path)
    else:
        model = _load_ours(path if path.is_dir() else path.parent)
    return model.eval()


def _load_ours(folder: Path) -> XViT:
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise WeightsError(folder, f"no {name} here: not a run folder, or its training never saved")
    try:
        description = json.loads((folder / CONFIG).read_text(encoding="utf8"))
        config = ModelConfig.model_validate(description["model"])
        clip = ClipConfig.model_validate(description["clip"])
        num_classes, classes = description["num_classes"], description["classes"]
    except (ValueError, KeyError, TypeError, ValidationError) as err:
        raise WeightsError(folder / CONFIG, f"not a model description: {str(err).splitlines()[0]}") from err
    model = XViT(config, num_classes=num_classes, clip=clip, classes=classes)
    try:
        state = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as err:
        raise WeightsError(folder / WEIGHTS, f"truncated or not safetensors: {err}") from err
    load_strictly(model, state, folder / WEIGHTS)
    return model
