"""Frame numbers: the released code's tables, and the rules of our own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from xvit.config import ClipConfig
from xvit.data.sampling import train_frames, view_frames
from xvit.errors import ConfigError
from xvit.types import VideoInfo


def video(num_frames: int, fps: float | None = 30.0) -> VideoInfo:
    return VideoInfo(num_frames, fps, 32, 32)


def test_released_kinetics_clips(shared: Path) -> None:
    table = json.loads((shared / "oracle" / "index.json").read_text())["kinetics_test_frames"]
    assert len(table) == 280
    for row in table:
        clip = ClipConfig(
            num_frames=row["num_frames"],
            sampling="dense",
            frame_stride=row["sampling_rate"],
            target_fps=row["target_fps"],
            clip_position="released",
        )
        frames = view_frames(video(row["video_frames"], row["fps"]), clip, row["views"])
        assert frames[row["view"]].tolist() == row["index"], row


def test_released_ssv2_clips(shared: Path) -> None:
    table = json.loads((shared / "oracle" / "index.json").read_text())["ssv2_test_frames"]
    for row in table:
        clip = ClipConfig(num_frames=row["num_frames"], clip_position="released")
        assert view_frames(video(row["video_frames"]), clip, 3)[row["view"]].tolist() == row["index"], row


def test_released_segment_has_three_clips() -> None:
    with pytest.raises(ConfigError, match="3 segment clips, got 4"):
        view_frames(video(40), ClipConfig(clip_position="released"), 4)


def test_segment_views() -> None:
    clip = ClipConfig(num_frames=4)
    assert view_frames(video(16), clip, 1).tolist() == [[2, 6, 10, 14]]
    assert view_frames(video(16), clip, 2).tolist() == [[0, 4, 8, 12], [3, 7, 11, 15]]
    assert view_frames(video(3), clip, 1).tolist() == [[0, 1, 1, 2]]
    assert view_frames(video(1), clip, 3).tolist() == [[0] * 4] * 3


def test_dense_views() -> None:
    clip = ClipConfig(num_frames=4, sampling="dense", frame_stride=2)
    assert view_frames(video(21), clip, 1).tolist() == [[7, 9, 11, 13]]
    assert view_frames(video(20), clip, 3).tolist() == [[0, 2, 4, 6], [7, 9, 11, 13], [13, 15, 17, 19]]
    assert view_frames(video(5), clip, 1).tolist() == [[0, 1, 3, 4]]  # shorter than the span: stretched


def test_dense_at_a_target_rate() -> None:
    clip = ClipConfig(num_frames=4, sampling="dense", frame_stride=2, target_fps=15)
    assert np.diff(view_frames(video(60, fps=30), clip, 1)).tolist() == [[4, 4, 4]]
    assert np.diff(view_frames(video(60, fps=None), clip, 1)).tolist() == [[2, 2, 2]]


@pytest.mark.parametrize("sampling", ["segment", "dense"])
@pytest.mark.parametrize("frames", [1, 3, 8, 31, 300])
def test_train_clips_cover_every_frame_and_no_other(sampling: str, frames: int) -> None:
    clip = ClipConfig.model_validate({"num_frames": 4, "sampling": sampling, "frame_stride": 2})
    rng = np.random.default_rng(0)
    draws = np.stack([train_frames(video(frames), clip, rng) for _ in range(3000)])
    assert (np.diff(draws, axis=1) >= 0).all()
    seen = set(draws.ravel().tolist())
    assert seen <= set(range(frames))
    if sampling == "segment" or frames >= 8:
        assert seen == set(range(frames))
