"""Frames in, scores out: how a model follows a film or a stream, frame by frame in bounded memory."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from xvit.config import ClipConfig
from xvit.data.transforms import ViewTransform
from xvit.errors import ConfigError
from xvit.exported import ExportedModel
from xvit.predict.predictor import Predictor

if TYPE_CHECKING:
    from xvit.models import XViT


class Follower(Protocol):
    """Takes frames as they come."""

    hop: int

    def push(self, frame: Tensor) -> Tensor | None:
        """frame: (C, H, W) as the model takes it -> (K,) probabilities of all tasks, or None until the next
        answer is due."""
        ...

    def reset(self) -> None:
        """The next frame is a first one."""
        ...


class Windows:
    """Every `hop` frames the last T are scored, each window by itself."""

    def __init__(self, predictor: Predictor, hop: int) -> None:
        self.predictor, self.hop = predictor, hop
        self.length = predictor.model.clip.num_frames
        self.reset()

    def reset(self) -> None:
        """See Follower.reset."""
        self._held: deque[Tensor] = deque(maxlen=self.length)
        self._pushed = 0

    def push(self, frame: Tensor) -> Tensor | None:
        """See Follower.push."""
        self._held.append(frame)
        self._pushed += 1
        if self._pushed < self.length or (self._pushed - self.length) % self.hop:
            return None
        return self.predictor.score_clips(torch.stack(list(self._held))[None])


class SharedWindows:
    """The same answers, every group of `group` frames computed once for all windows that hold it."""

    def __init__(self, predictor: Predictor, hop: int, group: int) -> None:
        self.predictor, self.hop, self.group = predictor, hop, group
        self.per_window = predictor.model.clip.num_frames // group
        self.reset()

    def reset(self) -> None:
        """See Follower.reset."""
        self._held: deque[Tensor] = deque(maxlen=self.per_window)
        self._waiting: list[Tensor] = []
        self._groups = 0

    def push(self, frame: Tensor) -> Tensor | None:
        """See Follower.push."""
        self._waiting.append(frame)
        if len(self._waiting) < self.group:
            return None
        self._held.append(self.predictor.frame_features(torch.stack(self._waiting)))
        self._waiting = []
        self._groups += 1
        if self._groups < self.per_window or (self._groups - self.per_window) * self.group % self.hop:
            return None
        return self.predictor.score_features(torch.cat(list(self._held), dim=1))


class Causal:
    """A causal model: each frame is computed once, and there is an answer from the first frame on."""

    def __init__(self, predictor: Predictor, hop: int = 1) -> None:
        from xvit.models.streaming import StreamingXViT

        self.predictor, self.hop = predictor, hop
        self._stream = StreamingXViT(predictor.network)

    def reset(self) -> None:
        """See Follower.reset."""
        self._stream.reset()

    def push(self, frame: Tensor) -> Tensor | None:
        """See Follower.push."""
        with self.predictor.autocast():
            logits = self._stream(frame[None].to(self.predictor.device))
        if (self._stream.frames_seen - 1) % self.hop:
            return None
        return self.predictor.probabilities(logits)


def follow_windows(predictor: Predictor, hop: int | None = None, share: bool = True) -> Follower:
    """Windows of T frames, `hop` apart: by default one group of `mixing.group`, or half a window.

    share: compute each group once where groups are independent; the answers are the same. Raises ConfigError.
    """
    length, group = predictor.model.clip.num_frames, independent_frames(predictor.model)
    hop = hop or (group if group and length > group > 1 else max(length // 2, 1))
    if not 1 <= hop <= length:
        raise ConfigError(f"the hop must be 1 to {length} frames, the length of a window, got {hop}")
    if share and group and hop % group == 0 and length % group == 0:
        return SharedWindows(predictor, hop, group)
    return Windows(predictor, hop)


def follow_stream(predictor: Predictor, hop: int | None = None) -> Follower:
    """What suits an endless stream: one frame at a time for causal models, windows for the others.

    A model that does not mix and has a temporal embedding was trained on clips that begin with its first
    row, so it gets windows, whose frames have the rows of training. Raises ConfigError.
    """
    if isinstance(predictor.model, ExportedModel):
        return follow_windows(predictor, hop)
    from xvit.models.streaming import looks_ahead

    config = predictor.model.config
    trained_so = config.mixing.causal or config.temporal_embedding == "none"
    if trained_so and looks_ahead(predictor.model) is None:
        return Causal(predictor, hop or 1)
    return follow_windows(predictor, hop)


def independent_frames(model: XViT | ExportedModel) -> int | None:
    """The length of a clip's groups where a group's features depend on nothing else, or None.

    None for an exported model, which takes whole clips only.

    The temporal embedding has to give every group the same rows, as the released files do: their 8 rows are
    tiled over clips of 16 frames, which mix in groups of 8.
    """
    if isinstance(model, ExportedModel):
        return None
    from xvit.models.mixing import SpaceTimeAttention

    config = model.config
    if config.attention not in ("mixing", "spatial") or config.summary_token or len(config.tubelet) > 1:
        return None
    layers = [m for m in model.backbone.blocks.modules() if isinstance(m, SpaceTimeAttention)]
    group = config.mixing.group if any(layer.moves for layer in layers) else 1
    table = model.temporal_embedding
    if group is None or table is None:
        return group
    if config.temporal_embedding != "tile":
        return None
    return math.lcm(group, table.shape[1])


def centre_crops(frames: Tensor, clip: ClipConfig) -> Tensor:
    """uint8 (N, C, H, W) -> what the model takes of them, (N, C, size, size) float32."""
    out = np.empty((1, len(frames), 3, clip.size, clip.size), np.float32)
    ViewTransform(clip)(frames, np.arange(len(frames))[None]).unpack(clip, out)
    return torch.from_numpy(out[0])
