"""TorchCodec, where it loads, gives the frames and the facts that PyAV gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from xvit.data import open_video
from xvit.data.pyav import VideoFile
from xvit.data.synth import render_scene, write_video
from xvit.data.torchcodec import TorchCodecFile, video_decoder
from xvit.errors import VideoReadError

needs_torchcodec = pytest.mark.skipif(video_decoder() is None, reason="TorchCodec does not load here")


@needs_torchcodec
def test_it_is_chosen_when_it_loads(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", render_scene(0, 64, 20, np.random.default_rng(0)))
    with open_video(tmp_path / "a.mp4") as ours, VideoFile(str(tmp_path / "a.mp4")) as theirs:
        assert isinstance(ours, TorchCodecFile)
        assert ours.info == theirs.info
        for wanted in ([19, 0, 0, 7], list(range(20)), []):
            assert torch.equal(ours.read(wanted), theirs.read(wanted))


@needs_torchcodec
def test_same_pixels_in_every_odd_file(shared: Path) -> None:
    chosen = 0
    for path in sorted((shared / "videos" / "odd").rglob("*.m*")):
        if not path.is_file() or "corrupted" in path.name or "truncated" in path.name:
            continue
        try:
            source = open_video(path)
        except VideoReadError:
            continue
        if isinstance(source, TorchCodecFile):
            with source, VideoFile(str(path)) as theirs:
                assert source.info.num_frames == theirs.info.num_frames, path
                numbers = list(range(0, source.info.num_frames, 7))
                assert torch.equal(source.read(numbers), theirs.read(numbers)), path
                chosen += 1
    assert chosen > 20


def test_without_torchcodec_pyav_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xvit.data.torchcodec.video_decoder", lambda: None)
    write_video(tmp_path / "a.mp4", render_scene(0, 32, 4, np.random.default_rng(0)))
    assert isinstance(open_video(tmp_path / "a.mp4"), VideoFile)


@needs_torchcodec
def test_damage_is_told_without_the_place_in_its_source(shared: Path) -> None:
    with (
        open_video(shared / "videos" / "odd" / "made" / "corrupted_middle.mp4") as source,
        pytest.raises(VideoReadError, match="damaged: Could not push packet to decoder: Inv") as raised,
    ):
        source.read(range(source.info.num_frames))
    assert ".cpp" not in str(raised.value)
