"""A film of any length: windows that slide over it in bounded memory, and the segments they add up to."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xvit.config import ClipConfig
from xvit.data import FrameSource, open_video
from xvit.data.sampling import RELEASED_FPS
from xvit.data.transforms import ViewTransform
from xvit.errors import ConfigError
from xvit.models import XViT
from xvit.models.mixing import SpaceTimeAttention
from xvit.predict.predictor import Predictor
from xvit.predict.segments import Segment
from xvit.types import VideoInfo

DEFAULT_FPS = 25.0  # where a file tells no rate
SEGMENT_SECONDS = 4.0  # a window of models that sample whole videos, which have no span of their own
READ_AT_ONCE = 8  # frames


@dataclass(frozen=True)
class Timeline:
    """centres: (W,) seconds, the middles of the windows. scores: (W, K) probabilities of the first task."""

    seconds: float
    centres: np.ndarray
    scores: np.ndarray
    classes: tuple[str, ...]

    def smoothed(self, windows: int) -> np.ndarray:
        """(W, K): each window's mean with its neighbours, `windows` together, fewer at the ends."""
        sums = np.cumsum(np.pad(self.scores, ((1, 0), (0, 0))), axis=0, dtype=np.float64)
        at = np.arange(len(self.scores))
        low = np.maximum(at - (windows - 1) // 2, 0)
        high = np.minimum(at + windows // 2 + 1, len(at))
        return (sums[high] - sums[low]) / (high - low)[:, None]

    def segments(self, smooth: int = 3, min_score: float = 0.0) -> list[Segment]:
        """Runs of windows with the same best class after smoothing; they meet midway between windows."""
        scores = self.smoothed(smooth)
        best = scores.argmax(axis=1)
        starts = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist()]
        ends = [*starts[1:], len(best)]
        borders = [0.0, *((self.centres[1:] + self.centres[:-1]) / 2).tolist(), self.seconds]
        found = [
            Segment(borders[a], borders[b], self.classes[best[a]], float(scores[a:b, best[a]].mean()))
            for a, b in zip(starts, ends, strict=True)
        ]
        return [segment for segment in found if segment.score >= min_score]


def make_timeline(
    predictor: Predictor,
    path: str,
    *,
    window: float | None = None,
    hop: int | None = None,
    share: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Timeline:
    """Score windows of T frames all over a film, its centre crop.

    window: seconds a window spans; default: the model's own clip, 4 s for one that samples whole videos.
    hop:    frames (of the window's T) from one window to the next; default: one group, or half a window.
    share:  compute each group once where groups are independent; the result is the same.
    on_progress: told (frames read, of how many).
    Memory is that of one window, whatever the length. Raises VideoReadError, or ConfigError on a wrong hop.
    """
    clip, group = predictor.model.clip, independent_frames(predictor.model)
    length = clip.num_frames
    hop = hop or (group if group and length > group > 1 else max(length // 2, 1))
    if not 1 <= hop <= length:
        raise ConfigError(f"the hop must be 1 to {length} frames, the length of a window, got {hop}")
    with open_video(path) as video:
        fps = video.info.fps or DEFAULT_FPS
        numbers = frame_grid(video.info, clip, hop, window)
        frames = _read(video, numbers, clip, on_progress)
        if share and group and hop % group == 0 and length % group == 0:
            scored = _scores_shared(predictor, frames, group, hop)
        else:
            scored = _scores(predictor, frames, hop)
        rows = [row.numpy() for row in scored]
        seconds = video.info.num_frames / fps
    centres = [numbers[i * hop : i * hop + length].mean() for i in range(len(rows))]
    return Timeline(seconds, (np.array(centres) + 0.5) / fps, np.stack(rows), predictor.model.classes[0])


def frame_grid(info: VideoInfo, clip: ClipConfig, hop: int, window: float | None) -> np.ndarray:
    """The frames that windows consist of: T of them, `hop` on, and so forth.

    A film shorter than a window is stretched over one.
    """
    fps = info.fps or DEFAULT_FPS
    if window is None and clip.sampling == "dense":
        rate = clip.target_fps or (RELEASED_FPS if clip.clip_position == "released" else fps)
        stride = clip.frame_stride * fps / rate
    else:
        stride = (window or SEGMENT_SECONDS) * fps / clip.num_frames
    count = int((info.num_frames - 1) / stride + 1e-6) + 1
    if count < clip.num_frames:
        return np.round(np.linspace(0, info.num_frames - 1, clip.num_frames)).astype(np.int64)
    count -= (count - clip.num_frames) % hop
    return np.floor(stride * np.arange(count) + 1e-6).astype(np.int64)


def independent_frames(model: XViT) -> int | None:
    """The length of a clip's groups where a group's features depend on nothing else, or None.

    The temporal embedding has to give every group the same rows, as the released files do: their 8 rows are
    tiled over clips of 16 frames, which mix in groups of 8.
    """
    config = model.config
    if config.attention not in ("mixing", "spatial") or config.summary_token:
        return None
    layers = [m for m in model.backbone.blocks.modules() if isinstance(m, SpaceTimeAttention)]
    group = config.mixing.group if any(layer.moves for layer in layers) else 1
    table = model.temporal_embedding
    if group is None or table is None:
        return group
    if config.temporal_embedding != "tile":
        return None
    return math.lcm(group, table.shape[1])


def _read(
    video: FrameSource,
    numbers: np.ndarray,
    clip: ClipConfig,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[Tensor]:
    """The grid's frames one by one as the model takes them: (C, H, W) float."""
    cut = ViewTransform(clip)
    for first in range(0, len(numbers), READ_AT_ONCE):
        part = numbers[first : first + READ_AT_ONCE]
        out = np.empty((1, len(part), 3, clip.size, clip.size), np.float32)
        cut(video.read(part.tolist()), np.arange(len(part))[None]).unpack(clip, out)
        yield from torch.from_numpy(out[0])
        if on_progress is not None:
            on_progress(first + len(part), len(numbers))


def _scores(predictor: Predictor, frames: Iterator[Tensor], hop: int) -> Iterator[Tensor]:
    """(K,) of every window, each computed by itself."""
    length = predictor.model.clip.num_frames
    held: deque[Tensor] = deque(maxlen=length)
    for number, frame in enumerate(frames, 1):
        held.append(frame)
        if number >= length and (number - length) % hop == 0:
            yield _probabilities(predictor, predictor.frame_features(torch.stack(list(held))))


def _scores_shared(predictor: Predictor, frames: Iterator[Tensor], group: int, hop: int) -> Iterator[Tensor]:
    """The same, computing every group of frames once for all windows that hold it."""
    per_window = predictor.model.clip.num_frames // group
    held: deque[Tensor] = deque(maxlen=per_window)
    waiting: list[Tensor] = []
    groups = 0
    for frame in frames:
        waiting.append(frame)
        if len(waiting) < group:
            continue
        held.append(predictor.frame_features(torch.stack(waiting)))
        waiting, groups = [], groups + 1
        if groups >= per_window and (groups - per_window) * group % hop == 0:
            yield _probabilities(predictor, torch.cat(list(held), dim=1))


@torch.inference_mode()
def _probabilities(predictor: Predictor, features: Tensor) -> Tensor:
    """Frame features of a window (1, T, D) -> (K,) of the first task."""
    with predictor.autocast():
        logits = predictor.model.forward_head(features).float()
    return logits[0, : predictor.model.num_classes[0]].softmax(dim=-1).cpu()
