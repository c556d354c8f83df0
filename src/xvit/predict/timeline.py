"""A film of any length: windows that slide over it in bounded memory, and the segments they add up to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from xvit.config import ClipConfig
from xvit.data import FrameSource, open_video
from xvit.data.sampling import DEFAULT_FPS, frame_spacing
from xvit.data.video import frames_at_once
from xvit.predict.predictor import Predictor
from xvit.predict.segments import Segment
from xvit.predict.windows import centre_crops, follow_windows
from xvit.types import VideoInfo

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
    """Score windows of T frames all over a film, its centre crop. See `score_film`."""
    with open_video(path) as video:
        return score_film(predictor, video, window=window, hop=hop, share=share, on_progress=on_progress)


def score_film(
    predictor: Predictor,
    video: FrameSource,
    *,
    window: float | None = None,
    hop: int | None = None,
    share: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Timeline:
    """Score windows of T frames all over an open film, its centre crop.

    window: seconds a window spans; default: the model's own clip, 4 s for one that samples whole videos.
    hop:    frames (of the window's T) from one window to the next; default: one group, or half a window.
    share:  compute each group once where groups are independent; the result is the same.
    on_progress: told (frames read, of how many).
    Memory is that of one window, whatever the length. Raises VideoReadError, or ConfigError on a wrong hop.
    """
    clip, classes = predictor.model.clip, predictor.model.classes[0]
    windows = follow_windows(predictor, hop, share)
    fps = video.info.fps or DEFAULT_FPS
    numbers = frame_grid(video.info, clip, windows.hop, window)
    starts = range(0, len(numbers) - clip.num_frames + 1, windows.hop)
    scores = np.empty((len(starts), len(classes)), np.float32)  # not a tensor a window: films are long
    answers = (windows.push(frame) for frame in _read(video, numbers, clip, on_progress))
    for row, answer in zip(scores, (answer for answer in answers if answer is not None), strict=True):
        row[:] = answer[: len(classes)].numpy()
    seconds = video.info.num_frames / fps
    centres = np.array([numbers[start : start + clip.num_frames].mean() for start in starts])
    return Timeline(seconds, (centres + 0.5) / fps, scores, classes)


def frame_grid(info: VideoInfo, clip: ClipConfig, hop: int, window: float | None) -> np.ndarray:
    """The frames that windows consist of: T of them, `hop` on, and so forth.

    A film shorter than a window is stretched over one.
    """
    fps = info.fps or DEFAULT_FPS
    stride = fps * frame_spacing(clip, fps, window)
    count = int((info.num_frames - 1) / stride + 1e-6) + 1
    if count < clip.num_frames:
        return np.round(np.linspace(0, info.num_frames - 1, clip.num_frames)).astype(np.int64)
    count -= (count - clip.num_frames) % hop
    return np.floor(stride * np.arange(count) + 1e-6).astype(np.int64)


def _read(
    video: FrameSource,
    numbers: np.ndarray,
    clip: ClipConfig,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[Tensor]:
    """The grid's frames one by one as the model takes them: (C, H, W) float."""
    step = min(READ_AT_ONCE, frames_at_once(video.info))
    for first in range(0, len(numbers), step):
        part = numbers[first : first + step]
        yield from centre_crops(video.read(part.tolist()), clip)
        if on_progress is not None:
            on_progress(first + len(part), len(numbers))
