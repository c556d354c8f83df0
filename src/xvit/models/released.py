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

# Their name -> ours, by prefix; the first that fits. `new_fc` classifies where frame logits are averaged.
_COMMON = {"base_model.temp_embed": "temporal_embedding", "base_model.": "backbone."}
TEMPORAL_NAMES = _COMMON | {
    "consensus.cls_token": "head.cls_token",
    "consensus.temporal_encoder.": "head.blocks.",
    "consensus.mlp_head.4.": "head.fc.",
    "consensus.mlp_head.": "head.mlp.",
}
MEAN_NAMES = _COMMON | {"new_fc.": "head.fc."}

# What the published files need to be told when they hold no configuration of their own.
PUBLISHED: dict[str, dict[str, Any]] = {
    "xvit_b16_16_k600": {
        "group": 8,
        "fraction": 0.25,
        "num_heads": 12,
        "num_frames": 16,
        "sampling": "dense",
    },
    "xvit_b16_16_ss2": {
        "group": None,
        "fraction": 0.5,
        "num_heads": 12,
        "num_frames": 16,
        "sampling": "segment",
    },
}
KNOWN = ("group", "fraction", "num_heads", "num_frames", "size", "sampling")


class Released(NamedTuple):
    """An authors' file in our terms.

    state: our names. unused: their names, what no model reads. origin: how the file was wrapped (`wrapped`,
    `epoch`, `cfg`, the text of its own configuration, `order` of its tensors), enough to write it again.
    """

    config: ModelConfig
    clip: ClipConfig
    num_classes: int
    state: dict[str, Tensor]
    unused: dict[str, Tensor]
    origin: dict[str, Any]


def read_released(path: Path, **known: Any) -> Released:
    """Read a `.pth`/`.pyth` of the released code, wrapped or bare. Raises WeightsError.

    What the tensors tell is read from them; the rest comes from `known` (see KNOWN), else from the file's own
    configuration, else from what is published about a file of this name.
    """
    strange = [name for name in known if name not in KNOWN]
    if strange:
        raise WeightsError(path, f"nothing to be told about {strange[0]}; what may be: {', '.join(KNOWN)}")
    content = _read(path)
    wrapped = "model_state" in content
    theirs = content["model_state"] if wrapped else content
    state, unused = to_our_names(path, theirs)
    text = content.get("cfg") if wrapped else None
    facts = PUBLISHED.get(path.stem, {}) if text is None else {}
    config, clip = describe(path, state, yaml.safe_load(text) if text else None, facts | known)
    origin = {"wrapped": wrapped, "epoch": content.get("epoch") if wrapped else None, "cfg": text}
    origin["order"] = list(theirs)
    return Released(config, clip, len(_tensor(path, state, "head.fc.bias")), state, unused, origin)


