"""Which frames of a video make a clip: pure functions from (video, rule, draw) to frame numbers.

A video shorter than a dense clip's span is sampled over its whole length (the clip is stretched over it), and
a video of fewer frames than the clip repeats frames. The released rules instead repeat the last frame.
"""

from __future__ import annotations

import numpy as np
import torch

from xvit.config import ClipConfig
from xvit.errors import ConfigError
from xvit.types import VideoInfo

RELEASED_FPS = 30.0  # what the released Kinetics code scales frame rates to
DEFAULT_FPS = 25.0  # where a film tells no rate
SEGMENT_SECONDS = 4.0  # a window of models that sample whole videos, which have no span of their own
_RELEASED_PICKS = ("middle", "first", "last")


def train_frames(info: VideoInfo, clip: ClipConfig, rng: np.random.Generator) -> np.ndarray:
    """(T,) frame numbers of a random clip.

    Segment: one random frame of each of T equal parts. Dense: a random start, then every
    `frame_stride`-th frame.
    """
    if clip.sampling == "segment":
        return segment_frames(info.num_frames, clip.num_frames, rng.random(clip.num_frames))
    return dense_frames(info, clip, rng.random())


def view_frames(info: VideoInfo, clip: ClipConfig, num_clips: int) -> np.ndarray:
    """(num_clips, T) frame numbers of the clips a video is scored on.

    "spread": one clip lies in the centre; several reach from the first frame to the last.
    "released": as the authors' code places them. Raises ConfigError where that code has no such clip.
    """
    if clip.clip_position == "released":
        if clip.sampling == "dense":
            return released_dense_frames(info, clip, num_clips)
        return released_segment_frames(info.num_frames, clip.num_frames, num_clips)
    places = [0.5] if num_clips == 1 else np.linspace(0, 1, num_clips)
    if clip.sampling == "segment":
        clips = [
            segment_frames(info.num_frames, clip.num_frames, np.full(clip.num_frames, p)) for p in places
        ]
    else:
        clips = [dense_frames(info, clip, float(place)) for place in places]
    return np.stack(clips)


def frame_spacing(clip: ClipConfig, fps: float, window: float | None = None) -> float:
    """Seconds from one frame of a clip to the next in a film or stream of `fps`, as training had them.

    window: what T frames span instead, in seconds.
    """
    if window is not None or clip.sampling == "segment":
        return (window or SEGMENT_SECONDS) / clip.num_frames
    rate = clip.target_fps or (RELEASED_FPS if clip.clip_position == "released" else fps)
    return clip.frame_stride / rate


def segment_frames(video_frames: int, num_frames: int, places: np.ndarray) -> np.ndarray:
    """One frame of each of `num_frames` equal parts, at `places` (0 … 1 is the part's first … last frame)."""
    part = np.arange(num_frames)
    first = np.floor(part * video_frames / num_frames)
    last = np.maximum(np.ceil((part + 1) * video_frames / num_frames) - 1, first)
    numbers = np.floor((part + places) * video_frames / num_frames)
    return np.clip(numbers, first, last).astype(np.int64)


def dense_frames(info: VideoInfo, clip: ClipConfig, place: float) -> np.ndarray:
    """Frames `frame_stride` apart, starting at `place` (0 … 1 is the earliest … latest start)."""
    stride = float(clip.frame_stride)
    if clip.target_fps is not None and info.fps is not None:
        stride *= info.fps / clip.target_fps
    reach = stride * (clip.num_frames - 1)  # from the first to the last frame of the clip
    room = info.num_frames - 1 - reach
    if room < 0:
        return np.round(np.linspace(0, info.num_frames - 1, clip.num_frames)).astype(np.int64)
    start = np.floor(place * (room + 1))
    numbers = min(start, np.floor(room)) + stride * np.arange(clip.num_frames)
    return np.floor(numbers + 1e-6).astype(np.int64)


def released_dense_frames(info: VideoInfo, clip: ClipConfig, num_clips: int) -> np.ndarray:
    """(num_clips, T): the released Kinetics test clips.

    # NOTE(parity): clip v of n starts at v·max(frames − span, 0)/n, so no clip reaches the end of a longer
    video, and numbers past the end become the last frame. torch.linspace in float32, whose rounding shows.
    """
    rate = 1.0 if info.fps is None else info.fps / (clip.target_fps or RELEASED_FPS)
    span = clip.num_frames * clip.frame_stride * rate
    room = max(info.num_frames - span, 0)
    clips = []
    for number in range(num_clips):
        start = room * number / num_clips
        numbers = torch.linspace(start, start + span - 1, clip.num_frames)
        clips.append(numbers.clamp(0, info.num_frames - 1).long().numpy())
    return np.stack(clips)


def released_segment_frames(video_frames: int, num_frames: int, num_clips: int) -> np.ndarray:
    """(num_clips, T): the released SSv2 test clips; the middle, first and last frame of each part.

    # NOTE(parity): parts end at round(i·(frames − 1)/T) and share their borders.
    Raises ConfigError for more than three clips, which that code does not have.
    """
    if num_clips > len(_RELEASED_PICKS):
        raise ConfigError(
            f"data.clip_position=released has {len(_RELEASED_PICKS)} segment clips, got {num_clips}"
        )
    borders = np.round((video_frames - 1) / num_frames * np.arange(num_frames + 1)).astype(np.int64)
    first, last = borders[:-1], borders[1:]
    return np.stack([(first + last) // 2, first, last][:num_clips])
