"""A trained model as a program of tensors: whole clips, or one step of a stream."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from xvit.errors import ConfigError
from xvit.models import XViT
from xvit.models.backbone import embed
from xvit.models.heads import MeanHead, MomentsHead, TemporalHead, stretch
from xvit.models.mixing import SpaceTimeAttention
from xvit.models.streaming import StreamingXViT

TRACED_BATCH = 2  # one would be taken for a constant


class Traced(NamedTuple):
    """A module with what it is traced with: inputs by name, and which axis of each is the batch."""

    module: nn.Module
    inputs: dict[str, Tensor]
    batch_axes: dict[str, int | None]
    outputs: tuple[str, ...]

    def program(self) -> ExportedProgram:
        """Traced by torch.export, any batch. Raises ConfigError where it cannot be."""
        batch = Dim("batch", min=1)
        first, *state = [None if axis is None else {axis: batch} for axis in self.batch_axes.values()]
        shapes: Any = (first, tuple(state)) if state else (first,)
        try:
            with torch.no_grad():
                return torch.export.export(
                    self.module, tuple(self.inputs.values()), dynamic_shapes=shapes, strict=False
                )
        except Exception as err:  # whatever the tracer stumbles over
            reason = str(err).strip().partition("\n")[0]
            raise ConfigError(f"this model cannot be exported: {type(err).__name__}: {reason}") from err


class WholeClips(nn.Module):
    """frames (B, T, 3, H, W) -> logits (B, K) and what the classifier sees (B, D)."""

    def __init__(self, model: XViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.clip_features(frames)
        return self.model.head.fc(features), features


def whole_clips(model: XViT) -> Traced:
    """The model as it is, at the frames and size it was trained with."""
    clip = model.clip
    frames = torch.randn(TRACED_BATCH, clip.num_frames, 3, clip.size, clip.size)
    return Traced(WholeClips(model).eval(), {"frames": frames}, {"frames": 0}, ("logits", "features"))


class _Recall:
    """The memory of a layer's mixed tensors as values that come and go, in the order of the layers."""

    def __init__(self) -> None:
        self.before: Iterator[Tensor] = iter(())
        self.after: list[Tensor] = []

    def __call__(self, layer: SpaceTimeAttention, x: Tensor) -> Tensor:
        """Eq. 9 for the newest frame, x (B, 1, N, ..., C)."""
        own = x[..., : layer.moves[-1].stop]
        past = next(self.before)  # (B, window, N, ..., moved), oldest first
        parts = [past[:, past.shape[1] + m.offset, ..., m.start : m.stop][:, None] for m in layer.moves]
        self.after.append(torch.cat([past[:, 1:], own], dim=1))
        return torch.cat([*parts, x[..., layer.moves[-1].stop :]], dim=-1)


