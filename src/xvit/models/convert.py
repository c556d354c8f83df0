"""What `xvit weights inspect|convert|verify` do: look into a weight file, carry it over, prove it whole."""

from __future__ import annotations

import hashlib
import io
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import yaml
from torch import Tensor

from xvit.config import Mixing
from xvit.errors import WeightsError
from xvit.models.backbone import load_strictly
from xvit.models.checkpoint import UNUSED, is_released, load_model, read_ours, write_folder
from xvit.models.released import describe, read_released, to_our_names, to_their_name
from xvit.models.xvit import XViT, attention_layers, mixed_blocks


class Row(NamedTuple):
    """One tensor of a conversion: its name in the source, its name in the target, its shape and dtype."""

    source: str
    target: str
    shape: tuple[int, ...]
    dtype: str


def inspect_weights(path: str | Path, **known: Any) -> dict[str, Any]:
    """Plain data about a weight file or run folder: what it is, how it was built, and its tensors.

    Raises WeightsError.
    """
    path = Path(path)
    if is_released(path):
        released = read_released(path, **known)
        state = {to_their_name(n, released.config.head == "temporal"): v for n, v in released.state.items()}
        state |= released.unused
        config, clip = released.config, released.clip
        num_classes: tuple[int, ...] = (released.num_classes,)
    else:
        model, state, _ = read_ours(path)
        config, clip, num_classes = model.config, model.clip, model.num_classes
    return {
        "path": str(path),
        "layout": "released" if is_released(path) else "xvit",
        "parameters": sum(v.numel() for v in state.values()),
        "num_classes": num_classes,
        "model": config.model_dump(mode="json"),
        "clip": clip.model_dump(mode="json"),
        "tensors": [(name, tuple(v.shape), _dtype(v)) for name, v in state.items()],
    }


def save_torch(content: object, path: Path) -> None:
    """`torch.save`, but a full disk is an OSError that says so."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getbuffer())


def convert_weights(source: str | Path, target: str | Path, **known: Any) -> list[Row]:
    """The authors' file to our folder `target`, or ours to their file `target`; key by key, strict.

    A file of theirs that went to our layout comes back bit for bit. Raises WeightsError.
    """
    source, target = Path(source), Path(target)
    return _to_ours(source, target, known) if is_released(source) else _to_theirs(source, target)


def check_released(model: XViT) -> None:
    """Raise WeightsError, saying what it would need, where the authors' layout has no place for `model`."""
    state = {name: value.to("meta") for name, value in model.state_dict().items()}
    with torch.device("meta"):
        _check_expressible(Path("model"), model, state, {"cfg": _their_settings(model)})


def verify_weights(path: str | Path, **known: Any) -> dict[str, Any]:
    """Load strictly, look for numbers that are none, score one clip; theirs are also carried over and back.

    Returns the checks that passed and the file's sha256. Raises WeightsError naming what failed.
    """
    path = Path(path)
    model = load_model(path, **known)
    bad = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if bad:
        raise WeightsError(path, f"{len(bad)} tensors hold NaN or infinity, the first is {bad[0]}")
    checks = [f"{len(model.state_dict())} tensors load strictly", "all numbers are finite"]
    with torch.inference_mode():
        clip = torch.zeros(1, model.clip.num_frames, 3, model.clip.size, model.clip.size)
        if not model(clip).isfinite().all():
            raise WeightsError(path, "a grey clip gets scores that are not numbers")
    checks.append("a grey clip gets finite scores")
    if is_released(path):
        _check_return(path, known)
        checks.append("carried to our names and back bit for bit")
        file = path
    else:
        file = path / "model.safetensors" if path.is_dir() else path
    return {"path": str(path), "sha256": _sha256(file), "checks": checks}


def _to_ours(source: Path, folder: Path, known: dict[str, Any]) -> list[Row]:
    released = read_released(source, **known)
    model = XViT(released.config, num_classes=released.num_classes, clip=released.clip)
    load_strictly(model, released.state, source)
    unused = {UNUSED + name: value for name, value in released.unused.items()}
    write_folder(folder, model, released.state | unused, released.origin)
    temporal = released.config.head == "temporal"
    rows = [Row(to_their_name(n, temporal), n, tuple(v.shape), _dtype(v)) for n, v in released.state.items()]
    return rows + [Row(n.removeprefix(UNUSED), n, tuple(v.shape), _dtype(v)) for n, v in unused.items()]


def _to_theirs(source: Path, target: Path) -> list[Row]:
    model, tensors, description = read_ours(source)
    state = {name: value for name, value in tensors.items() if not name.startswith(UNUSED)}
    load_strictly(model, state, source)
    unused = {name: value for name, value in tensors.items() if name.startswith(UNUSED)}
    origin = description.get("origin") or {"wrapped": True, "epoch": 0, "cfg": _their_settings(model)}
    _check_expressible(source, model, state, origin)
    temporal = model.config.head == "temporal"
    if temporal and not unused:
        # NOTE(parity): their code wants the classifier it never uses.
        unused = {f"{UNUSED}new_fc.{n}": torch.zeros_like(v) for n, v in model.head.fc.state_dict().items()}
    theirs = _their_state(state, unused, temporal)
    theirs = {name: theirs[name] for name in origin.get("order", theirs)}
    content: dict[str, Any] = theirs
    if origin["wrapped"]:
        content = {
            "epoch": origin["epoch"],
            "model_state": theirs,
            "optimizer_state": {},
            "cfg": origin["cfg"],
        }
    save_torch(content, target)
    names = {to_their_name(name, temporal): name for name in state}
    return [Row(names.get(n, UNUSED + n), n, tuple(v.shape), _dtype(v)) for n, v in theirs.items()]