def to_our_names(path: Path, theirs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(our name -> tensor, unused tensors by their own name). Raises WeightsError."""
    if "base_model.cls_token" not in theirs:
        raise WeightsError(path, "not weights of the released XViT code: no tensor base_model.cls_token")
    names = TEMPORAL_NAMES if "consensus.cls_token" in theirs else MEAN_NAMES
    state, unused = {}, {}
    for name, value in theirs.items():
        prefix = next((prefix for prefix in names if name.startswith(prefix)), None)
        if prefix is not None:
            state[names[prefix] + name[len(prefix) :]] = value
        elif name.startswith("new_fc."):
            # NOTE(parity): every file with the temporal head also holds a classifier that is never used.
            unused[name] = value
        else:
            raise WeightsError(path, f"unexpected tensor {name}")
    return state, unused


def to_their_name(name: str, temporal_head: bool) -> str:
    """The released code's name of our tensor `name`."""
    names = TEMPORAL_NAMES if temporal_head else MEAN_NAMES
    prefixes = {ours: theirs for theirs, ours in names.items()}
    prefix = next(prefix for prefix in prefixes if name.startswith(prefix))
    return prefixes[prefix] + name[len(prefix) :]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        wants = re.search(r"GLOBAL (\S+)", str(err))
        what = f"its pickle wants to run code ({wants[1]})" if wants else "not a PyTorch file"
        raise WeightsError(path, f"refused: {what}") from err
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as err:
        detail = str(err).partition("\n")[0] or type(err).__name__
        raise WeightsError(path, f"truncated or not a PyTorch file: {detail}") from err
    state = content.get("model_state", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(path, "not weights of the released XViT code: no tensors by name")
    return content


def _tensor(path: Path, state: dict[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise WeightsError(path, f"the tensor of {name} is missing")
    return state[name]


def describe(
    path: Path, state: dict[str, Tensor], settings: dict[str, Any] | None, known: dict[str, Any]
) -> tuple[ModelConfig, ClipConfig]:
    """The model and its clip, from tensors by our names and their configuration. Raises WeightsError."""
    patch = _tensor(path, state, "backbone.patch_embed.proj.weight")
    hidden = _tensor(path, state, "backbone.blocks.0.mlp.fc1.weight").shape[0]
    width, patch_size = patch.shape[0], patch.shape[-1]
    depth = _count(r"backbone\.blocks\.(\d+)\.", state)
    layers = _count(r"head\.blocks\.(\d+)\.", state)
    grid = round((_tensor(path, state, "backbone.pos_embed").shape[1] - 1) ** 0.5)
    told = _told(path, settings, known, depth)
    config = ModelConfig(
        name="vit_base_patch16_224",
        backbone_args={
            "img_size": grid * patch_size,
            "patch_size": patch_size,
            "embed_dim": width,
            "depth": depth,
            "num_heads": told["num_heads"],
            "mlp_ratio": hidden / width,
        },
        attention=told["attention"],
        mixing=Mixing(fraction=told["fraction"], group=told["group"], blocks=told["blocks"], layout="heads"),
        temporal_embedding="tile",
        temporal_length=_tensor(path, state, "temporal_embedding").shape[1],
        spatial_resize="released",
        head="temporal" if layers else "mean",
        head_depth=layers or 1,
        head_num_heads=told["head_num_heads"],
        dropout=told["dropout"],
    )
    return config, told["clip"]


def _count(pattern: str, state: dict[str, Tensor]) -> int:
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def _told(path: Path, settings: dict[str, Any] | None, known: dict[str, Any], depth: int) -> dict[str, Any]:
    """What no tensor tells: how frames mix, the number of attention heads, and the clip."""
    if settings is None:
        lacking = [name for name in ("group", "fraction", "num_heads") if name not in known]
        if lacking:
            asked = ", ".join(f"{name}=…" for name in lacking)
            raise WeightsError(path, f"does not tell how it was built; say {asked}")
        settings = {}
    xvit, data = settings.get("XVIT", {}), settings.get("DATA", {})
    head, test = settings.get("TEMPORAL_HEAD", {}), settings.get("TEST", {})
    frames = known.get("num_frames", data.get("NUM_FRAMES", 16))
    group = known["group"] if "group" in known else xvit["NUM_SEGMENTS"]
    # NOTE(parity): the released configurations list blocks 0 to 14 of 12; those that exist mix.
    blocks = tuple(i for i in xvit.get("LOCATIONS_LIST", range(depth)) if i < depth)
    dense = (
        known.get("sampling", "dense" if test.get("DATASET", "kinetics") == "kinetics" else "segment")
        == "dense"
    )
    return {
        "num_heads": known.get("num_heads") or _num_heads(path, xvit, head),
        "head_num_heads": known.get("num_heads") or head.get("NUM_ATTENTION_HEADS"),
        "attention": "mixing" if xvit.get("USE_XVIT", True) else "spatial",
        "fraction": known["fraction"] if "fraction" in known else 2 / xvit["SHIFT_DIV"],
        "group": None if group == frames else group,
        "blocks": "all" if len(blocks) == depth else blocks,
        "dropout": settings.get("MODEL", {}).get("DROPOUT_RATE", 0.5),
        "clip": ClipConfig(
            num_frames=frames,
            size=known.get("size", data.get("TEST_CROP_SIZE", 224)),
            sampling="dense" if dense else "segment",
            frame_stride=data.get("SAMPLING_RATE", 16) if dense else 1,
            target_fps=data.get("TARGET_FPS", 30) if dense else None,
            clip_position="released",
            mean=tuple(data.get("MEAN", (0.5,) * 3)),
            std=tuple(data.get("STD", (0.5,) * 3)),
        ),
    }


def _num_heads(path: Path, xvit: dict[str, Any], head: dict[str, Any]) -> int:
    name = xvit.get("BASE_MODEL", "").removesuffix("_in21k")
    if timm.is_model(name):
        return timm.create_model(name, depth=1, weight_init="skip").blocks[0].attn.num_heads
    if "NUM_ATTENTION_HEADS" in head:
        return head["NUM_ATTENTION_HEADS"]
    raise WeightsError(path, "does not tell its number of attention heads; say num_heads=…")
