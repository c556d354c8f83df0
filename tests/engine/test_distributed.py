"""Several processes are one: the same losses, metrics and files. Real processes over gloo on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xvit.config import load_config
from xvit.data.synth import write_motion_set
from xvit.engine.runlog import read_log
from xvit.engine.train import train

ROOT = Path(__file__).parents[2]
ALONE = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 videos to train on and 7 to score: two processes cannot share those evenly."""
    root = tmp_path_factory.mktemp("motion")
    write_motion_set(root, train_per_class=4, val_per_class=2, workers=1)
    lines = (root / "val.csv").read_text().splitlines()
    (root / "val.csv").write_text("\n".join(lines[:7]) + "\n")
    return root


def settings(videos: Path, output: Path) -> list[str]:
    """Without dropout and mixup, whose draws are every process's own. The device is for them to find."""
    return [
        f"data.root={videos}",
        f"output={output}",
        "model.backbone_args={patch_size: 16, embed_dim: 16, depth: 1, num_heads: 2}",
        "model.head_num_heads=2",
        "data.num_frames=2",
        "data.num_workers=0",
        "train.batch_size=8",
        "train.accumulate=2",
        "train.epochs=5",
        "train.max_steps=10",
        "train.eval_every=2",
        "eval.batch_size=4",
        "train.warmup_epochs=0",
        "train.optimizer=sgd",
        "train.lr=0.3",
    ]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(*command: object, cwd: Path) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ALONE}
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=clean | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def losses(run: Path) -> list[float]:
    return [event["loss"] for event in read_log(run) if event["event"] == "step"]


def tops(run: Path) -> list[float]:
    return [event["top1"] for event in read_log(run) if event["event"] == "step"]


def metrics(run: Path) -> dict[str, float]:
    found = json.loads((run / "metrics.json").read_text())
    assert found.pop("unreadable") == {}
    assert len(found.pop("list_sha256")) == 2
    return found


@pytest.fixture(scope="module")
def alone(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("alone") / "run"
    config = load_config("demo/motion", [*settings(videos, run), "device=cpu"])
    train(config, quiet=True)
    torch.set_num_threads(threads)
    return run


@pytest.fixture(scope="module")
def together(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run of two processes, and what they print."""
    run = tmp_path_factory.mktemp("together") / "run"
    script = Path(__file__).with_name("process.py")
    process = start(*TWO, script, "demo/motion", *settings(videos, run), cwd=run.parent)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return run, output


def test_two_processes_train_as_one(alone: Path, together: tuple[Path, str]) -> None:
    run, output = together
    assert len(losses(run)) == 10  # one process writes the log
    assert losses(run) == pytest.approx(losses(alone), abs=1e-5)
    assert max(losses(run)) - min(losses(run)) > 0.01
    assert tops(run) == pytest.approx(tops(alone))
    assert metrics(run) == pytest.approx(metrics(alone))
    scored = [json.loads((run / f"scored_{rank}.json").read_text()) for rank in (0, 1)]
    times = 2  # after the second epoch and at the end
    assert sorted(scored[0] + scored[1]) == sorted(list(range(7)) * times)
    assert all(scored)
    assert output.count("multiply-adds a clip") == 1  # and one speaks


def test_where_neither_can_read_a_video_the_run_says_so(tmp_path: Path) -> None:
    """Also where it ends before both have tried every video."""
    for number in range(12):
        video = tmp_path / "videos" / "ab"[number % 2] / f"{number}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        video.write_text("no video")
    changes = ["data.on_error=skip", "train.accumulate=1", "train.batch_size=4", "train.max_steps=1"]
    options = [*settings(tmp_path / "videos", tmp_path / "run"), *changes]
    process = start(*TWO, "-m", "xvit", "train", "demo/motion", *options, cwd=tmp_path)
    output, _ = process.communicate(timeout=240)
    assert process.returncode != 0, output
    assert "none of the last 4 videos can be read" in output, output


def wait_for(path: Path, text: str = "") -> None:
    deadline = time.monotonic() + 120
    while not (path.exists() and text in path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert text in path.read_text()


def test_a_signal_stops_both_wherever_it_is_sent(
    videos: Path, together: tuple[Path, str], tmp_path: Path
) -> None:
    """To the launcher; then to one process, while the other is in a step that never ends; then to the end."""
    run, script = tmp_path / "run", Path(__file__).with_name("slow_process.py")
    common = ("demo/motion", *settings(videos, run), "train.resume=auto", "train.checkpoint_every=100")
    process = start(*TWO, script, tmp_path, 0.5, "none", 0, *common, cwd=tmp_path)
    wait_for(run / "log.jsonl", '"step": 2,')
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert "stopped at step " in output
    assert "resume with (launched as before)" in output
    first = json.loads((run / "metrics.json").read_text())["step"]
    assert 2 <= first <= 6
    process = start(*TWO, script, tmp_path, 0, 0, 3, *common, cwd=tmp_path)
    wait_for(tmp_path / "endless")
    os.kill(int((tmp_path / "process_1").read_text()), signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert f"stopped at step {first + 2} of 10" in output
    assert output.count("resume with (launched as before)") == 1
    process = start(*TWO, "-m", "xvit", "train", *common, cwd=tmp_path)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (together[0], run))
    assert losses(run) == losses(together[0])
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_weights_in_parts_train_as_one_and_resume(videos: Path, alone: Path, tmp_path: Path) -> None:
    """FSDP on two processes to step 6, then one process alone with their files: the run of one process."""
    run = tmp_path / "run"
    common = [item for item in settings(videos, run) if not item.startswith("train.max_steps")]
    process = start(
        *TWO,
        *("-m", "xvit", "train", "demo/motion", *common, "train.max_steps=6", "train.shard=fsdp"),
        cwd=tmp_path,
    )
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert losses(run) == pytest.approx(losses(alone)[:6], abs=1e-5)
    best, whole = load_file(run / "best" / "model.safetensors"), load_file(alone / "model.safetensors")
    assert {name: tensor.shape for name, tensor in best.items()} == {n: t.shape for n, t in whole.items()}
    train(load_config("demo/motion", [*settings(videos, run), "device=cpu", "train.resume=auto"]), quiet=True)
    assert losses(run) == pytest.approx(losses(alone), abs=1e-5)
    resumed = load_file(run / "model.safetensors")
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-4, atol=1e-5)


def test_two_machines_by_the_original_command(videos: Path, alone: Path, tmp_path: Path) -> None:
    """Each of its own launcher, meeting at --init_method; the batch there is one machine's."""
    run, port = tmp_path / "run", free_port()
    options = [item for item in settings(videos, run) if not item.startswith("train.batch_size")]
    machines = [
        start(
            *(ROOT / "tools" / "run_net.py", "--cfg", "configs/demo/motion.yaml"),
            *("--num_shards", 2, "--shard_id", number, "--init_method", f"tcp://127.0.0.1:{port}"),
            *("TRAIN.BATCH_SIZE", 4, *options),
            cwd=ROOT,
        )
        for number in (0, 1)
    ]
    outputs = [machine.communicate(timeout=240)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], outputs
    assert losses(run) == pytest.approx(losses(alone), abs=1e-5)
    assert (run / "scores.npz").exists()
    assert "top-1" in outputs[0]
    assert "top-1" not in outputs[1]
