"""A training on real files: it resumes bit for bit, stops when asked, and names what is wrong."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from xvit.config import Config, DataConfig, load_config
from xvit.data import load_manifest
from xvit.data.synth import write_motion_set
from xvit.engine import checkpoint, signals
from xvit.engine import train as train_module
from xvit.engine.checkpoint import load_newest
from xvit.engine.runlog import ProgressLine, read_log
from xvit.engine.screen import describe, expected_cost
from xvit.engine.setup import Run, build_run
from xvit.engine.signals import StopSignal, leaving_at_once
from xvit.engine.train import train
from xvit.errors import ConfigError, DatasetError, VideoReadError, WeightsError, XViTError, XViTWarning
from xvit.report.curves import conclude
from xvit.types import Batch

SMALL = (
    "device=cpu",
    "model.backbone_args={patch_size: 16, embed_dim: 16, depth: 1, num_heads: 2}",
    "model.head_num_heads=2",
    "data.num_frames=2",
    "train.batch_size=6",
    "train.epochs=4",
    "train.eval_every=4",
    "model.dropout=0.1",
    "train.mixup_alpha=0.2",
    "train.ema_decay=0.9",
)
STEPS = 4 * 3  # epochs × batches


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Sums come out bit for bit alike only on the same number of threads, here and in child processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train_on_one_thread(config: Config) -> None:
    torch.set_num_threads(1)
    train(config, quiet=True)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("motion")
    write_motion_set(root, train_per_class=3, val_per_class=1, workers=1)
    return root


def small_config(videos: Path, output: Path, *overrides: str) -> Config:
    return load_config("demo/motion", [f"data.root={videos}", f"output={output}", *SMALL, *overrides])


@pytest.fixture(scope="module")
def finished(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small_config(videos, tmp_path_factory.mktemp("run") / "whole"), quiet=True)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_run_folder_says_all(videos: Path, finished: Path) -> None:
    assert {p.name for p in finished.iterdir()} == {
        "config.yaml",
        "config.json",
        "model.safetensors",
        "log.jsonl",
        "best",
        "metrics.json",
        "checkpoints",
    }
    events = read_log(finished)
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(1, STEPS + 1))
    metrics = json.loads((finished / "metrics.json").read_text())
    lists = {split: load_manifest(DataConfig(root=str(videos)), split).digest for split in ("train", "val")}
    assert metrics["list_sha256"] == lists
    assert metrics["step"] == metrics["steps"] == STEPS
    assert 0 <= metrics["top1"] <= 1
    classes = json.loads((finished / "config.json").read_text())["classes"]
    assert classes == [["down", "grow", "left", "right", "shrink", "up"]]


@pytest.mark.parametrize(
    "switches",
    [
        (),
        ("train.precision=bf16", "train.grad_checkpointing=true", "train.accumulate=2"),
        ("train.cutmix_alpha=1", "model.drop_path=0.2", "data.augment.auto=randaugment"),
        ("train.optimizer=sgd", "train.class_balanced=true", "train.patience=9", "train.eval_every=1"),
        ("train.head_first=1", "train.trained_blocks=0", "model.adapters=4", "train.layer_decay=0.5"),
        ("model.mixing.gate=learned", "train.gate_lr_scale=50", "data.num_workers=1", "model.head=moments"),
    ],
    ids=lambda switches: " ".join(s.split("=")[0].split(".")[-1] for s in switches) or "none",
)
def test_four_steps_are_two_and_two(videos: Path, tmp_path: Path, switches: tuple[str, ...]) -> None:
    """Under whatever is switched on; the resumed steps end one epoch and begin another."""

    def run_until(step: int, name: str, *more: str) -> Path:
        return train(
            small_config(videos, tmp_path / name, *switches, f"train.max_steps={step}", *more), quiet=True
        )

    whole = run_until(4, "whole")
    run_until(2, "split")
    split = run_until(4, "split", "train.resume=auto")
    assert_same_weights(whole, split)
    steps = [e for e in read_log(split) if e["event"] == "step"]
    expected = [e["loss"] for e in read_log(whole) if e["event"] == "step"]
    assert [e["loss"] for e in steps] == expected


def test_every_epoch_is_another_order_of_other_clips(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the epoch in the middle of which a run is resumed."""
    real, seen = train_module.train_step, []

    def watched(run: Run, passes: list[Batch], step: int, rate: float) -> float:
        order = passes[0].index.argsort()
        seen.append((passes[0].index.tolist(), passes[0].frames[order].double().sum().item()))
        return real(run, passes, step, rate)

    monkeypatch.setattr(train_module, "train_step", watched)
    for output, steps in (("whole", (9,)), ("split", (4, 9))):
        for count in steps:
            train(
                small_config(
                    videos,
                    tmp_path / output,
                    f"train.max_steps={count}",
                    "train.batch_size=6",
                    "train.resume=auto",
                ),
                quiet=True,
            )
    whole, split = seen[:9], seen[9:]
    assert split == whole
    epochs = [whole[:3], whole[3:6], whole[6:]]
    assert all(sorted(row for rows, _ in epoch for row in rows) == list(range(18)) for epoch in epochs)
    assert len({str(epoch) for epoch in epochs}) == 3
    assert len({round(sum(total for _, total in epoch), 1) for epoch in epochs}) == 3  # other crops


