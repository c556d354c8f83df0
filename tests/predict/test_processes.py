"""Processes that torchrun started share a corpus: all that is readable is written, whoever is done first."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from test_predictor import make_predictor

from xvit.data.synth import write_motion_set
from xvit.models import save_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_model(make_predictor().model, folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What falls to the first process is no video and soon done; the second has six videos to score."""
    root = tmp_path_factory.mktemp("motion")
    write_motion_set(root / "set", train_per_class=0, val_per_class=1, workers=1)
    mixed = root / "mixed"
    mixed.mkdir()
    for number, video in enumerate(sorted((root / "set").rglob("*.mp4"))):
        (mixed / f"{number}_0.mp4").write_text("just words")
        video.rename(mixed / f"{number}_1.mp4")
    return root


def launch(*command: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), "-m", "xvit", *map(str, command)),
        ],
        env=clean | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_unreadable_videos_end_no_other_process(run: Path, folder: Path, tmp_path: Path) -> None:
    done = launch(
        *("predict", run, folder / "mixed", "--views", "3x20"),
        *("--format", "jsonl", "--output", tmp_path / "out.jsonl"),
    )
    assert done.returncode == 1, done.stderr
    files = [tmp_path / f"out.{number}of2.jsonl" for number in (1, 2)]
    assert [len(file.read_text().splitlines()) for file in files] == [0, 6]
    assert done.stderr.count("not read: ") == 6
    assert "6 of 12 videos could not be read" in done.stderr
    assert not re.search(r'File ".*xvit', done.stderr)  # torchrun has a traceback, xvit none


def test_features_too(run: Path, folder: Path, tmp_path: Path) -> None:
    done = launch("features", run, folder / "mixed", "--views", "3x20", "-o", tmp_path / "feats.h5")
    assert done.returncode == 1, done.stderr
    for number, videos in ((1, 0), (2, 6)):
        with h5py.File(tmp_path / f"feats.{number}of2.h5") as file:
            assert len(file["videos"]) == len(file["features"]) == videos
    assert "6 of 12 videos could not be read" in done.stderr


def test_an_evaluation_is_told_once(run: Path, folder: Path, tmp_path: Path) -> None:
    for video in sorted((folder / "mixed").glob("*_1.mp4")):
        label = "down grow left right shrink up".split()[int(video.name[0])]
        (tmp_path / "val" / label).mkdir(parents=True)
        (tmp_path / "val" / label / video.name).symlink_to(video)
        (tmp_path / "train" / label).mkdir(parents=True)
        (tmp_path / "train" / label / video.name).symlink_to(video)
    done = launch("eval", run, "--data", tmp_path, "--output", tmp_path / "eval", "device=cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("top-1") == done.stdout.count("report.html") == 1
    assert len(json.loads((tmp_path / "eval" / "results.json").read_text())["tasks"]) == 1