def _their_state(state: dict[str, Tensor], unused: dict[str, Tensor], temporal: bool) -> dict[str, Tensor]:
    theirs = {to_their_name(name, temporal): value for name, value in state.items()}
    return theirs | {name.removeprefix(UNUSED): value for name, value in unused.items()}


def _their_settings(model: XViT) -> str:
    """The part of their configuration that decides what the model computes, as YAML."""
    config, clip = model.config, model.clip
    mixing, depth = config.mixing, len(model.backbone.blocks)
    heads = attention_layers(model.backbone)[0].num_heads
    settings = {
        "XVIT": {
            # Their backbone has the heads of this name, or else those of the temporal head.
            "BASE_MODEL": config.name if config.head_num_heads not in (None, heads) else "",
            "USE_XVIT": config.attention == "mixing",
            "NUM_SEGMENTS": mixing.group or clip.num_frames,
            "SHIFT_DIV": round(2 / mixing.fraction) if mixing.fraction else 0,
            "LOCATIONS_LIST": sorted(mixed_blocks(mixing, depth)),
            "CONSENSUS_TYPE": "vit" if config.head == "temporal" else "avg",
        },
        "TEMPORAL_HEAD": {
            "HIDDEN_DIM": model.num_features,
            "MLP_DIM": model.num_features,
            "NUM_ATTENTION_HEADS": config.head_num_heads or heads,
            "NUM_HIDDEN_LAYERS": config.head_depth,
        },
        "MODEL": {"NUM_CLASSES": sum(model.num_classes), "DROPOUT_RATE": config.dropout},
        "DATA": {
            "NUM_FRAMES": clip.num_frames,
            "TEST_CROP_SIZE": clip.size,
            "SAMPLING_RATE": clip.frame_stride,
            "TARGET_FPS": clip.target_fps,
            "MEAN": list(clip.mean),
            "STD": list(clip.std),
        },
        "TEST": {"DATASET": "kinetics" if clip.sampling == "dense" else "ssv2"},
    }
    return yaml.safe_dump(settings)


def _check_expressible(path: Path, model: XViT, state: dict[str, Tensor], origin: dict[str, Any]) -> None:
    """Refuse what their layout has no place for: read our own description back and compare."""
    config, heads = model.config, attention_layers(model.backbone)[0].num_heads
    plain = {
        "one task": len(model.num_classes) == 1,
        "attention=mixing or spatial": config.attention in ("mixing", "spatial"),
        "summary_token=false": not config.summary_token,
        "head=temporal or mean": config.head in ("temporal", "mean"),
        "head_positions=false": not config.head_positions,
        "head_init=timm": config.head_init == "timm",
        f"head_num_heads={heads}": config.head_num_heads in (None, heads)
        or (timm.is_model(config.name) and "num_heads" not in config.backbone_args),
        "temporal_embedding=tile": config.temporal_embedding == "tile",
        "no adapters": config.adapters is None,
        "feature_blocks=1": config.feature_blocks == 1,
        "tubelet=[1]": config.tubelet == (1.0,),
        "mixing.fraction above 0": config.mixing.fraction > 0,
    }
    if origin["cfg"] and all(plain.values()):
        theirs, _ = describe(path, state, yaml.safe_load(origin["cfg"]), {})
        depth = len(model.backbone.blocks)
        own = [
            replace(m, group=m.group or model.clip.num_frames, blocks=tuple(sorted(mixed_blocks(m, depth))))
            for m in (config.mixing, theirs.mixing)
        ]
        for field in fields(Mixing) if config.attention == "mixing" else ():
            mine, wanted = (getattr(mixing, field.name) for mixing in own)
            plain[f"mixing.{field.name}={str(wanted).lower()}"] = mine == wanted
    lacking = [what for what, holds in plain.items() if not holds]
    if lacking:
        raise WeightsError(path, f"the authors' layout has no place for this model; it needs {lacking[0]}")
    if origin["cfg"]:
        load_strictly(XViT(theirs, num_classes=model.num_classes, clip=model.clip), state, path)


def _check_return(path: Path, known: dict[str, Any]) -> None:
    released = read_released(path, **known)
    temporal = released.config.head == "temporal"
    back = {to_their_name(name, temporal): value for name, value in released.state.items()} | released.unused
    again, unused = to_our_names(path, back)
    same = all(torch.equal(again[name], value) for name, value in released.state.items())
    if not same or unused.keys() != released.unused.keys():
        raise WeightsError(path, "its tensors do not come back from our names")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
