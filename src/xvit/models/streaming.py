"""One new frame at a time: a causal model whose blocks remember the channels that later frames take.

A frame's keys and values take channels of earlier frames only (`mixing.causal`), so nothing already computed
changes when a frame arrives. A stream costs one frame of the image model a frame and constant memory: per
block the moved channels of the last `window` frames, and the features of the last T frames for the head.
"""

from __future__ import annotations

import copy
from collections import deque

import torch
from torch import Tensor, nn

from xvit.errors import ConfigError
from xvit.models.mixing import Move, SpaceTimeAttention
from xvit.models.xvit import XViT


class StreamingXViT(nn.Module):
    """Feeds a trained causal XViT one frame at a time; shares its weights and leaves it as it is.

    After frame t the features equal those of `model.forward_features` on frames 0 … t, and the logits those
    of `model.forward_head` on the last T of them (on all while there are fewer). With `mixing.group` the
    memory starts anew with every group, as it does in the offline model.

    Frame t of the stream gets row t mod L of the temporal embedding, L its length: "tile" without end. A
    causal model's training draws the row that each batch starts with, so that none means "the first frame".

    num_frames: T, by default the model's. Raises ConfigError for a model that looks ahead.
    """

    def __init__(self, model: XViT, num_frames: int | None = None) -> None:
        super().__init__()
        if reason := looks_ahead(model):
            raise ConfigError(reason)
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.model = copy.deepcopy(model, shared).eval()
        self._memories: list[_Memory] = []
        for layer in self.model.backbone.blocks.modules():
            if isinstance(layer, SpaceTimeAttention) and layer.moves:
                layer.memory = _Memory(layer.moves)
                self._memories.append(layer.memory)
        self._group = model.config.mixing.group if self._memories else None
        self._features: deque[Tensor] = deque(maxlen=num_frames or model.clip.num_frames)
        self.frames_seen = 0

    def reset(self) -> None:
        """Forget the stream; the next frame is a first one."""
        self._forget()
        self._features.clear()
        self.frames_seen = 0

    def _forget(self) -> None:
        for memory in self._memories:
            memory.past.clear()

    @property
    def features(self) -> Tensor:
        """The features of the last frames, (B, min(T, frames seen), D). Raises RuntimeError before any."""
        return torch.stack(list(self._features), dim=1)

    @torch.inference_mode()
    def forward(self, frame: Tensor) -> Tensor:
        """frame: (B, 3, H, W) normalised float, of B streams in step -> logits (B, K) up to this frame.

        Raises ValueError where the number of streams changes without `reset`.
        """
        if self._features and self._features[-1].shape[0] != frame.shape[0]:
            raise ValueError(
                f"{frame.shape[0]} frames for {self._features[-1].shape[0]} streams: reset() starts others"
            )
        if self._group and self.frames_seen % self._group == 0:
            self._forget()
        feature = self.model.forward_features(frame[:, None], start=self.frames_seen)[:, 0]
        self._features.append(feature)
        self.frames_seen += 1
        return self.model.forward_head(self.features)

    def train(self, mode: bool = True) -> StreamingXViT:
        """A stream is only ever scored: the mode stays evaluation."""
        return super().train(False)


class _Memory:
    """The channels of a layer's last frames that the next ones take."""

    def __init__(self, moves: tuple[Move, ...]) -> None:
        self.moves = moves
        # For each mixed tensor and move: its channels in the last frames, oldest first.
        self.past: dict[tuple[str, int], deque[Tensor]] = {}

    def __call__(self, name: str, x: Tensor) -> Tensor:
        """Eq. 9 for the newest frame; x: (B, 1, N, ..., C) of the tensor `name`, and the same shape back."""
        parts = []
        for i, (start, stop, offset) in enumerate(self.moves):
            own = x[..., start:stop]
            kept = self.past.setdefault((name, i), deque(maxlen=-offset))
            parts.append(kept[0] if len(kept) == -offset else torch.zeros_like(own))
            kept.append(own.clone())  # not a view, which would keep the whole projection
        return torch.cat([*parts, x[..., self.moves[-1].stop :]], dim=-1)


def looks_ahead(model: XViT) -> str | None:
    """Why a model cannot take one frame at a time; None where it can."""
    config = model.config
    if config.attention not in ("mixing", "spatial"):
        return f"model.attention: {config.attention} lets frames see later ones; a stream has none"
    if len(config.tubelet) > 1:
        return "model.tubelet takes several frames at a time, a stream has one; train with model.tubelet=[1]"
    if config.summary_token:
        return "model.summary_token sees the whole clip; a stream has no whole"
    layers = [m for m in model.backbone.blocks.modules() if isinstance(m, SpaceTimeAttention)]
    if any(move.offset > 0 for layer in layers for move in layer.moves):
        return (
            "model.mixing.causal is false: frames take channels of later frames, which a stream does not "
            "have yet; train with model.mixing.causal=true"
        )
    if config.temporal_embedding == "interpolate":
        return (
            "model.temporal_embedding: interpolate needs the clip's length, which a stream does not have; "
            "train with tile or none"
        )
    return None
