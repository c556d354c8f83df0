"""Enormous, fast, long, short and oddly named films: they work in bounded memory, or say why not."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from test_timeline import GROUPS, make_predictor

from xvit.cli import main
from xvit.data import open_video
from xvit.models import save_model
from xvit.predict import Predictor
from xvit.predict.timeline import make_timeline


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


@pytest.mark.slow
def test_8k_frames_are_scaled_down_as_they_are_read(tmp_path: Path, peak_memory: Callable[[], Any]) -> None:
    film = write_flashes(tmp_path / "8k.mp4", 10, 25, 7680, 4320)
    clf = make_predictor({"frame_stride": 1})
    with peak_memory() as peak:
        scores = clf.scores(film)
    # Eight frames of 100 MB and their copies would be more than 800 MB.
    assert peak.megabytes < 600
    with open_video(film) as video:
        whole = clf.scores(video.read(range(1, 9)))
    torch.testing.assert_close(scores, whole, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_an_hour_takes_the_memory_of_a_minute(
    tmp_path: Path, peak_memory: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clf = make_predictor(**GROUPS)
    minute = write_flashes(tmp_path / "minute.mp4", 240, 4, 48, 32)
    hour = write_flashes(tmp_path / "hour.mp4", 4 * 3600, 4, 48, 32)
    make_timeline(clf, minute, window=60.0)
    with peak_memory() as peak:
        found = make_timeline(clf, hour, window=60.0, hop=8)
    assert found.seconds == 3600
    assert len(found.scores) == 60
    assert peak.megabytes < 30
    # A window at every frame; the model would only take time.
    monkeypatch.setattr(Predictor, "score_clips", lambda self, clips: clips.mean().expand(3).clone())
    clf = make_predictor({"frame_stride": 1})
    make_timeline(clf, minute, hop=1)
    with peak_memory() as peak:
        found = make_timeline(clf, hour, hop=1)
    assert len(found.scores) == 4 * 3600 - 7
    assert peak.megabytes < 8


def test_one_frame_none_and_names_in_any_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    save_model(make_predictor().model, tmp_path / "run")
    plain = Path(write_flashes(tmp_path / "film.mp4", 25, 25, 48, 32))
    names = [b"one.mp4", b"zero.mp4", "ein Film – 影片 🎬.mp4".encode(), b"caf\xe9.mp4"]
    one, zero, unicode, latin = (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)) for name in names)
    write_flashes(one, 1, 25, 48, 32)
    zero.touch()
    for name in (unicode, latin):
        name.write_bytes(plain.read_bytes())
    for film in (one, zero, unicode, latin):
        for command in ("predict", "timeline"):
            page = ["--html", str(tmp_path / "page.html")] if command == "timeline" else []
            arguments = [command, str(tmp_path / "run"), str(film), *page]
            monkeypatch.setattr(sys, "argv", ["xvit", *arguments])
            with open(1, "w", closefd=False) as stdout, monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", stdout)
                with pytest.raises(SystemExit) as exited:
                    main()
            out, err = capfdbinary.readouterr()
            assert (exited.value.code or 0) == (2 if film == zero else 0), err
            assert b"Traceback" not in err
            if film == zero:
                assert err.count(b"\n") <= 2
                assert b"zero.mp4: " in err
            elif command == "predict":
                assert out.startswith(os.fsencode(film) + b"\n")
