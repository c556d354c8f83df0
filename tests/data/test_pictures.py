"""Packed h5 and frame folders are FrameSources like any video."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from xvit.data import open_video
from xvit.errors import VideoReadError


def picture(value: int, kind: str = "JPEG", size: tuple[int, int] = (40, 30)) -> bytes:
    noise = np.random.default_rng(value).integers(0, 255, (3, 4, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).resize(size).save(data, kind, quality=95)
    return data.getvalue()


def decoded(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB"))).permute(2, 0, 1)


def write_packed(path: Path, frames: list[bytes], key: str = "clip", **attributes: float) -> None:
    with h5py.File(path, "a") as file:
        data = file.create_dataset(key, (len(frames),), h5py.vlen_dtype(np.uint8))
        for i, frame in enumerate(frames):
            data[i] = np.frombuffer(frame, np.uint8)
        data.attrs.update(attributes)


def test_packed_frames_are_pillows_pixels(tmp_path: Path) -> None:
    frames = [picture(i) for i in range(6)]
    write_packed(tmp_path / "a.h5", frames, fps=12.5)
    with open_video(tmp_path / "a.h5") as video:
        assert (video.info.num_frames, video.info.fps) == (6, 12.5)
        assert (video.info.height, video.info.width) == (30, 40)
        read = video.read([5, 0, 0, 3])
    assert torch.equal(read, torch.stack([decoded(frames[i]) for i in (5, 0, 0, 3)]))


def test_one_video_of_many_in_a_file(tmp_path: Path) -> None:
    write_packed(tmp_path / "a.h5", [picture(1)], "one")
    write_packed(tmp_path / "a.h5", [picture(2)], "two")
    with open_video(f"{tmp_path}/a.h5::two") as video:
        assert torch.equal(video.read([0])[0], decoded(picture(2)))
    with pytest.raises(VideoReadError, match="no key 'three'"):
        open_video(f"{tmp_path}/a.h5::three")


def test_frame_folder_counts_by_number(tmp_path: Path) -> None:
    for i, name in ((0, "img_9.jpg"), (1, "img_10.jpg"), (2, "img_100.png")):
        (tmp_path / name).write_bytes(picture(i, "PNG" if name.endswith("png") else "JPEG"))
    (tmp_path / "flow_11.npy").touch()
    with open_video(tmp_path) as video:
        assert (video.info.num_frames, video.info.fps) == (3, None)
        read = video.read([0, 1, 2])
    assert torch.equal(read[0], decoded(picture(0)))
    assert torch.equal(read[2], decoded(picture(2, "PNG")))


def test_a_segment_of_pictures_needs_a_rate(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"frame_{i:06}.jpg").write_bytes(picture(i))
    with open_video(tmp_path, start_seconds=1, end_seconds=1.5, fps=10) as video:
        assert (video.info.num_frames, video.info.fps) == (5, 10)
        assert torch.equal(video.read([0, 4])[1], decoded(picture(14)))
    with pytest.raises(VideoReadError, match="needs the frame rate"):
        open_video(tmp_path, start_seconds=1)


def test_damaged_pictures(tmp_path: Path) -> None:
    write_packed(tmp_path / "a.h5", [picture(0), picture(1, size=(20, 30)), b"\xff\xd8nothing", picture(3)])
    with open_video(tmp_path / "a.h5") as video:
        assert video.read([0, 1]).shape == (2, 3, 30, 40)  # the first size is kept
        with pytest.raises(VideoReadError, match="frame 2 is not a picture"):
            video.read([2])
    with open_video(tmp_path / "a.h5", partial=True) as video:
        assert video.info.num_frames == 2
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.h5").write_text("text")
    for name, reason in (
        ("empty", "no frames"),
        ("text.h5", "not a readable h5"),
        ("none.h5", "no such file"),
    ):
        with pytest.raises(VideoReadError, match=reason):
            open_video(tmp_path / name)
