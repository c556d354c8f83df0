"""`xvit data …` from the command line: every kind of fault is found, and the lists can be mended."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from xvit.cli_data import app
from xvit.config import DataConfig
from xvit.data import load_manifest
from xvit.data.synth import write_motion_set, write_video


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout


@pytest.fixture
def faulty(tmp_path: Path, shared: Path) -> Path:
    root = tmp_path / "set"
    write_motion_set(root, num_frames=4, train_per_class=3, val_per_class=2)
    shutil.copy(root / "left/train_00000.mp4", root / "left/copy.mp4")
    (root / "up/text.mp4").write_text("no video")
    shutil.copy(shared / "videos/odd/made/corrupted_middle.mp4", root / "up/damaged.mp4")
    shutil.copy(shared / "videos/odd/made/truncated.avi", root / "up/cut.avi")
    noise = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    for name in ("down/v_Down_g01_c01.mp4", "down/v_Down_g01_c02.mp4"):
        write_video(root / name, np.concatenate([noise, noise]) if "c02" in name else noise)
    with (root / "train.csv").open("a") as file:
        file.write("left/copy.mp4 2\nup/text.mp4 5\nup/damaged.mp4 5\nup/cut.avi 5\n")
        file.write("down/v_Down_g01_c01.mp4 0\n./up/train_00000.mp4 0\n")
    with (root / "val.csv").open("a") as file:
        file.write("down/v_Down_g01_c02.mp4 0\nup/train_00001.mp4 5\n")
    with (root / "classes.txt").open("a") as file:
        file.write("nothing\n")
    return root


def test_check_finds_every_fault(faulty: Path, tmp_path: Path) -> None:
    code, out = run("check", faulty, "--json", "--fix-csv", tmp_path / "fixed")
    assert code == 1
    found = {(f["kind"], f["split"], f["name"]) for f in json.loads(out)["findings"]}
    assert found == {
        ("duplicate", "train", "left/copy.mp4"),
        ("duplicate", "train", "./up/train_00000.mp4"),
        ("duplicate", "val", "up/train_00001.mp4"),
        ("unreadable", "train", "up/text.mp4"),
        ("truncated", "train", "up/damaged.mp4"),
        ("truncated", "train", "up/cut.avi"),
        ("too short", "train", "down/v_Down_g01_c01.mp4"),
        ("label gap", "train", "nothing"),
        ("in both splits", "val", "up/train_00001.mp4"),
        ("recording in both splits", "val", "down/v_Down_g01_c02.mp4"),
        ("wrong class name", "train", "./up/train_00000.mp4"),
    }
    code, out = run("check", faulty)
    assert code == 1
    assert "unreadable               train  up/text.mp4  not a readable video" in out
    assert "11 findings" in out
    fixed = load_manifest(DataConfig(root=str(tmp_path / "fixed")), "train")
    assert len(fixed.records) == 18
    assert all(Path(record.path).is_file() for record in fixed.records)


def test_check_of_a_sound_set(tmp_path: Path) -> None:
    write_motion_set(tmp_path, num_frames=4, train_per_class=2, val_per_class=2)
    code, out = run("check", tmp_path)
    assert code == 0
    assert "nothing wrong" in out


def test_a_val_list_that_is_the_test_list_is_no_leak(tmp_path: Path) -> None:
    """UCF101, HMDB51 and the released code's sets have two lists."""
    write_motion_set(tmp_path / "motion", num_frames=4, train_per_class=2, val_per_class=2, workers=1)
    root = tmp_path / "ucf"
    root.mkdir()
    (root / "classInd.txt").write_text("1 Left\n2 Right\n")
    for split, ours, first in (("train", "train", 8), ("test", "val", 1)):
        lines = []
        for label, name in enumerate(("Left", "Right"), start=1):
            (root / name).mkdir(exist_ok=True)
            for n in range(2):
                clip = f"{name}/v_{name}_g{first + n:02}_c01.mp4"
                shutil.copy(tmp_path / f"motion/{name.lower()}/{ours}_{n:05}.mp4", root / clip)
                lines.append(f"{clip} {label}")
        (root / f"{split}list01.txt").write_text("\n".join(lines) + "\n")
    code, output = run("check", root, "--fix-csv", tmp_path / "fixed")
    assert "ucf101: 4 videos, 2 classes, split val" in output
    assert "nothing wrong" in output
    assert code == 0
    assert sorted(file.name for file in (tmp_path / "fixed").glob("*.csv")) == ["train.csv", "val.csv"]


def test_synth_pack_and_show(tmp_path: Path) -> None:
    code, out = run("synth", tmp_path / "set", "--train", 2, "--val", 1, "--frames", 4)
    assert code == 0
    assert "wrote 12 training and 6 validation videos" in out
    code, out = run("pack", tmp_path / "set", tmp_path / "packed", "--short-side", 32)
    assert code == 0
    assert "csv: 12 videos, 6 classes, split train" in out
    sheet = tmp_path / "sheet.png"
    config = tmp_path / "c.yaml"
    config.write_text(f"data: {{root: {tmp_path / 'packed'}, num_frames: 4, size: 32}}")
    code, out = run("show", config, "--output", sheet, "--videos", 3)
    assert code == 0
    assert "released_kinetics: 12 videos" in out
    assert Image.open(sheet).size == (4 * 32, 3 * 32)


def test_pack_reports_failures(tmp_path: Path) -> None:
    write_motion_set(tmp_path / "set", num_frames=4, train_per_class=1, val_per_class=1)
    (tmp_path / "set/up/val_00000.mp4").write_text("no video")
    code, _ = run("pack", tmp_path / "set", tmp_path / "packed", "--split", "val")
    assert code == 1
    assert "up/val_00000.mp4" in (tmp_path / "packed/failures.csv").read_text()
