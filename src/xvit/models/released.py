"""The authors' files: what their tensors and their own configuration say, and our names for both."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import yaml
from torch import Tensor

from xvit.config import ClipConfig, Mixing, ModelConfig
from xvit.errors import WeightsError

# Their name -> ours, by prefix. `new_fc` is the classifier where frame logits are averaged.
TEMPORAL_NAMES = {
    "base_model.temp_embed": "temporal_embedding",
    "base_model.": "backbone.",
    "consensus.cls_token": "head.cls_token",
    "consensus.temporal_encoder.": "head.blocks.",
    "consensus.mlp_head.4.": "head.fc.",
    "consensus.mlp_head.": "head.mlp.",
}
MEAN_NAMES = {
    "base_model.temp_embed": "temporal_embedding",
    "base_model.": "backbone.",
    "new_fc.": "head.fc.",
}


class Released(NamedTuple):
    """An authors' file in our terms."""

    config: ModelConfig
    clip: ClipConfig
    num_classes: int
    state: dict[str, Tensor]
    unused: dict[str, Tensor]


def read_released(path: Path, **known: Any) -> Released:
    """Read a `.pth`/`.pyth` of the released code, wrapped or bare. Raises WeightsError.

    What the tensors tell is read from them; the rest comes from the file's own configuration, else from
    `known`: group (None for the whole clip), fraction, num_heads, num_frames, size.
    """
    content = _read(path)
    state = content.get("model_state", content)
    if "base_model.cls_token" not in state:
        raise WeightsError(path, "not weights of the released XViT code: no tensor base_model.cls_token")
    names = TEMPORAL_NAMES if "consensus.cls_token" in state else MEAN_NAMES
    renamed, unused = {}, {}
    for name, value in state.items():
        prefix = next((prefix for prefix in names if name.startswith(prefix)), None)
        if prefix is not None:
            renamed[names[prefix] + name[len(prefix) :]] = value
        elif name.startswith("new_fc."):
            # NOTE(parity): every file with the temporal head also holds a classifier that is never used.
            unused[name] = value
        else:
            raise WeightsError(path, f"unexpected tensor {name}")
    text = content.get("cfg") if "model_state" in content else None
    config, clip = _describe(path, renamed, yaml.safe_load(text) if text else None, known)
    return Released(config, clip, len(renamed["head.fc.bias"]), renamed, unused)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        raise WeightsError(path, "refused: its pickle is damaged or wants to run code") from err
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as err:
        raise WeightsError(path, f"truncated or not a PyTorch file: {str(err).splitlines()[0]}") from err
    if not isinstance(content, dict):
        raise WeightsError(path, "not a state dict")
    return content


def _describe(
    path: Path, state: dict[str, Tensor], settings: dict[str, Any] | None, known: dict[str, Any]
) -> tuple[ModelConfig, ClipConfig]:
    patch = state["backbone.patch_embed.proj.weight"]
    width, patch_size = patch.shape[0], patch.shape[-1]
    depth = 1 + max(int(m[1]) for name in state if (m := re.match(r"backbone\.blocks\.(\d+)\.", name)))
    layers = {m[1] for name in state if (m := re.match(r"head\.blocks\.(\d+)\.", name))}
    grid = round((state["backbone.pos_embed"].shape[1] - 1) ** 0.5)
    facts = _facts(path, settings, known, depth)
    config = ModelConfig(
        name="vit_base_patch16_224",
        backbone_args={
            "img_size": grid * patch_size,
            "patch_size": patch_size,
            "embed_dim": width,
            "depth": depth,
            "num_heads": facts["num_heads"],
            "mlp_ratio": state["backbone.blocks.0.mlp.fc1.weight"].shape[0] / width,
        },
        attention=facts["attention"],
        mixing=Mixing(
            fraction=facts["fraction"], group=facts["group"], blocks=facts["blocks"], layout="heads"
        ),
        temporal_embedding="tile",
        temporal_length=state["temporal_embedding"].shape[1],
        spatial_resize="released",
        head="temporal" if layers else "mean",
        head_depth=len(layers) or 1,
        head_num_heads=facts["head_num_heads"],
        dropout=0.5,
    )
    return config, facts["clip"]


def _facts(path: Path, settings: dict[str, Any] | None, known: dict[str, Any], depth: int) -> dict[str, Any]:
    """What no tensor tells: mixing, attention heads and the clip."""
    if settings is None:
        lacking = [name for name in ("group", "fraction", "num_heads") if name not in known]
        if lacking:
            asked = ", ".join(f"{name}=…" for name in lacking)
            raise WeightsError(path, f"holds no configuration; say load_model(path, {asked})")
        settings = {}
    xvit, data = settings.get("XVIT", {}), settings.get("DATA", {})
    head = settings.get("TEMPORAL_HEAD", {})
    frames = known.get("num_frames", data.get("NUM_FRAMES", 16))
    group = known["group"] if "group" in known else xvit["NUM_SEGMENTS"]
    # NOTE(parity): the released configurations list blocks 0 to 14 of 12; those that exist mix.
    blocks = tuple(i for i in xvit.get("LOCATIONS_LIST", range(depth)) if i < depth)
    dense = settings.get("TEST", {}).get("DATASET", "kinetics") == "kinetics"
    return {
        "num_heads": known.get("num_heads") or _num_heads(path, xvit, head),
        "head_num_heads": known.get("num_heads") or head.get("NUM_ATTENTION_HEADS"),
        "attention": "mixing" if xvit.get("USE_XVIT", True) else "spatial",
        "fraction": known["fraction"] if "fraction" in known else 2 / xvit["SHIFT_DIV"],
        "group": None if group == frames else group,
        "blocks": "all" if len(blocks) == depth else blocks,
        "clip": ClipConfig(
            num_frames=frames,
            size=known.get("size", data.get("TEST_CROP_SIZE", 224)),
            sampling="dense" if dense else "segment",
            frame_stride=data.get("SAMPLING_RATE", 1) if dense else 1,
            target_fps=data.get("TARGET_FPS") if dense else None,
            clip_position="released",
            mean=tuple(data.get("MEAN", (0.5,) * 3)),
            std=tuple(data.get("STD", (0.5,) * 3)),
        ),
    }


def _num_heads(path: Path, xvit: dict[str, Any], head: dict[str, Any]) -> int:
    name = xvit.get("BASE_MODEL", "").removesuffix("_in21k")
    if timm.is_model(name):
        with torch.device("meta"):
            return timm.create_model(name).blocks[0].attn.num_heads
    if "NUM_ATTENTION_HEADS" in head:
        return head["NUM_ATTENTION_HEADS"]
    raise WeightsError(path, "does not tell its number of attention heads; say load_model(path, num_heads=…)")
