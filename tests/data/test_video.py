"""Exact frames of every odd file: number, order, size, rotation, damage."""

from __future__ import annotations

import csv
import random
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from xvit.data import open_video
from xvit.data.pyav import VideoFile
from xvit.data.synth import write_video
from xvit.errors import VideoReadError

EXPECTED = Path(__file__).parents[3] / "shared" / "videos" / "odd" / "expected.csv"
ROWS = list(csv.DictReader(EXPECTED.open(encoding="utf8"))) if EXPECTED.is_file() else []


def numbered_video(path: Path, count: int, keyframes_every: int = 12) -> None:
    """An mp4 with B-frames whose i-th picture shows i in eight black or white strips."""
    options = {"g": str(keyframes_every), "bf": "2", "qp": "10"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for i in range(count):
            strips = np.array([255 * (i >> bit & 1) for bit in range(8)], np.uint8)
            pixels = np.ascontiguousarray(np.broadcast_to(strips.repeat(8)[:, None, None], (64, 64, 3)))
            picture = av.VideoFrame.from_ndarray(pixels, "rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def numbers(frames: torch.Tensor) -> list[int]:
    strips = frames.float().mean(dim=(1, 3)).unflatten(1, (8, 8)).mean(2) > 127
    return (strips.int() * 2 ** torch.arange(8)).sum(1).tolist()


def test_read_gives_the_frames_asked_for_in_that_order(tmp_path: Path) -> None:
    numbered_video(tmp_path / "a.mp4", 100)
    with open_video(tmp_path / "a.mp4") as video:
        assert (video.info.num_frames, video.info.fps) == (100, 25)
        for wanted in ([0], [99, 0, 50, 50, 49], [7, 8, 9], list(range(99, -1, -7)), [13, 13], []):
            frames = video.read(wanted)
            assert frames.shape == (len(wanted), 3, 64, 64)
            assert frames.dtype == torch.uint8
            if wanted:
                assert numbers(frames) == wanted
        with pytest.raises(IndexError, match="frames 0 to 99"):
            video.read([100])


def test_far_frames_are_reached_by_seeking(tmp_path: Path) -> None:
    numbered_video(tmp_path / "a.mp4", 100)
    with VideoFile(str(tmp_path / "a.mp4")) as video:
        video.read([95])
        assert video.decoded_frames < 30


def test_a_segment_is_numbered_from_its_start(tmp_path: Path) -> None:
    numbered_video(tmp_path / "a.mp4", 100)
    with open_video(tmp_path / "a.mp4", start_seconds=1.2, end_seconds=2.0) as video:
        assert video.info.num_frames == 20
        assert numbers(video.read([0, 1, 19])) == [30, 31, 49]
        assert numbers(video.read([0])) == [30]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_odd_file(row: dict[str, str], shared: Path) -> None:
    path = shared / "videos" / "odd" / row["file"]
    if row["err"]:
        with pytest.raises(VideoReadError) as caught, open_video(path) as video:
            video.read(range(video.info.num_frames))
        assert caught.value.path == str(path)
        return
    with open_video(path) as video:
        info, frames = video.info, video.read(range(video.info.num_frames))
    assert info.num_frames == len(frames) == int(row["decoded"])
    turned = abs(int(row["rot"].strip("[]"))) == 90
    size = (int(row["h"]), int(row["w"]))
    assert (info.height, info.width) == tuple(frames.shape[2:]) == (size[::-1] if turned else size)
    assert info.fps == (None if row["fps"] == "None" else pytest.approx(float(Fraction(row["fps"]))))
    draw = random.Random(row["file"])
    wanted = [draw.randrange(info.num_frames) for _ in range(6)]
    with open_video(path) as video:
        assert torch.equal(video.read(wanted), frames[wanted])
        assert torch.equal(video.read(wanted[:2]), frames[wanted[:2]])


DAMAGED = [row for row in ROWS if row["err"] and row["decoded"] != "0"]


@pytest.mark.parametrize("row", DAMAGED, ids=lambda row: row["file"])
def test_partial_keeps_the_frames_before_the_damage(row: dict[str, str], shared: Path) -> None:
    with open_video(shared / "videos" / "odd" / row["file"], partial=True) as video:
        assert len(video.read(range(video.info.num_frames))) == int(row["decoded"])


def test_rotated_copies_show_the_same_picture(shared: Path) -> None:
    folder = shared / "videos" / "odd" / "made"
    upright = open_video(folder / "rotated_180.mp4").read([5])
    for name, turns in (("rotated_90.mp4", -1), ("rotated_270.mp4", 1)):
        other = open_video(folder / name).read([5])
        assert torch.equal(torch.rot90(other, -turns, (2, 3)), upright)


def test_missing_file_folder_and_text(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(VideoReadError, match="no such file"):
        open_video(tmp_path / "none.mp4")
    with pytest.raises(VideoReadError, match="not a readable video"):
        open_video(tmp_path / "text.mp4")


@pytest.mark.parametrize(
    "matrix",
    [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)],
)
def test_every_display_matrix(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Stored pixel (x, y) is shown at (ax + cy, bx + dy), moved into the picture."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    plain, turned = tmp_path / "plain.mp4", tmp_path / "turned.mp4"
    write_video(plain, np.stack([picture] * 3))
    data = bytearray(plain.read_bytes())
    start = data.index(b"tkhd") + 44  # behind the box's type: 40 bytes of other fields
    a, b, c, d = matrix
    one = 1 << 16
    data[start : start + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    turned.write_bytes(data)
    with open_video(plain) as video:
        stored = video.read([1])[0]
    with open_video(turned) as video:
        shown = video.read([1])[0]
        assert (video.info.height, video.info.width) == ((64, 48) if b else (48, 64))
    y, x = np.mgrid[:48, :64]
    across, down = a * x + c * y, b * x + d * y
    expected = torch.zeros(3, down.max() - down.min() + 1, across.max() - across.min() + 1, dtype=torch.uint8)
    expected[:, down - down.min(), across - across.min()] = stored
    assert torch.equal(shown, expected)
