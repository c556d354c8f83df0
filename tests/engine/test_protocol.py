from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from xvit.cli import app
from xvit.data import VideoDataset
from xvit.data.synth import write_motion_set
from xvit.engine.journal import Journal, _read_blocks
from xvit.engine.protocol import evaluate_run
from xvit.engine.scores import read_scores
from xvit.errors import ConfigError, DatasetError, WeightsError, XViTWarning
from xvit.models import create_model, load_model, save_model
from xvit.types import VideoRecord

COMMAND = [sys.executable, "-c", "from xvit.cli import main; main()", "eval"]


@pytest.fixture(scope="module")
def motion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("motion")
    write_motion_set(root, train_per_class=1, val_per_class=4, workers=1)
    return root


@pytest.fixture
def run(tmp_path: Path, motion: Path) -> Path:
    classes = (motion / "classes.txt").read_text().split()
    size = {"embed_dim": 48, "depth": 1, "num_heads": 3, "patch_size": 8, "img_size": 32}
    torch.manual_seed(0)
    model = create_model(
        "vit_tiny_patch16_224",
        num_classes=len(classes),
        num_frames=4,
        size=32,
        classes=[classes],
        backbone_args=size,
    )
    save_model(model, tmp_path / "run")
    return tmp_path / "run"


ONE_BY_ONE = ["eval.batch_size=6", "data.num_workers=0"]  # six views: a video a batch


def test_a_run_is_scored_and_everything_about_it_written(run: Path, motion: Path) -> None:
    done = evaluate_run(
        run, data=str(motion), views="3x2", overrides=ONE_BY_ONE, command="xvit eval run", quiet=True
    )
    assert done.folder == run / "eval"
    files = sorted(path.name for path in done.folder.iterdir())
    assert files == ["predictions.csv", "results.json", "scores.npz"]
    found = json.loads((done.folder / "results.json").read_text())
    assert found["videos"] == len(done.manifest.records)
    assert found["views"] == 6
    assert len(found["list"]["sha256"]) == len(found["weights"]["sha256"]) == 64
    assert found["config"]["eval"]["combine"] == "probabilities"
    assert found["command"] == "xvit eval run"
    assert {"xvit", "torch"} <= found["versions"].keys()
    with np.load(done.folder / "scores.npz") as scores:
        assert scores["labels"].tolist() == [record.labels[0] for record in done.manifest.records]
        assert scores["scores"].shape == (len(done.manifest.records), 6)


def test_views_in_one_batch_equal_views_one_by_one(run: Path, motion: Path, tmp_path: Path) -> None:
    many = evaluate_run(run, data=str(motion), views="3x2", overrides=["data.num_workers=0"], quiet=True)
    model, rows = load_model(run), []
    dataset = VideoDataset(many.manifest, model.clip, views=(3, 2))
    with torch.inference_mode():
        for video in range(4):
            views = dataset[video].frames[0]
            rows.append(torch.stack([model(view[None])[0].softmax(0) for view in views]).mean(0))
    np.testing.assert_allclose(many.evaluation.scores[:4], torch.stack(rows), rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_the_device_of_another_machine_is_named(run: Path, motion: Path) -> None:
    with pytest.raises(ConfigError, match=r"device: cannot use 'cuda' here \(.*\); say device=auto"):
        evaluate_run(run, data=str(motion), overrides=["device=cuda", *ONE_BY_ONE], quiet=True)


def test_overrides_reach_the_clip_and_the_data_must_be_named(run: Path, motion: Path) -> None:
    done = evaluate_run(
        run, data=str(motion), overrides=["data.clip_position=released", *ONE_BY_ONE], quiet=True
    )
    assert done.clip.clip_position == "released"
    assert done.clip.num_frames == 4
    with pytest.raises(ConfigError, match=r"data\.size: 30 is no multiple of the patch size"):
        evaluate_run(run, data=str(motion), overrides=["data.size=30", *ONE_BY_ONE], quiet=True)
    with pytest.raises(ConfigError, match="add --data FOLDER"):
        evaluate_run(run, quiet=True)


def test_a_killed_evaluation_goes_on_where_it_stopped(
    run: Path, motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        str(run),
        "--data",
        str(motion),
        "--views",
        "3x2",
        "--output",
        str(tmp_path / "cut"),
        *ONE_BY_ONE,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*COMMAND, *arguments], env=environment, stderr=subprocess.DEVNULL)
    journal = tmp_path / "cut" / "unfinished.bin"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > 4000):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert journal.exists(), "it finished before it was killed"
    identity = json.loads(_read_blocks(journal)[0][0])
    before = Journal(shutil.copy(journal, tmp_path / "copy.bin"), identity).seconds
    assert before > 0

    read: list[str] = []
    original = VideoDataset._read

    def noted(self: VideoDataset, record: VideoRecord, rng: np.random.Generator) -> object:
        read.append(record.video_id)
        return original(self, record, rng)

    monkeypatch.setattr(VideoDataset, "_read", noted)
    again = evaluate_run(
        run, data=str(motion), views="3x2", output=tmp_path / "cut", overrides=ONE_BY_ONE, quiet=True
    )
    assert 0 < len(read) < len(again.manifest.records)
    assert not journal.exists()
    assert again.evaluation.seconds > before
    monkeypatch.undo()
    whole = evaluate_run(
        run, data=str(motion), views="3x2", output=tmp_path / "whole", overrides=ONE_BY_ONE, quiet=True
    )
    assert again.evaluation.video_id == whole.evaluation.video_id
    np.testing.assert_allclose(again.evaluation.scores, whole.evaluation.scores, rtol=1e-6)


