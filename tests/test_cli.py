"""The command line as a user meets it: one line and exit code 2 for what the user can mend."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from xvit import __version__
from xvit.cli import main
from xvit.config import ClipConfig, ModelConfig
from xvit.data.synth import write_motion_set
from xvit.errors import VideoReadError
from xvit.models import build_model, save_model

CLASSES = ("down", "grow", "left", "right", "shrink", "up")


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def xvit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs a command line in this process, which has torch in memory already."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["xvit", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        captured = capsys.readouterr()
        return Done(int(exited.value.code or 0), captured.out, captured.err)

    return call


def main_with_debug(video: Path, run: Path) -> None:
    sys.argv = ["xvit", "predict", str(run), str(video), "--debug"]
    main()


def last_line(done: Done) -> str:
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("motion")
    write_motion_set(root, train_per_class=2, val_per_class=1, workers=1)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = ModelConfig(
        name="vit_tiny_patch16_224", backbone_args={"embed_dim": 16, "depth": 1, "num_heads": 2}, head="mean"
    )
    save_model(
        build_model(config, num_classes=6, clip=ClipConfig(num_frames=2, size=32), classes=[CLASSES]), folder
    )
    return folder


@pytest.mark.parametrize(
    ("option", "said"), [("--help", "Learn motion"), ("--version", f"xvit {__version__}")]
)
def test_no_torch_is_needed_for(option: str, said: str) -> None:
    code = """
import sys, xvit.cli
try:
    xvit.cli.main()
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_predict_prints_the_best_classes(xvit: Callable[..., Done], run: Path, videos: Path) -> None:
    done = xvit("predict", run, videos / "left" / "val_00000.mp4", "--top-k", "2", "--views", "1x2")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.strip().splitlines()[1:]]
    assert len(lines) == 2
    assert {name for _, name in lines} <= set(CLASSES)
    assert 1 >= float(lines[0][0]) >= float(lines[1][0]) > 0


def test_eval_writes_its_files(xvit: Callable[..., Done], run: Path, videos: Path, tmp_path: Path) -> None:
    done = xvit("eval", run, "--data", videos, "--output", tmp_path / "e")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "e" / "scores.npz").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.mp4", None, "missing.mp4: no such file"),
        ("text.mp4", b"just words", "text.mp4: not a readable video"),
        ("empty.mp4", b"", "empty.mp4: not a readable video"),
    ],
)
def test_a_file_that_is_no_video(
    xvit: Callable[..., Done], run: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = xvit("predict", run, tmp_path / name)
    assert done.returncode == 2
    assert message in last_line(done)
    with pytest.raises(VideoReadError):
        main_with_debug(tmp_path / name, run)


def test_sound_without_pictures(xvit: Callable[..., Done], run: Path, shared: Path) -> None:
    done = xvit("predict", run, shared / "videos" / "odd" / "made" / "audio_only.m4a")
    assert done.returncode == 2
    assert "no video stream" in last_line(done)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("left/train_00000.mp4\n", "train.csv:1"),
        ("left/train_00000.mp4 0\nup/train_00000.mp4 -1\n", "train.csv:2"),
        ("left/train_00000.mp4 left\n", "train.csv:1"),
        ("", "the train split (csv) lists no videos"),
    ],
    ids=["no label", "negative", "not a number", "empty"],
)
def test_a_wrong_list_is_named_by_line(
    xvit: Callable[..., Done], videos: Path, tmp_path: Path, rows: str, message: str
) -> None:
    for name in CLASSES:
        (tmp_path / name).symlink_to(videos / name)
    (tmp_path / "train.csv").write_text(rows)
    (tmp_path / "val.csv").write_text("left/val_00000.mp4 0\n")
    done = xvit("train", "demo/motion", f"data.root={tmp_path}", f"output={tmp_path / 'run'}")
    assert done.returncode == 2
    assert message in last_line(done)
    assert not (tmp_path / "run").exists()


def test_wrong_keys_values_and_folders(
    xvit: Callable[..., Done], videos: Path, run: Path, tmp_path: Path
) -> None:
    for arguments, message in [
        (("train", "demo/motion", "data.rot=x"), "unknown key data.rot; did you mean data.root?"),
        (("train", "demo/motion", "train.epochs=0"), "train.epochs must be positive, got 0"),
        (("train", "demo/motion"), "data.root is not set"),
        (("train", "demo/motion", f"data.root={tmp_path}"), f"{tmp_path}: no dataset found there"),
        (("train", "nowhere.yaml"), "nowhere.yaml: no such configuration file"),
        (("train", "data.root=x"), "a file comes before key=value, such as finetune/small_data"),
        (("eval", tmp_path), str(tmp_path)),
        (("predict", run, videos / "left" / "val_00000.mp4", "--views", "3"), 'such as "3x2"'),
    ]:
        done = xvit(*arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert message in last_line(done), arguments


def test_data_of_other_classes_than_the_models(
    xvit: Callable[..., Done], run: Path, videos: Path, tmp_path: Path
) -> None:
    for name in ("left", "sideways"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").write_bytes((videos / "left" / "val_00000.mp4").read_bytes())
    (tmp_path / "val.csv").write_text("left/a.mp4 0\nsideways/a.mp4 1\n")
    (tmp_path / "train.csv").write_text("left/a.mp4 0\nsideways/a.mp4 1\n")
    done = xvit("eval", run, "--data", tmp_path)
    assert done.returncode == 2
    assert "'sideways' is not among the model's 6 classes" in last_line(done)
