"""One model's weights for another: of other frames and size, with adapters or gates, with another head."""

from __future__ import annotations

from torch import Tensor

from xvit.models.backbone import spatial_positions
from xvit.models.heads import stretch
from xvit.models.mixing import SpaceTimeAttention
from xvit.models.xvit import XViT


def fit_weights(source: XViT, model: XViT, *, new_head: bool = False) -> dict[str, Tensor]:
    """The weights of `source` as far as they can be those of `model`; what is left does not fit.

    Positions in space and time are resampled to those of `model`. What only `model` has begins as what
    changes nothing: adapters and a temporal embedding as zero, gates closed, or open where `source` mixes
    without one. With `new_head` the classifier is the model's own, and all of the head where the heads
    differ.
    """
    state, own = source.state_dict(), model.state_dict()
    positions = spatial_positions(
        source.backbone, tuple(model.backbone.patch_embed.grid_size), source.config.spatial_resize
    )
    if positions is not None:
        state["backbone.pos_embed"] = positions
    if source.temporal_embedding is not None and model.temporal_embedding is not None:
        state["temporal_embedding"] = source.temporal_positions(model.temporal_embedding.shape[1])
    if {"head.positions"} <= state.keys() & own.keys():
        state["head.positions"] = stretch(state["head.positions"], own["head.positions"].shape[1])
    mixes = {
        f"{name}.mix_gate"
        for name, layer in source.named_modules()
        if isinstance(layer, SpaceTimeAttention) and layer.mixing is not None
    }
    for name in own.keys() - state.keys():
        if name.endswith(".mix_gate"):
            state[name] = own[name].new_full(own[name].shape, float(name in mixes))
        elif ".adapter." in name or name == "temporal_embedding":
            state[name] = own[name]
    alike = _head_reads(source) == _head_reads(model)
    if not (alike or new_head):
        state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    if new_head:
        alike = alike and _head_shapes(state) == _head_shapes(own)
        fresh = "head.fc." if alike else "head."
        state = {name: tensor for name, tensor in state.items() if not name.startswith(fresh)}
        state |= {name: tensor for name, tensor in own.items() if name.startswith(fresh)}
    return state


def _head_reads(model: XViT) -> tuple[object, ...]:
    """What the columns of the classifier are about."""
    config = model.config
    return config.feature_blocks, config.head, config.head_moments if config.head == "moments" else None


def _head_shapes(state: dict[str, Tensor]) -> dict[str, object]:
    """Of all of the head but its classifier."""
    names = [name for name in state if name.startswith("head.") and not name.startswith("head.fc.")]
    return {name: state[name].shape for name in names}
