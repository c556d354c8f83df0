"""Packing: near the source's pixels, resumable, atomic, and honest about failures."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
import torch

from xvit.config import DataConfig
from xvit.data import Manifest, load_manifest, open_video
from xvit.data.pack import PackSettings, pack
from xvit.data.synth import write_motion_set
from xvit.errors import DatasetError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    write_motion_set(root, size=64, num_frames=6, train_per_class=2, val_per_class=1)
    (root / "left" / "broken.mp4").write_text("no video")
    with (root / "train.csv").open("a") as file:
        file.write("left/broken.mp4 2\n")
    return root


def manifest(root: Path, split: str = "train") -> Manifest:
    return load_manifest(DataConfig(root=str(root)), split)


@pytest.mark.parametrize("shard_size", [1, 5])
def test_packed_videos_are_a_dataset(source: Path, tmp_path: Path, shard_size: int) -> None:
    train = manifest(source)
    settings = PackSettings(short_side=48, quality=95, shard_size=shard_size)
    heard: list[int] = []
    failures = pack(train, tmp_path, settings, on_done=heard.append)
    assert sum(heard) == 13
    assert [name for name, _ in failures] == ["left/broken.mp4"]
    with (tmp_path / "failures.csv").open() as file:
        assert [row["video"] for row in csv.DictReader(file)] == ["left/broken.mp4"]
    packed = manifest(tmp_path)
    assert packed.format == ("released_kinetics" if shard_size == 1 else "csv")
    assert packed.classes == train.classes
    assert len(packed.records) == 12
    originals = {r.video_id: r for r in train.records}
    for record in packed.records:
        with open_video(record.path) as video:
            assert (video.info.num_frames, video.info.fps) == (6, 8)
            assert (video.info.height, video.info.width) == (48, 48)
            frames = video.read(range(6))
        file, _, key = record.path.partition("::")
        with h5py.File(file) as h5:
            attributes = dict(h5[key or next(iter(h5))].attrs)
        original = originals[attributes["source"]]
        assert record.labels == original.labels
        assert attributes["source_sha256"] == hashlib.sha256(Path(original.path).read_bytes()).hexdigest()
        with open_video(original.path) as video:
            wanted = torch.nn.functional.interpolate(
                video.read(range(6)).float(), 48, mode="bilinear", antialias=True
            )
        assert (frames.float() - wanted).abs().mean() < 6


def test_a_second_run_keeps_what_the_first_finished(source: Path, tmp_path: Path) -> None:
    val = manifest(source, "val")
    pack(val, tmp_path)
    files = sorted(tmp_path.rglob("*.h5"))
    assert len(files) == 6
    (files[0].with_suffix(".h5.part")).write_text("left behind by a kill")
    stamps = [f.stat().st_mtime_ns for f in files[1:]]
    lists = (tmp_path / "val.csv").read_text()
    files[0].unlink()
    pack(val, tmp_path)
    assert [f.stat().st_mtime_ns for f in files[1:]] == stamps
    assert files[0].exists()
    assert not list(tmp_path.rglob("*.part"))
    assert (tmp_path / "val.csv").read_text() == lists
    with pytest.raises(DatasetError, match=r"other settings \(quality=90 there, 50 now\)"):
        pack(val, tmp_path, PackSettings(quality=50))


@pytest.mark.parametrize("shard_size", [1, 9])
def test_a_killed_run_is_continued(tmp_path: Path, shard_size: int) -> None:
    """Sources of what was finished are gone at the second run, so that nothing of it can be done again."""
    root, output = tmp_path / "videos", tmp_path / "packed"
    write_motion_set(root, size=160, num_frames=60, train_per_class=3, val_per_class=1)
    command = [sys.executable, "-m", "xvit", "data", "pack", str(root), str(output), "--split", "train"]
    command += ["--workers", "1", "--shard-size", str(shard_size)]
    run = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while len(finished := sorted(output.rglob("*.h5"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    finished = sorted(output.rglob("*.h5"))
    assert 2 <= len(finished) < 18
    assert not (output / "train.csv").exists()
    for file in finished:
        with h5py.File(file) as h5:  # whole, or it would not open
            (root / h5[next(iter(h5))].attrs["source"]).write_bytes(b"gone")
    stamps = [file.stat().st_mtime_ns for file in finished]
    assert pack(manifest(root), output, PackSettings(shard_size=shard_size), workers=1) == []
    packed = manifest(output)
    assert len(packed.records) == 18
    for record in packed.records:
        with open_video(record.path) as video:
            assert len(video.read(range(60))) == 60
    if shard_size == 1:
        assert [file.stat().st_mtime_ns for file in finished] == stamps
    assert len(list(output.rglob("*.h5"))) == 18 / shard_size
    assert not [*output.rglob("*.part"), *output.rglob("*.parts")]


def test_stride_scales_the_rate(source: Path, tmp_path: Path) -> None:
    pack(manifest(source, "val"), tmp_path, PackSettings(stride=4))
    with open_video(manifest(tmp_path, "val").records[0].path) as video:
        assert (video.info.num_frames, video.info.fps) == (2, 2)
