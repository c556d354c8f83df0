"""The curves where people look for them: TensorBoard's and W&B's files, a table."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xvit.config import load_config
from xvit.data.synth import write_motion_set
from xvit.engine import trackers
from xvit.engine.runlog import read_log
from xvit.engine.train import train
from xvit.errors import ConfigError


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("motion")
    write_motion_set(root, train_per_class=2, val_per_class=1, workers=1)
    return root


def settings(videos: Path, output: Path, *more: str) -> list[str]:
    model = "model.backbone_args={patch_size: 16, embed_dim: 16, depth: 1, num_heads: 2}"
    return [
        *(f"data.root={videos}", f"output={output}", "device=cpu", model, "model.head_num_heads=2"),
        *("data.num_frames=2", "data.num_workers=0", "train.batch_size=4", "train.epochs=2", *more),
    ]


def test_a_table_and_tensorboard_tell_what_the_log_does(videos: Path, tmp_path: Path) -> None:
    """Also of a run that was resumed at step 3 after it had logged step 4."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run, named = tmp_path / "run", "train.trackers=[csv, tensorboard]"
    train(load_config("demo/motion", settings(videos, run, named, "train.max_steps=3")), quiet=True)
    with (run / "log.csv").open("a") as file:
        file.write("4,9.0,0,0,,,,\n5,9.")
    train(load_config("demo/motion", settings(videos, run, named, "train.resume=auto")), quiet=True)
    steps = [event for event in read_log(run) if event["event"] == "step"]
    with (run / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [event["step"] for event in steps] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "top1", "lr"):
        assert [float(row[f"train/{name}"]) for row in rows] == [event[name] for event in steps]
    validations = [event for event in read_log(run) if event["event"] == "val"]
    assert [row["val/top1"] for row in rows if row["val/top1"]] == [str(e["top1"]) for e in validations]
    events = accumulator.EventAccumulator(str(run / "xvit"))
    events.Reload()
    found = events.Scalars("train/loss")
    assert [point.step for point in found] == [1, 2, 3, 4, 5, 6]
    assert [point.value for point in found] == pytest.approx([event["loss"] for event in steps])
    assert [point.step for point in events.Scalars("val/top1")] == [event["step"] for event in validations]


@pytest.mark.filterwarnings("ignore:.*begins anew")
def test_a_new_run_begins_a_new_table(videos: Path, tmp_path: Path) -> None:
    for epochs in (2, 1):
        changes = ("train.trackers=[csv]", f"train.max_steps={3 * epochs}")
        train(load_config("demo/motion", settings(videos, tmp_path / "run", *changes)), quiet=True)
    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3"]


def test_a_tracker_that_is_not_there_is_named(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(name: str) -> None:
        train(load_config("demo/motion", settings(videos, tmp_path / "run", f"train.trackers=[{name}]")))

    with pytest.raises(ConfigError, match=r"no tracker is called 'tensorbord'; there are csv, .*tensorboard"):
        start("tensorbord")
    monkeypatch.setitem(trackers.PACKAGES, "wandb", "no_such_package")
    with pytest.raises(ConfigError, match=r"wandb is not installed; pip install 'xvit\[wandb\]'"):
        start("wandb")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_wandb_writes_its_files_without_a_network(videos: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    command = ["train", "demo/motion", *settings(videos, run, "train.trackers=[wandb]")]
    done = subprocess.run(
        [sys.executable, "-m", "xvit", *command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"},
    )
    assert done.returncode == 0, done.stderr
    (file,) = (run / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert b"train/loss" in content
    assert b"val/top1" in content
    assert json.loads((run / "metrics.json").read_text())["step"] == 6
