"""Large frames are read a few at a time; fast films at the rate of training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from test_timeline import make_predictor

from xvit.data import open_video


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_flashes(path: Path, frames: int, rate: int, width: int, height: int, codec: str = "mpeg4") -> str:
    """Every frame is one grey."""
    with av.open(path, "w") as out:
        stream = out.add_stream(codec, rate=rate, width=width, height=height, pix_fmt="yuv420p")
        picture = av.VideoFrame(width, height, "yuv420p")
        planes = [np.empty(plane.buffer_size, np.uint8) for plane in picture.planes]
        for number in range(frames):
            for plane, values in zip(picture.planes, planes, strict=True):
                values[:] = 128
                plane.update(values)
            planes[0][:] = 20 + 7 * number % 200
            picture.planes[0].update(planes[0])
            picture.pts = number
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
    return str(path)


@pytest.mark.parametrize("position", ["spread", "released"])
def test_frames_read_one_by_one_are_the_same(
    position: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = write_flashes(tmp_path / "a.mp4", 30, 25, 96, 64)
    clf = make_predictor({"clip_position": position})
    together = clf.read(film, "3x2")
    monkeypatch.setattr("xvit.data.video.PART_BYTES", 1)
    assert torch.equal(clf.read(film, "3x2"), together)


def test_240_frames_a_second(tmp_path: Path) -> None:
    clf = make_predictor({"target_fps": 30.0, "frame_stride": 1})
    fast = write_flashes(tmp_path / "fast 名.mp4", 240, 240, 48, 32)
    with open_video(fast) as video:
        assert video.info.fps == 240
        expected = clf.scores(video.read(range(88, 145))[::8].contiguous())
    read = clf.read(fast)
    assert read.shape[1] == 8
    torch.testing.assert_close(clf.scores(fast), expected, rtol=0, atol=0.05)
