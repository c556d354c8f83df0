"""Save and load: our folders (model.safetensors + config.json) and the authors' .pth files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from xvit.config import ClipConfig, ModelConfig
from xvit.errors import WeightsError
from xvit.models.backbone import load_strictly
from xvit.models.published import FILES, pull
from xvit.models.released import read_released
from xvit.models.xvit import XViT

WEIGHTS, CONFIG = "model.safetensors", "config.json"
# Tensors under this prefix were in a foreign file but in no model; they are kept to write that file again.
UNUSED = "unused."


def save_model(model: XViT, folder: str | Path) -> None:
    """Write `model.safetensors` and `config.json` into `folder`; a killed process leaves the old ones."""
    write_folder(Path(folder), model, model.state_dict())


def write_folder(
    folder: Path,
    model: XViT,
    tensors: Mapping[str, Tensor],
    origin: Mapping[str, Any] | None = None,
) -> None:
    """`save_model` with tensors of one's own; `origin` says how a foreign file was wrapped."""
    clip = {name: getattr(model.clip, name) for name in ClipConfig.model_fields}
    description = {
        "model": model.config.model_dump(mode="json"),
        "clip": ClipConfig.model_validate(clip).model_dump(mode="json"),
        "num_classes": model.num_classes,
        "classes": model.classes,
        "several_labels": model.several_labels,
    }
    if origin is not None:
        description["origin"] = dict(origin)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = save(state, metadata={"format": "pt"})
    (folder / f".{WEIGHTS}").write_bytes(content)  # of a full disk Python tells more than safetensors
    (folder / f".{CONFIG}").write_text(json.dumps(description, indent=1), encoding="utf8")
    for name in (WEIGHTS, CONFIG):
        os.replace(folder / f".{name}", folder / name)


def load_model(path: str | Path, **known: Any) -> XViT:
    """A model in eval mode from a run folder, our weight file, the authors' `.pth`, or a published name.

    `known` tells what an authors' file does not: group=8, fraction=0.25, num_heads=12, … (see
    xvit.models.released.KNOWN). Raises WeightsError; nothing is half loaded.
    """
    path = pull(str(path)) if str(path) in FILES else Path(path)
    if is_released(path):
        released = read_released(path, **known)
        model = XViT(released.config, num_classes=released.num_classes, clip=released.clip)
        load_strictly(model, released.state, path)
    else:
        model, state, _ = read_ours(path)
        load_strictly(model, {k: v for k, v in state.items() if not k.startswith(UNUSED)}, path)
    return model.eval()


def is_released(path: Path) -> bool:
    """Whether `path` is to be read as the authors' layout. Raises WeightsError where there is nothing."""
    if not path.exists():
        raise WeightsError(path, "no such file or folder, nor a published name (xvit models lists them)")
    return path.is_file() and path.suffix != ".safetensors"


def read_ours(path: Path) -> tuple[XViT, dict[str, Tensor], dict[str, Any]]:
    """(the model with random weights, the tensors, config.json) of our folder or weight file."""
    weights = path / WEIGHTS if path.is_dir() else path
    config_file = weights.with_name(CONFIG)
    for file in (weights, config_file):
        if not file.is_file():
            raise WeightsError(path, f"no {file.name} here: not a run folder, or its training never saved")
    try:
        description = json.loads(config_file.read_text(encoding="utf8"))
        config = ModelConfig.model_validate(description["model"])
        clip = ClipConfig.model_validate(description["clip"])
        names = {key: description[key] for key in ("num_classes", "classes")}
        names["several_labels"] = bool(description.get("several_labels", False))
    except (ValueError, KeyError, TypeError, ValidationError) as err:
        raise WeightsError(config_file, f"not a model description: {str(err).splitlines()[0]}") from err
    try:
        state = load_file(weights)
    except (SafetensorError, OSError) as err:
        raise WeightsError(weights, f"truncated or not safetensors: {err}") from err
    return XViT(config, clip=clip, **names), state, description