class StreamStep(nn.Module):
    """One frame of a causal model as a function: what `StreamingXViT` remembers goes in and comes out.

    forward takes a frame (B, 3, H, W) and gives logits (B, K); `memory` (M, B, window, N, …) are the channels
    of earlier frames, M the mixed tensors of all layers; `recent` (B, T-1, D) the features of the frames
    before; `seen` (1,) int64 the frames so far. All begin as zeros.
    """

    _positions: Tensor
    _bases: Tensor

    def __init__(self, model: XViT) -> None:
        super().__init__()
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        # Refuses models that look ahead.
        self.model: XViT = StreamingXViT(copy.deepcopy(model, shared)).model
        self._recall = _Recall()
        self._layers = [
            m for m in self.model.backbone.blocks.modules() if isinstance(m, SpaceTimeAttention) and m.moves
        ]
        for layer in self._layers:
            layer.memory = lambda _, x, layer=layer: self._recall(layer, x)
        self._group = self.model.config.mixing.group if self._layers else None
        self._prepare_head()

    def _prepare_head(self) -> None:
        """What the head needs that depends on n, the frames that there are: a row for each n = 1 … T."""
        head, length = self.model.head, self.model.clip.num_frames
        lengths = range(1, length + 1)
        if isinstance(head, MomentsHead):  # (T, moments, T), for n features at the end
            bases = [nn.functional.pad(head.basis(n), (length - n, 0)) for n in lengths]
            self.register_buffer("_bases", torch.stack(bases))
        elif isinstance(head, TemporalHead) and head.positions is not None:  # (T, T, D), likewise
            rows = [nn.functional.pad(stretch(head.positions, n), (0, 0, length - n, 0)) for n in lengths]
            self.register_buffer("_positions", torch.cat(rows).detach())

    def first_state(self, streams: int) -> dict[str, Tensor]:
        """The state before the first frame."""
        clip, model = self.model.clip, self.model
        state = {
            "recent": torch.zeros(streams, clip.num_frames - 1, model.num_features),
            "seen": torch.zeros(1, dtype=torch.int64),
        }
        if not self._layers:
            return state
        # A frame tells how many tokens there are and what of them is kept.
        first = self._layers[0]
        window = max(-m.offset for m in first.moves)
        patches = (clip.size // model.backbone.patch_embed.patch_size[0]) ** 2
        tokens = patches + model.backbone.num_prefix_tokens
        kept = (first.num_heads, first.moves[-1].stop) if first._per_head else (first.moves[-1].stop,)
        count = sum(len(layer.mixing.mixed) for layer in self._layers if layer.mixing is not None)
        return {"memory": torch.zeros(count, streams, window, tokens, *kept), **state}

    def forward(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        *memory, recent, seen = state
        if memory:
            past = memory[0]
            if self._group is not None:
                past = past * (seen % self._group != 0).to(past.dtype)
            self._recall.before, self._recall.after = iter(past.unbind(0)), []
        newest = self._frame_feature(frame, seen)
        window = torch.cat([recent, newest], dim=1)
        logits = self._head(window, seen)
        after = [torch.stack(self._recall.after)] if memory else []
        return logits, *after, window[:, 1:], seen + 1

    def _frame_feature(self, frame: Tensor, seen: Tensor) -> Tensor:
        """(B, 1, D): as `XViT.forward_features`, but the number of the frame is a tensor."""
        model = self.model
        x = embed(model.backbone, frame, model.config.spatial_resize)[:, None]
        table = model.temporal_embedding
        if table is not None:
            x = x + table.index_select(1, seen % table.shape[1])
        return model.encode(x)

    def _head(self, window: Tensor, seen: Tensor) -> Tensor:
        """The head over the frames that there were; window: (B, T, D), the newest last."""
        head: Any = self.model.head
        length = window.shape[1]
        there = torch.arange(length) >= length - 1 - seen  # (T,)
        if isinstance(head, MeanHead):
            weight = there.to(window.dtype)[None, :, None]
            return head.fc((window * weight).sum(dim=1) / weight.sum())
        if isinstance(head, MomentsHead):
            return head(window, basis=self._bases.index_select(0, seen.clamp(max=length - 1))[0])
        token = head.cls_token.expand(window.shape[0], -1, -1)
        if head.from_mean:
            weight = there.to(window.dtype)[None, :, None]
            token = token + (window * weight).sum(dim=1, keepdim=True) / weight.sum()
        if head.positions is not None:
            window = window + self._positions.index_select(0, seen.clamp(max=length - 1))
        x = torch.cat([token, window], dim=1)
        mask = torch.cat([there.new_ones(1), there])[None, None, None]
        for block in head.blocks:
            x = block(x, attn_mask=mask)
        return head.fc(head.mlp(x[:, 0]))


def stream_step(model: XViT) -> Traced:
    """One frame in, with the state before and after it. Raises ConfigError for a model that looks ahead."""
    step = StreamStep(model).eval()
    frame = torch.randn(TRACED_BATCH, 3, model.clip.size, model.clip.size)
    state = step.first_state(TRACED_BATCH)
    axes = {"frame": 0, "memory": 1, "recent": 0, "seen": None}
    inputs = {"frame": frame, **state}
    outputs = ("logits", *(f"{name}_after" for name in state))
    return Traced(step, inputs, {name: axes[name] for name in inputs}, outputs)
