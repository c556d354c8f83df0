"""`xvit predict` and `xvit features` over folders: every readable video is scored, every other one named."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_predictor import make_predictor

from xvit.cli import main
from xvit.data.synth import write_motion_set

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def xvit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["xvit", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        captured = capsys.readouterr()
        return int(exited.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos, one with a name of its own, and two files that are none."""
    root = tmp_path_factory.mktemp("motion")
    write_motion_set(root, train_per_class=0, val_per_class=1, workers=1)
    (root / "left" / "val_00000.mp4").rename(root / "left" / "spaces and ünïcode 名.mp4")
    (root / "up" / "text.mp4").write_text("just words")
    (root / "up" / "empty.mp4").touch()
    (root / "notes.txt").write_text("not offered as a video")
    return root


def test_formats_agree_and_failures_come_at_the_end(xvit: Call, run: Path, folder: Path) -> None:
    found = {}
    for format in ("json", "jsonl", "csv", "table"):
        code, out, err = xvit("predict", run, folder, "--top-k", 2, "--format", format)
        assert code == 1
        last = err.strip().splitlines()[-3:]
        assert [line.partition(": ")[0] for line in last[:2]] == ["not read"] * 2
        assert "empty.mp4: not a readable video" in last[0]
        assert "text.mp4: not a readable video" in last[1]
        assert last[2] == "2 of 8 videos could not be read"
        assert "Traceback" not in err
        found[format] = out
    rows = json.loads(found["json"])
    assert len(rows) == 6
    assert any("ünïcode 名" in row["video"] for row in rows)
    lines = [json.loads(line) for line in found["jsonl"].splitlines()]
    assert [{key: line[key] for key in ("video", "predictions")} for line in lines] == rows
    sheet = list(csv.DictReader(found["csv"].splitlines()))
    assert [(r["video"], r["label"]) for r in sheet] == [
        (row["video"], entry["label"]) for row in rows for entry in row["predictions"]
    ]
    assert len(found["table"].splitlines()) == 18


def test_an_interrupted_run_goes_on(xvit: Call, run: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    arguments = ("predict", run, folder / "*" / "*val*.mp4", "--format", "jsonl", "--output", output)
    assert xvit(*arguments)[0] == 0
    whole = output.read_text()
    lines = whole.splitlines(keepends=True)
    marked = lines[0].replace('"video"', '"kept": 1, "video"')  # shows that it is not scored again
    output.write_text(marked + lines[1] + lines[2][:40])
    assert xvit(*arguments)[0] == 0
    assert output.read_text() == marked + "".join(lines[1:])
    code, _, err = xvit(*arguments, "--views", "3x1")
    assert code == 2
    assert "choose another --output" in err


def test_shards_share_the_work(xvit: Call, run: Path, folder: Path) -> None:
    names = []
    for i in (1, 2, 3):
        _, out, _ = xvit("predict", run, folder, "--format", "json", "--shard", f"{i}/3")
        names.append({row["video"] for row in json.loads(out)})
    assert sum(map(len, names)) == 6
    assert len(set.union(*names)) == 6
    assert xvit("predict", run, folder, "--shard", "4/3")[0] == 2


def test_torchrun_processes_write_files_of_their_own(
    xvit: Call, run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        xvit("predict", run, folder, "--format", "jsonl", "--output", tmp_path / "out.jsonl")
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["out.1of2.jsonl", "out.2of2.jsonl"]
    assert sum(len(file.read_text().splitlines()) for file in files) == 6


def test_features_in_one_file(xvit: Call, run: Path, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "feats.h5"
    assert xvit("features", run, folder, "-o", target)[0] == 1
    clf = make_predictor().load(run, device="cpu")
    with h5py.File(target) as file:
        names = [name.decode() for name in file["videos"]]
        features = file["features"][:]
    assert len(names) == 6
    assert features.dtype == np.float32
    for name, feature in zip(names, features, strict=True):
        np.testing.assert_allclose(feature, clf.features(name).numpy(), rtol=0, atol=1e-6)
    assert [path.name for path in target.parent.iterdir()] == ["feats.h5"]


def test_folders_and_patterns_without_videos(xvit: Call, run: Path, tmp_path: Path) -> None:
    for name, message in ((tmp_path, "no videos in this folder"), (tmp_path / "*.mp4", "matches no file")):
        code, _, err = xvit("predict", run, name)
        assert code == 2
        assert message in err
    assert "must be one of" in xvit("predict", run, tmp_path / "a.mp4", "--format", "xml")[2]


def test_the_odd_folder_gives_predictions_or_one_line_each(xvit: Call, run: Path, shared: Path) -> None:
    odd = shared / "videos" / "odd"
    code, out, err = xvit("predict", run, odd, "--top-k", 1, "--format", "jsonl")
    assert code == 1
    assert "Traceback" not in err
    failed = {line.split(": ")[1] for line in err.splitlines() if line.startswith("not read: ")}
    scored = {json.loads(line)["video"] for line in out.splitlines()}
    offered = {str(p) for p in odd.rglob("*") if p.is_file()} - {
        str(odd / name) for name in ("SOURCE.txt", "expected.csv", "made/audio_only.m4a")
    }
    assert not failed & scored
    assert failed | scored == offered
    assert {Path(name).name for name in failed} == {
        *("audio_only_named.mp4", "corrupted_middle.mp4", "text_named.mp4", "zero_bytes.mp4"),
        *("truncated_moov_at_end_or_start.mp4", "truncated_no_moov.mp4", "corrupted_decord.mp4"),
    }
