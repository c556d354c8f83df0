"""Processes that torchrun started share a corpus: all that is readable is written, whoever is done first."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_predictor import CLASSES

from xvit.data.synth import write_motion_set

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What falls to the first process is no video and soon done; the second has six to score."""
    root = tmp_path_factory.mktemp("motion")
    write_motion_set(root / "set", train_per_class=0, val_per_class=1, workers=1)
    mixed = root / "mixed"
    mixed.mkdir()
    (mixed / "00.mp4").write_text("just words")
    for number, video in enumerate(sorted((root / "set").rglob("*.mp4"))):
        (mixed / f"{number}_0.mp4").write_text("just words")
        video.rename(mixed / f"{number}_1.mp4")
    return mixed


def launch(*command: object, late: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Two processes of `xvit …`. late: a pipe that gives nothing for some seconds, then its end."""
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "xvit", *map(str, command)),
        ],
        env=clean | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    pause = 4.0
    while late is not None and process.poll() is None:
        with contextlib.suppress(OSError):  # nobody reads it yet, or any more
            writer = os.open(late, os.O_WRONLY | os.O_NONBLOCK)
            time.sleep(pause)
            os.close(writer)
            pause = 0.0
        time.sleep(0.05)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def late(folder: Path) -> Iterator[Path]:
    """The second process waits for its first video, while the first one has long been done."""
    pipe = folder / "01.mp4"
    os.mkfifo(pipe)
    yield pipe
    pipe.unlink()


def test_unreadable_videos_end_no_other_process(run: Path, folder: Path, late: Path, tmp_path: Path) -> None:
    done = launch("predict", run, folder, "--format", "jsonl", "--output", tmp_path / "out.jsonl", late=late)
    assert done.returncode == 1, done.stderr
    files = [tmp_path / f"out.{number}of2.jsonl" for number in (1, 2)]
    assert [len(file.read_text().splitlines()) for file in files] == [0, 6]
    assert done.stderr.count("not read: ") == 8
    assert "8 of 14 videos could not be read" in done.stderr
    assert not re.search(r'File ".*xvit', done.stderr)  # torchrun has a traceback, xvit none


def test_an_evaluation_is_told_once(run: Path, folder: Path, tmp_path: Path) -> None:
    for video in sorted(folder.glob("*_1.mp4")):
        label = CLASSES[int(video.name[0])]
        (tmp_path / "val" / label).mkdir(parents=True)
        (tmp_path / "val" / label / video.name).symlink_to(video)
        (tmp_path / "train" / label).mkdir(parents=True)
        (tmp_path / "train" / label / video.name).symlink_to(video)
    done = launch("eval", run, "--data", tmp_path, "--output", tmp_path / "eval", "device=cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("top-1") == done.stdout.count("report.html") == 1
    assert len(json.loads((tmp_path / "eval" / "results.json").read_text())["tasks"]) == 1