def test_another_seed_is_another_run(videos: Path, finished: Path, tmp_path: Path) -> None:
    other = train(small_config(videos, tmp_path / "other", "seed=1"), quiet=True)
    assert not torch.equal(weights(other)["head.fc.weight"], weights(finished)["head.fc.weight"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_change_nothing(videos: Path, finished: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments of a run that saves after every step, then go on, until all is trained."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["xvit.engine.train"])
    rng, kills, runs = random.Random(0), 0, 0
    while kills < 20:
        runs += 1
        output = tmp_path / f"run{runs}"
        config = small_config(
            videos, output, "train.resume=auto", "train.checkpoint_every=1", "train.keep_last=3"
        )
        while not (output / "metrics.json").exists():
            process = context.Process(target=train_on_one_thread, args=(config,))
            process.start()
            process.join(rng.uniform(0.3, 2.5) if kills < 20 else None)
            if process.exitcode is None:
                process.kill()
                kills += 1
            process.join()
        assert_same_weights(output, finished)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells when torch is being loaded")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", [["-m", "xvit", "train", "demo/motion"], ["tools/run_net.py", "--cfg"]])
def test_a_signal_before_training_begins(
    videos: Path, tmp_path: Path, command: list[str], number: int
) -> None:
    if "--cfg" in command:
        command = [*command, "configs/demo/motion.yaml"]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, *command, f"data.root={videos}", f"output={tmp_path / 'run'}"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    output, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, "")
    assert output.startswith("stopped before training began; resume with\n")
    assert output.endswith(f"output={tmp_path / 'run'}\n")
    assert not (tmp_path / "run").exists()


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with leaving_at_once(["xvit"]):
        assert signal.getsignal(signal.SIGTERM) is not before
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.requested
        assert signal.getsignal(signal.SIGTERM) is before  # what follows a training has begun
    with leaving_at_once(["xvit"]):
        pass
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_run_that_evaluates(videos: Path, tmp_path: Path, number: int) -> None:
    """Sent to all processes of the job, as a terminal and a cluster do, and once more, as torchrun does."""
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "xvit",
        "train",
        "demo/motion",
        f"data.root={videos}",
        f"output={run}",
        *SMALL,
    ]
    process = subprocess.Popen(
        [*command, "train.epochs=10000", "train.eval_every=10000", "data.num_workers=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (run / "log.jsonl").exists() and any(e["event"] == "step" for e in read_log(run)):
            break
        time.sleep(0.2)
    os.killpg(process.pid, number)
    os.kill(process.pid, number)
    output, complaints = process.communicate(timeout=60)
    assert process.returncode == 0, complaints
    assert "Traceback" not in complaints
    assert (run / "curves.png").is_file()
    assert "killed" not in complaints
    with pytest.raises(ProcessLookupError):  # no worker is left behind
        os.killpg(process.pid, 0)
    assert "train.resume=auto" in output
    done = subprocess.run(
        [sys.executable, "-m", "xvit", "eval", str(run), "--views", "1x2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_time_to_stop_is_when_nothing_gets_better(videos: Path, tmp_path: Path) -> None:
    run = train(
        small_config(
            videos,
            tmp_path / "r",
            "train.epochs=50",
            "train.eval_every=1",
            "train.patience=2",
            "train.lr=1e-9",
        ),
        quiet=True,
    )
    assert json.loads((run / "metrics.json").read_text())["step"] == 3 * 3  # the first, then two no better


def test_a_stop_in_between_costs_no_patience(videos: Path, tmp_path: Path) -> None:
    """A run that is not stopped does not validate there."""
    run = build_run(small_config(videos, tmp_path / "r", "train.patience=2", "train.eval_every=1"))
    run.folder.mkdir()
    epoch = run.steps_per_epoch
    for step, worse in ((epoch, 0), (epoch + 1, 0), (2 * epoch, 1)):
        run.note({"top1": 0.5}, step, run.model)
        assert run.worse == worse


def test_a_terminal_of_80_columns_shows_all() -> None:
    bar = ProgressLine("train", 12345, done=9876)
    bar.note(val=0.875)
    bar.step(clips=1283, seconds=1.0, waiting=1.0, loss=0.0693, top1=0.625, lr=7.65e-06)
    console = Console(width=80, record=True, file=io.StringIO())
    for part in bar._bar.get_renderables():
        console.print(part)
    first, second = console.export_text().splitlines()
    assert "9877/12345" in first
    shown = "loss 0.0693  top1 0.625  lr 7.65e-06  clips/s 1283  waiting 100 %  val 0.875"
    assert second.strip() == shown


@pytest.mark.parametrize(
    "changes",
    [
        ("train.accumulate=2",),
        ("train.cutmix_alpha=1", "train.label_smoothing=0.1"),
        ("train.optimizer=sgd", "train.weight_decay=1e-4"),
        ("train.trained_blocks=0",),
        ("model.adapters=4", "train.trained_blocks=0"),
        ("train.precision=bf16", "train.grad_checkpointing=true"),
        ("train.class_balanced=true", "train.layer_decay=0.7", "model.drop_path=0.1"),
        ("data.num_workers=1",),
    ],
    ids=lambda changes: changes[0],
)
def test_every_switch_trains(videos: Path, tmp_path: Path, changes: tuple[str, ...]) -> None:
    run = train(small_config(videos, tmp_path / "r", "train.max_steps=2", *changes), quiet=True)
    losses = [e["loss"] for e in read_log(run) if e["event"] == "step"]
    assert len(losses) == 2
    assert all(0 < loss < 10 for loss in losses)


@pytest.mark.parametrize(
    ("change", "needed"),
    [
        ("model.mixing.layout=channels", "mixing.layout=heads"),
        ("model.adapters=4", "no adapters"),
        ("model.head=moments", "head=temporal or mean"),
    ],
)
def test_a_released_file_that_cannot_be_is_refused_at_the_start(
    videos: Path, tmp_path: Path, change: str, needed: str
) -> None:
    layout = "model.mixing.layout=heads", "model.head_positions=false", "model.head_init=timm"
    config = small_config(videos, tmp_path / "r", "train.released_every=1", *layout, change)
    with pytest.raises(ConfigError, match=f"^train.released_every .*it needs {needed}; or say") as refusal:
        train(config, quiet=True)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "train.trained_blocks=2",
            "train.trained_blocks: the model has 1 blocks, got 2; null trains all of it",
        ),
        (
            "train.new_head=true",
            "train.new_head replaces the classifier of train.init_from, which is not set",
        ),
        ("device=meta", "device: cannot train on 'meta' here, but on"),
        (
            "train.best_metric=map",
            "train.best_metric=map is for videos of several labels; here it must be top",
        ),
        ("output=/dev/null", "output: cannot write to /dev/null: File exists"),
    ],
)
def test_what_cannot_be_is_refused(videos: Path, tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(small_config(videos, tmp_path / "r", change), quiet=True)


def test_image_weights_are_no_model_to_start_from(videos: Path, tmp_path: Path) -> None:
    save_file({"cls_token": torch.zeros(1)}, tmp_path / "vit.safetensors")
    config = small_config(videos, tmp_path / "r", f"train.init_from={tmp_path / 'vit.safetensors'}")
    with pytest.raises(WeightsError, match=r"image weights go to model\.backbone_weights"):
        train(config, quiet=True)


def test_the_start_screen_has_doubts(videos: Path, tmp_path: Path) -> None:
    changes = ("train.batch_size=99", "train.warmup_epochs=4", "data.augment.flip_prob=0.5")
    lines = describe(build_run(small_config(videos, tmp_path / "r", *changes)), 1).splitlines()
    assert lines[-3:] == [
        "note   train.batch_size=99 is more than the videos there are: a step takes 18",
        "note   train.warmup_epochs=4 is all of train.epochs=4: the learning rate never gets to train.lr",
        "note   data.augment.flip_prob=0.5 mirrors clips of 'left' too: where that makes them another class, "
        "name the two in data.augment.flip_labels, or set flip_prob=0",
    ]
    for settled in ((), ("data.augment.flip_prob=0.5", "data.augment.flip_labels={left: right}")):
        assert "note" not in describe(build_run(small_config(videos, tmp_path / "r", *settled)), 1)


def test_a_best_metric_that_cannot_tell_is_told(videos: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    for name in ("left", "right"):
        shutil.copytree(videos / name, few / name)
    for best, told in (("top5", True), ("top1", False)):
        screen = describe(build_run(small_config(few, tmp_path / "r", f"train.best_metric={best}")), 1)
        assert ("note   train.best_metric=top5 is always 100 %" in screen) == told


def test_val_videos_that_are_trained_on_are_told(videos: Path, tmp_path: Path) -> None:
    known = (videos / "train.csv").read_text().splitlines()[:2]
    shutil.copytree(videos, tmp_path / "videos")
    with (tmp_path / "videos" / "val.csv").open("a") as file:
        file.write("\n".join(known) + "\n")
    screen = describe(build_run(small_config(tmp_path / "videos", tmp_path / "r")), 1)
    assert "note   2 of the 8 val videos are training videos" in screen


def test_a_run_that_begins_anew_keeps_its_own_checkpoints(videos: Path, tmp_path: Path) -> None:
    """Those of the run before have later steps, and would be taken for newer."""
    run = train(small_config(videos, tmp_path / "r", "train.max_steps=5"), quiet=True)
    with pytest.warns(UserWarning, match=r"begins anew; .*step_00000005 .*checkpoints\.earlier"):
        train(small_config(videos, tmp_path / "r", "train.max_steps=2", "seed=1"), quiet=True)
    assert [path.name for path in run.glob("checkpoints/*")] == ["step_00000002"]
    assert (run / "checkpoints.earlier" / "step_00000005").is_dir()


def test_going_on_with_another_setting_is_told(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(small_config(videos, tmp_path / "r", "train.max_steps=1"), quiet=True)
    changes = ("train.max_steps=2", "train.resume=auto", "data.num_workers=0")
    train(small_config(videos, tmp_path / "r", *changes))
    assert "note" not in capsys.readouterr().out
    train(small_config(videos, tmp_path / "r", *changes, "train.batch_size=3"))
    (note,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert note == "note   resumed with another setting: train.batch_size was 6, is 3"


def test_a_refused_resumption_changes_nothing(videos: Path, tmp_path: Path) -> None:
    run = train(small_config(videos, tmp_path / "r", "train.max_steps=1"), quiet=True)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(WeightsError, match="checkpoint is of another model"):
        train(small_config(videos, run, "train.resume=auto", "model.head=mean"), quiet=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_other_classes_or_another_optimiser_are_not_gone_on_with(videos: Path, tmp_path: Path) -> None:
    run = train(small_config(videos, tmp_path / "r", "train.max_steps=1"), quiet=True)
    again = ("train.resume=auto", "train.max_steps=2")
    with pytest.raises(
        WeightsError, match=r"another model or optimiser \(train.optimizer was adamw, is sgd\)"
    ):
        train(small_config(videos, run, *again, "train.optimizer=sgd"), quiet=True)
    for name, other in zip(("down", "grow", "left", "right", "shrink", "up"), "abcdef", strict=True):
        shutil.copytree(videos / name, tmp_path / "renamed" / other)
    with pytest.raises(WeightsError, match="checkpoint is of another list of classes"):
        train(small_config(tmp_path / "renamed", run, *again), quiet=True)


def test_going_on_with_other_videos_is_told(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(videos, tmp_path / "videos")
    train(small_config(copy, tmp_path / "r", "train.max_steps=1"), quiet=True)
    lines = (copy / "train.csv").read_text().splitlines()
    (copy / "train.csv").write_text("\n".join(lines[1:]))
    train(small_config(copy, tmp_path / "r", "train.max_steps=2", "train.resume=auto"))
    assert "note   resumed with other training videos" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"\xff\xfe\n[1]\nnull\n", b'{"event": "step"}\n{"step": 1}\n'])
def test_a_log_that_somebody_damaged_keeps_no_run_from_going_on(
    videos: Path, tmp_path: Path, content: bytes
) -> None:
    settings = ("train.trackers=[csv]", "train.resume=auto")
    run = train(small_config(videos, tmp_path / "r", "train.max_steps=1", *settings), quiet=True)
    (run / "log.jsonl").write_bytes(content)
    (run / "log.csv").write_bytes(content)
    train(small_config(videos, run, "train.max_steps=2", *settings), quiet=True)
    assert [e["step"] for e in read_log(run) if "loss" in e] == [2]
    assert (run / "log.csv").read_text().splitlines()[-1].startswith("2,")


def test_a_folder_that_takes_no_log_is_named(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "r" / "log.jsonl").mkdir(parents=True)
    with pytest.raises(XViTError, match=r"log\.jsonl.*: Is a directory; mend that"):
        train(small_config(videos, tmp_path / "r", "train.max_steps=1"), quiet=True)


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_files_of_the_released_code_are_not_gone_on_with_but_kept(
    videos: Path, tmp_path: Path, resume: str
) -> None:
    file = tmp_path / "r" / "checkpoints" / "checkpoint_epoch_00012.pyth"
    file.parent.mkdir(parents=True)
    file.write_text("theirs")
    config = small_config(videos, tmp_path / "r", "train.max_steps=1", f"train.resume={resume}")
    with pytest.warns(
        UserWarning, match=r"begins anew; .*00012\.pyth .* checkpoints\.earlier now; .*init_from"
    ):
        train(config, quiet=True)
    assert (tmp_path / "r" / "checkpoints.earlier" / file.name).read_text() == "theirs"


def test_a_run_is_not_to_write_where_its_first_weights_are(videos: Path, tmp_path: Path) -> None:
    file = tmp_path / "r" / "checkpoints" / "checkpoint_epoch_00012.pyth"
    with pytest.raises(ConfigError, match=r"init_from: .*pyth is where .* choose another output"):
        build_run(small_config(videos, tmp_path / "r", f"train.init_from={file}"))


def test_a_run_without_a_whole_checkpoint_begins_anew_and_keeps_what_there_was(
    videos: Path, tmp_path: Path
) -> None:
    settings = ("train.resume=auto", "train.checkpoint_every=1")
    run = train(small_config(videos, tmp_path / "r", "train.max_steps=3", *settings), quiet=True)
    for state in run.glob("checkpoints/*/state.pt"):
        state.write_bytes(b"damaged")
    with pytest.warns(XViTWarning, match="begins anew|damaged") as warned:
        train(small_config(videos, run, "train.max_steps=2", *settings), quiet=True)
    said = [str(warning.message) for warning in warned]
    assert any("step_00000003: a damaged checkpoint" in line for line in said)
    assert any("a damaged checkpoint" in line and "none before it" in line for line in said)
    assert any("begins anew" in line and "step_00000003 and earlier" in line for line in said)
    assert (run / "checkpoints.earlier" / "step_00000003" / "state.pt").read_bytes() == b"damaged"
    assert {path.name for path in run.glob("checkpoints/*")} == {"step_00000001", "step_00000002"}


def train_until_killed(config: Config, moment: str) -> None:
    """Die at the third checkpoint: in the middle of its content, or before it gets its name."""
    torch.set_num_threads(1)
    place = checkpoint if moment == "write_flushed" else os
    real = getattr(place, moment)

    def fatal(*args: Any) -> Any:
        if "step_00000003.unfinished" not in str(args[0]):
            return real(*args)
        if moment == "write_flushed":
            args[0].write_bytes(args[1][: len(args[1]) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(place, moment, fatal)
    train(config, quiet=True)


@pytest.mark.parametrize("moment", ["write_flushed", "replace"])
def test_a_kill_while_a_checkpoint_is_written(
    videos: Path, finished: Path, tmp_path: Path, moment: str
) -> None:
    config = small_config(
        videos, tmp_path / "r", "train.resume=auto", "train.checkpoint_every=1", "data.num_workers=0"
    )
    process = multiprocessing.get_context("fork").Process(target=train_until_killed, args=(config, moment))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "r" / "checkpoints" / "step_00000003.unfinished").is_dir()
    state = load_newest(tmp_path / "r")
    assert state is not None
    assert state["step"] == 2
    train(config, quiet=True)
    assert_same_weights(tmp_path / "r", finished)


def test_a_val_video_that_cannot_be_read_costs_no_step(videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    shutil.copytree(videos, root)
    row = (root / "val.csv").read_text().splitlines()[0]
    (root / row.split()[0]).unlink()
    with pytest.raises(VideoReadError, match=r"no such file; data\.on_error=skip leaves such videos out"):
        train(small_config(root, tmp_path / "r", "train.eval_every=1"), quiet=True)
    state = load_newest(tmp_path / "r")
    assert state is not None
    assert state["step"] == STEPS / 4


def test_a_released_file_comes_with_its_epoch(videos: Path, tmp_path: Path) -> None:
    layout = "model.mixing.layout=heads", "model.head_positions=false", "model.head_init=timm"
    short = "train.epochs=2", "train.released_every=2"
    run = train(small_config(videos, tmp_path / "r", *short, *layout), quiet=True)
    assert [path.name for path in run.glob("checkpoints/*.pyth")] == ["checkpoint_epoch_00002.pyth"]


def test_rates_follow_the_batch_where_asked(videos: Path, tmp_path: Path) -> None:
    rates = []
    for change in ("train.lr_batch=null", "train.lr_batch=3"):
        run = train(small_config(videos, tmp_path / change, "train.max_steps=2", change), quiet=True)
        rates.append([e["lr"] for e in read_log(run) if e["event"] == "step"])
    assert rates[1] == [2 * rate for rate in rates[0]]
    assert rates[0][1] > 0


def test_accumulated_passes_are_one_batch(videos: Path, tmp_path: Path) -> None:
    still = ("train.max_steps=3", "model.dropout=0", "train.mixup_alpha=0", "train.optimizer=sgd")
    whole = train(small_config(videos, tmp_path / "whole", *still), quiet=True)
    parts = train(small_config(videos, tmp_path / "parts", *still, "train.accumulate=3"), quiet=True)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=1e-4, atol=1e-6)


def test_warm_start_with_other_classes_needs_a_word(videos: Path, finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "two"
    for name in ("left", "right"):
        (other / name).mkdir(parents=True)
        for file in (videos / name).iterdir():
            (other / name / file.name).symlink_to(file)
    overrides = ("train.max_steps=1", f"train.init_from={finished}")
    with pytest.raises(WeightsError, match=r"head\.fc\.bias.*train\.new_head=true"):
        train(small_config(other, tmp_path / "a", *overrides), quiet=True)
    run = train(
        small_config(other, tmp_path / "b", *overrides, "train.new_head=true", "train.lr=1e-9"), quiet=True
    )
    name = "backbone.blocks.0.attn.qkv.weight"
    torch.testing.assert_close(weights(run)[name], weights(finished)[name], atol=1e-6, rtol=0)


def test_a_loss_that_is_not_finite_names_the_videos(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(XViTError, match=r"loss is (nan|inf) at step \d+, learning rate .*left.*\.mp4"):
        train(small_config(videos, tmp_path / "r", "train.lr=1e30", "train.clip_grad_norm=null"), quiet=True)
    real, calls = train_module.classification_loss, []

    def sometimes(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(1)
        return real(*args, **kwargs) * (float("nan") if len(calls) == 1 else 1.0)

    monkeypatch.setattr(train_module, "classification_loss", sometimes)
    run = train(small_config(videos, tmp_path / "s", "train.max_nonfinite=1"), quiet=True)
    assert all(tensor.isfinite().all() for tensor in weights(run).values())
    assert "NaN" not in (run / "log.jsonl").read_text()  # which is no JSON
    assert [e["loss"] is None for e in read_log(run) if e["event"] == "step"][:2] == [True, False]


def test_a_class_only_in_val_is_named(videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    for name in ("train.csv", "val.csv", "classes.txt"):
        (root / name).write_text((videos / name).read_text())
    for name in ("left", "right", "up", "down", "grow", "shrink"):
        (root / name).symlink_to(videos / name)
    rows = [row for row in (root / "train.csv").read_text().splitlines() if not row.startswith("up/")]
    (root / "train.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(DatasetError, match=r"val\.csv:\d+: label 5 does not occur in train\.csv"):
        train(small_config(root, tmp_path / "r"), quiet=True)


def test_unreadable_videos_are_named_or_stop_the_run(videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    for name in ("left", "right"):
        (root / name).mkdir()
        for file in (videos / name).iterdir():
            (root / name / file.name).write_bytes(file.read_bytes())
    broken = root / "left" / "train_00000.mp4"
    broken.write_bytes(b"not a video")
    with pytest.raises(XViTError, match=r"left/.*\.mp4"):
        train(small_config(root, tmp_path / "a", "data.val_fraction=0.3"), quiet=True)
    run = train(small_config(root, tmp_path / "b", "data.val_fraction=0.3", "data.on_error=skip"), quiet=True)
    metrics = json.loads((run / "metrics.json").read_text())
    assert broken.name in str(metrics["unreadable"]) or metrics["missing"] == 1


def test_a_val_video_that_is_left_out_is_named_too(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(videos, tmp_path / "videos")
    broken = copy / "left" / "val_00000.mp4"
    broken.write_bytes(b"no video")
    settings = ("data.on_error=skip", "train.max_steps=1")
    run = train(small_config(copy, tmp_path / "r", *settings), quiet=True)
    assert list(json.loads((run / "metrics.json").read_text())["unreadable"]) == [str(broken)]
    conclude(run, ["xvit", "train"])
    assert f"not read: {broken}" in capsys.readouterr().out


def test_a_run_among_the_classes_is_refused(videos: Path, tmp_path: Path) -> None:
    """The next one would take its pictures for a video."""
    for name in ("left", "right"):
        shutil.copytree(videos / name, tmp_path / name)
    with pytest.raises(ConfigError, match=r"is in data\.root, where it would be a class"):
        train(small_config(tmp_path, tmp_path / "run"), quiet=True)


def test_the_last_line_has_the_last_validation(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(small_config(videos, tmp_path / "r", "train.max_steps=1"))
    found = json.loads((run / "metrics.json").read_text())["top1"]
    assert f"val {found:.3g}" in capsys.readouterr().err


def test_the_end_says_why_it_is_early(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {"step": 4, "steps": 9, "stopped": False, "unreadable": {}, "nonfinite": 2}
    (tmp_path / "metrics.json").write_text(json.dumps(found))
    conclude(tmp_path, ["xvit", "train"])
    said = capsys.readouterr().out
    assert "skipped: 2 steps whose loss was not finite" in said
    assert "ended at step 4 of 9: nothing got better (train.patience)" in said


def test_nothing_is_learned_from_no_video(videos: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(videos, tmp_path / "videos")
    for file in copy.glob("*/train*.mp4"):
        file.write_bytes(b"no video")
    with pytest.raises(DatasetError, match=r"none of the last \d+ videos can be read: .*\.mp4: not a read"):
        train(small_config(copy, tmp_path / "r", "data.on_error=skip"), quiet=True)


def test_videos_that_are_lost_on_the_way_end_the_run(videos: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(videos, tmp_path / "videos")
    settings = ("data.on_error=skip", "train.epochs=3", "train.eval_every=3")
    run = train(small_config(copy, tmp_path / "r", *settings, "train.max_steps=4"), quiet=True)
    for file in copy.glob("*/train*.mp4"):
        file.write_bytes(b"no video any more")
    with pytest.raises(DatasetError, match=r"none of the last \d+ videos can be read"):
        train(small_config(copy, run, *settings, "train.resume=auto"), quiet=True)
    assert load_newest(run)["step"] >= 4  # nothing that was learned is lost


def test_adapters_learn_where_the_image_model_does_not(videos: Path, tmp_path: Path) -> None:
    frozen = ("model.adapters=4", "train.trained_blocks=0", "train.ema_decay=null")
    plain = small_config(videos, tmp_path / "plain", "train.ema_decay=null")
    before = build_run(plain).model
    run = train(small_config(videos, tmp_path / "r", *frozen, "train.max_steps=3"), quiet=True)
    after = weights(run)
    ups = [name for name in after if ".adapter.3.weight" in name]
    assert ups
    assert all(after[name].abs().max() > 0 for name in ups)
    trained = {
        name
        for name, tensor in build_run(small_config(videos, tmp_path / "s", *frozen)).model.named_parameters()
        if tensor.requires_grad
    }
    assert all(".adapter." in name or not name.startswith("backbone.") for name in trained)
    unset = {
        name: tensor for name, tensor in before.state_dict().items() if name.startswith("backbone.blocks")
    }
    assert unset.keys() <= after.keys()


def test_the_memory_it_expects_is_less_where_less_is_kept(videos: Path, tmp_path: Path) -> None:
    def memory(*changes: str) -> int:
        return expected_cost(build_run(small_config(videos, tmp_path / "r", *changes)))[1]

    whole = memory()
    assert memory("train.accumulate=2") < whole
    assert memory("train.trained_blocks=0") < whole
    assert memory("train.optimizer=sgd") == whole - 4 * sum(
        tensor.numel() for tensor in build_run(small_config(videos, tmp_path / "r")).model.parameters()
    )
    assert "memory about" in describe(build_run(small_config(videos, tmp_path / "r")), 1)


def test_a_resumed_log_tells_every_step_once(videos: Path, tmp_path: Path) -> None:
    """A kill between two checkpoints leaves steps in the log that the resumed run takes again."""
    run = train(small_config(videos, tmp_path / "r", "train.max_steps=2"), quiet=True)
    with (run / "log.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 3, "loss": 9.0}\n{"event": "step", "st')
    resumed = ("train.max_steps=4", "train.resume=auto")
    train(small_config(videos, tmp_path / "r", *resumed), quiet=True)
    steps = [event for event in read_log(run) if event["event"] == "step"]
    assert [event["step"] for event in steps] == [1, 2, 3, 4]
    assert all(event["loss"] < 9 for event in steps)
    first = json.loads((run / "metrics.json").read_text())
    train(small_config(videos, tmp_path / "r", *resumed), quiet=True)  # nothing is left to do
    assert json.loads((run / "metrics.json").read_text()) == first
    assert len([event for event in read_log(run) if event["event"] == "step"]) == 4


def test_a_stop_during_validation_validates_on_resuming(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large val list must not hold up a machine that is about to be taken away."""
    changes = ("train.eval_every=1", "train.max_steps=6", "eval.batch_size=2")
    whole = train(small_config(videos, tmp_path / "whole", *changes), quiet=True)
    real = train_module.evaluate

    def interrupted(model: torch.nn.Module, batches: Iterator[Batch], **settings: object) -> object:
        def signalled() -> Iterator[Batch]:
            yield next(batches)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            rest = list(batches)
            assert rest == []
            yield from rest

        return real(model, signalled(), **settings)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "evaluate", interrupted)
        run = train(small_config(videos, tmp_path / "r", *changes), quiet=True)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["stopped"]
    assert metrics["step"] == 3
    assert "top1" not in metrics
    train(small_config(videos, tmp_path / "r", *changes, "train.resume=auto"), quiet=True)
    assert_same_weights(run, whole)
    assert_same_weights(run / "best", whole / "best")
    scores = [[e["top1"] for e in read_log(folder) if e["event"] == "val"] for folder in (run, whole)]
    assert scores[0] == scores[1]


def train_within(config: Config, largest: int, complaint: Path) -> None:
    """Train where the system lets no file grow beyond `largest` bytes, as a full disk would not."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    try:
        train(config, quiet=True)
    except XViTError as err:
        complaint.write_text(str(err))


@pytest.mark.parametrize("too_large", ["state.pt", "model.safetensors"])
def test_a_full_disk_costs_only_what_is_being_written(videos: Path, tmp_path: Path, too_large: str) -> None:
    changes = ("train.ema_decay=null", "train.epochs=2", "train.eval_every=2", "data.num_workers=0")
    whole = train(small_config(videos, tmp_path / "whole", *changes), quiet=True)
    run, complaint = tmp_path / "r", tmp_path / "complaint"
    train(small_config(videos, run, *changes, "train.max_steps=3"), quiet=True)
    before = {path.name: path.read_bytes() for path in run.glob("checkpoints/*/state.pt")}
    largest = min(path.stat().st_size for path in whole.rglob(too_large)) - 1000
    config = small_config(videos, run, *changes, "train.resume=auto")
    process = multiprocessing.get_context("forkserver").Process(
        target=train_within, args=(config, largest, complaint)
    )
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert "File too large" in complaint.read_text()
    assert "whole" in complaint.read_text()
    assert before
    assert load_newest(run) is not None
    train(config, quiet=True)
    assert_same_weights(run, whole)


def train_with_an_endless_step(config: Config, signs: Path) -> None:
    """The fourth step's loss takes an hour; signals are heard and change nothing about that."""
    torch.set_num_threads(1)
    signals.GRACE_SECONDS = 1.0
    real, calls = train_module.classification_loss, []

    def slow(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            (signs / "waiting").touch()
            time.sleep(3600)
        return real(*args, **kwargs)

    train_module.classification_loss = slow
    train(config, quiet=True, conclude=lambda folder: (signs / "concluded").touch())


def test_a_signal_does_not_wait_for_an_endless_step(videos: Path, finished: Path, tmp_path: Path) -> None:
    config = small_config(videos, tmp_path / "r", "train.resume=auto", "data.num_workers=1")
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=train_with_an_endless_step, args=(config, tmp_path))
    process.start()
    deadline = time.monotonic() + 120
    while not (tmp_path / "waiting").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 0
    assert (tmp_path / "concluded").exists()
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert (metrics["step"], metrics["stopped"]) == (3, True)
    train(config, quiet=True)
    assert_same_weights(tmp_path / "r", finished)


def test_a_process_with_a_worker_ends_quietly(videos: Path, tmp_path: Path) -> None:
    """The thread that waits for signals has gone by then, though the worker held its socket."""
    changes = [f"data.root={videos}", f"output={tmp_path / 'r'}", *SMALL, "train.max_steps=1"]
    done = subprocess.run(
        [sys.executable, "-m", "xvit", "train", "demo/motion", *changes, "data.num_workers=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def load_and_wait(config: Config, sign: Path) -> None:
    """One batch from a worker, whose number is written down; then nothing more."""
    run = build_run(config)
    next(iter(run.batches(run.loader)))
    (worker,) = multiprocessing.active_children()
    sign.with_suffix(".unfinished").write_text(str(worker.pid))
    sign.with_suffix(".unfinished").rename(sign)
    time.sleep(3600)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_killed_run_leaves_no_worker(videos: Path, tmp_path: Path, method: str) -> None:
    sign = tmp_path / "worker"
    config = small_config(videos, tmp_path / "r", "data.num_workers=1")
    process = multiprocessing.get_context(method).Process(target=load_and_wait, args=(config, sign))
    process.start()
    deadline = time.monotonic() + 200
    while not sign.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    worker = int(sign.read_text())
    process.kill()
    process.join()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{worker}/cmdline").exists() and time.monotonic() < deadline:
        if not Path(f"/proc/{worker}/cmdline").read_bytes():
            break  # it has ended, and nobody has taken notice
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{worker}").exists()


def test_the_scaler_of_fp16_survives_a_restart(videos: Path, tmp_path: Path) -> None:
    """On a CPU Accelerate makes none, so one of torch's is put in its place."""
    config = small_config(videos, tmp_path / "r")
    run = build_run(config)
    run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    run.accelerator.scaler.scale(torch.ones(()))  # as a first step does
    run.save(1)
    state = load_newest(tmp_path / "r")
    assert state is not None
    again = build_run(config)
    again.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    again.load_state(state)
    assert again.accelerator.scaler.state_dict()["scale"] == 1024.0
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        build_run(small_config(videos, tmp_path / "s", "train.precision=fp16"))


def test_saving_before_the_first_step_takes_none(videos: Path, tmp_path: Path) -> None:
    """For the state of an optimiser that has none yet torch would let it step once, without gradients."""
    run = build_run(small_config(videos, tmp_path / "r", "train.max_nonfinite=1"))
    run.save(1)  # the first step's loss was not finite
    state = load_newest(run.folder)
    assert state is not None
    for one in (run, build_run(run.config)):
        one.load_state(state)
        assert not one.optimizer.optimizer.state


def test_checkpointed_gradients_are_the_same(videos: Path, tmp_path: Path) -> None:
    """And cost a second forward pass of the block."""
    states, calls = [], []
    for checkpointing in ("false", "true"):
        run = build_run(
            small_config(
                videos, tmp_path / "r", f"train.grad_checkpointing={checkpointing}", "model.dropout=0"
            )
        )
        (batch,) = next(iter(run.batches(run.loader)))
        run.network.train()
        count = []
        run.model.backbone.blocks[0].attn.register_forward_hook(lambda *_, count=count: count.append(1))
        train_module.train_step(run, [batch], 0, 0.1)
        calls.append(len(count))
        states.append(run.model.state_dict())
    assert calls == [1, 2]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor)


def test_compile_is_what_trains(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a backend that needs no compiler; the losses are those of the plain run."""
    real, compiled = torch.compile, []

    def light(model: torch.nn.Module) -> object:
        compiled.append(model)
        return real(model, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", light)
    settings = ("train.max_steps=2", "model.dropout=0", "train.eval_every=4")
    runs = [
        train(small_config(videos, tmp_path / flag, *settings, f"train.compile={flag}"), quiet=True)
        for flag in ("true", "false")
    ]
    assert len(compiled) == 1
    losses = [[e["loss"] for e in read_log(run) if e["event"] == "step"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_batch_without_a_readable_video_changes_nothing(videos: Path, tmp_path: Path) -> None:
    """Its pass still runs where other processes wait for its gradients, but weighs nothing."""
    still = ("train.optimizer=sgd", "model.dropout=0", "train.mixup_alpha=0", "data.num_workers=0")
    states = []
    for passes in (1, 2):
        run = build_run(small_config(videos, tmp_path / "r", *still))
        (batch,) = next(iter(run.batches(run.loader)))
        empty = Batch(batch.frames[:0], batch.labels[:0], batch.index[:0], ((0, "damaged"),))
        train_module.train_step(run, [batch, empty][:passes], 0, 0.1)
        states.append(run.model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_one_class_is_nothing_to_learn(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "above").mkdir()
    (tmp_path / "above" / "motion").symlink_to(videos / "left")
    with pytest.raises(DatasetError, match=r"only one class, 'motion': is this the folder above"):
        train(small_config(tmp_path / "above", tmp_path / "r"), quiet=True)