def test_the_command_line_evaluates_compares_and_recomputes(run: Path, motion: Path, tmp_path: Path) -> None:
    def xvit(*arguments: object) -> str:
        return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False).stdout

    done = xvit("eval", run, "--data", motion, "--views", "1x2", "--stop-margin", 0, *ONE_BY_ONE)
    assert "24 videos, none missing; 95 % bootstrap intervals over videos" in done
    assert "1.00 of 2 views a video" in done
    assert (run / "eval" / "report.html").stat().st_size > 20_000
    again = xvit("eval", "--from", run / "eval", "--top-k", 2, "--output", tmp_path / "again")
    assert again.startswith("top-2")
    assert read_scores(tmp_path / "again").video_id == read_scores(run / "eval").video_id
    same = xvit("compare", run / "eval", tmp_path / "again")
    assert "0 right only in B" in same
    with pytest.raises(WeightsError, match=r"no such file or folder, nor a published name \(xvit models"):
        xvit("eval", tmp_path / "nothing", "--data", motion)
    for option, value in (("--data", motion), ("--views", "3x2"), ("--stop-margin", 0.1), ("--split", "val")):
        with pytest.raises(ConfigError, match=f"leave {option} out"):
            xvit("eval", "--from", run / "eval", option, value)
    assert CliRunner().invoke(app, ["eval", "--from", str(run / "eval"), "--top-k", "0"]).exit_code == 2
    with pytest.raises(ConfigError, match=r"predictions\.csv: no folder can be made there"):
        xvit("eval", "--from", run / "eval", "--output", run / "eval" / "predictions.csv")


def test_a_list_without_labels_is_submitted_also_of_several_models(
    run: Path, motion: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "videos").symlink_to(motion)
    names = [f"videos/{path.relative_to(motion)}" for path in sorted(motion.rglob("*.mp4"))[:3]]
    (data / "test.csv").write_text("".join(f"{name}\n" for name in names))
    (data / "classes.txt").write_text((motion / "classes.txt").read_text())
    evaluate_run(run, data=str(data), split="test", overrides=ONE_BY_ONE, quiet=True)
    alone = (run / "eval" / "submission.csv").read_text()
    assert [line.partition(";")[0] for line in alone.splitlines()] == names
    scores = str(run / "eval")
    arguments = ["eval", "--from", scores, "--from", scores, "--output", str(tmp_path / "both")]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert (tmp_path / "both" / "submission.csv").read_text() == alone


def test_wrong_groups_are_refused_before_the_work(run: Path, motion: Path, tmp_path: Path) -> None:
    file = tmp_path / "groups.csv"
    file.write_text("path,group\nelsewhere.mp4,a\n")
    for path, reason in ((file, "no group is given for"), (tmp_path / "none.csv", "No such file")):
        with pytest.raises(DatasetError, match=reason):
            evaluate_run(run, data=str(motion), groups=path, overrides=ONE_BY_ONE, quiet=True)
    assert not (run / "eval" / "unfinished.bin").exists()


def test_listed_videos_that_are_not_on_disk_are_told(run: Path, motion: Path, tmp_path: Path) -> None:
    names = (motion / "classes.txt").read_text().split()
    videos = sorted(motion.rglob("*.mp4"))[:2]
    for number, path in enumerate(videos):
        (tmp_path / f"{number}.mp4").symlink_to(path)
    labels = {name: str(number) for number, name in enumerate(names)}
    entries = [{"id": str(number), "template": names[0]} for number in range(5)]
    (tmp_path / "something-something-v2-labels.json").write_text(json.dumps(labels))
    (tmp_path / "something-something-v2-validation.json").write_text(json.dumps(entries))
    done = evaluate_run(run, data=str(tmp_path), overrides=ONE_BY_ONE, quiet=True)
    written = json.loads((done.folder / "results.json").read_text())
    assert (written["videos"], written["not_on_disk"]) == (2, 3)
    assert read_scores(done.folder).not_on_disk == 3


@pytest.mark.parametrize(("highest", "told"), [(1, True), (3, False)])
def test_few_classes_of_a_model_without_names_are_told(
    run: Path, motion: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder, highest: int, told: bool
) -> None:
    described = json.loads((run / "config.json").read_text())
    described["classes"] = [[str(number) for number in range(6)]]
    (run / "config.json").write_text(json.dumps(described))
    one, other, *_ = motion.glob("*/val*.mp4")
    (tmp_path / "val.csv").write_text(f"{one} 0\n{other} {highest}\n")
    evaluate_run(run, data=str(tmp_path), overrides=ONE_BY_ONE, quiet=True)
    said = [str(warning.message) for warning in recwarn if warning.category is XViTWarning]
    assert any("has 6 classes without names, the labels end at 1" in line for line in said) == told


@pytest.mark.parametrize("name", ["eval_kinetics", "eval_ssv2"])
def test_scores_equal_the_released_codes(shared: Path, tmp_path: Path, name: str) -> None:
    folder = shared / "oracle" / name
    done = evaluate_run(
        folder / "weights.pth", data=str(folder / "data"), views="3x2", output=tmp_path, quiet=True
    )
    with np.load(folder / "scores.npz") as oracle, np.load(tmp_path / "scores.npz") as ours:
        assert ours["video_id"].tolist() == oracle["names"].tolist()
        assert ours["labels"].tolist() == oracle["labels"].tolist()
        np.testing.assert_allclose(ours["scores"], oracle["video_preds"], rtol=1e-4, atol=1e-5)
    assert done.found["combine"] == "logits"
