"""`xvit features` over a large folder: what a kill interrupts goes on, and nothing is computed twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from torch import Tensor

from xvit.cli import main
from xvit.data.synth import write_motion_set
from xvit.errors import ConfigError
from xvit.predict import Predictor
from xvit.predict.features import FeatureFile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("motion")
    write_motion_set(root, train_per_class=0, val_per_class=4, workers=1)
    return root


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The videos that the model is asked for."""
    names: list[str] = []
    real = Predictor.stream

    def stream(self: Predictor, videos: Any, **settings: Any) -> Iterator[tuple[Any, Tensor]]:
        names.extend(videos)
        return real(self, videos, **settings)

    monkeypatch.setattr(Predictor, "stream", stream)
    return names


def features(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["xvit", "features", *map(str, arguments)])
    with pytest.raises(SystemExit) as exited:
        main()
    return int(exited.value.code or 0)


def content(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        names = [os.fsdecode(name) for name in file["videos"]]
        assert len(set(names)) == len(names) == len(file["features"])
        return dict(zip(names, file["features"][:], strict=True))


def test_a_killed_run_goes_on(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    target, log = tmp_path / "feats.h5", tmp_path / ".feats.h5.unfinished-wal"
    command = ["features", run, folder, "-o", target, "--views", "3x8"]
    process = subprocess.Popen(
        [sys.executable, "-m", "xvit", *map(str, command)], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    size, grown = None, 0
    while grown < 3:  # videos are written down
        assert process.poll() is None
        time.sleep(0.002)
        now = log.stat().st_size if log.exists() else 0
        grown, size = grown + (size is not None and size > 30_000 and now > size), now
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not target.exists()

    assert features(monkeypatch, *command[1:]) == 0
    assert 0 < len(asked) < 24
    found = content(target)
    assert len(found) == 24
    assert [path.name for path in tmp_path.iterdir()] == ["feats.h5"]
    clf = Predictor.load(run, device="cpu")
    for name in sorted(found)[::6]:
        np.testing.assert_allclose(found[name], clf.features(name, views="3x8").numpy(), rtol=0, atol=1e-6)


def test_only_what_is_new_is_computed(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    target = tmp_path / "feats.h5"
    assert features(monkeypatch, run, folder / "up", "-o", target) == 0
    first = content(target)
    asked.clear()
    assert features(monkeypatch, run, folder / "up", folder / "down", "-o", target) == 0
    assert len(asked) == 4
    assert all("down" in name for name in asked)
    both = content(target)
    assert len(both) == 8
    for name, feature in first.items():
        np.testing.assert_array_equal(both[name], feature)
    asked.clear()
    assert features(monkeypatch, run, folder / "up", "-o", target) == 0
    assert asked == []
    assert len(content(target)) == 8


def test_a_kill_after_the_file_is_written_adds_nothing_twice(tmp_path: Path) -> None:
    target = tmp_path / "feats.h5"
    killed = FeatureFile(target, 3, model="m")
    killed.add("a", np.ones(3))
    killed._write()
    killed._journal.close()
    assert target.exists()
    assert (tmp_path / ".feats.h5.unfinished").exists()
    with FeatureFile(target, 3, model="m") as file:
        assert file.finished == {"a"}
        file.add("b", np.zeros(3))
    assert sorted(content(target)) == ["a", "b"]


def test_files_of_something_else_are_kept(
    run: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "feats.h5"
    assert features(monkeypatch, run, folder / "up", "-o", target) == 0
    before = target.read_bytes()
    assert features(monkeypatch, run, folder / "up", "-o", target, "--views", "3x1") == 2
    assert "choose another --output" in capsys.readouterr().err
    assert target.read_bytes() == before
    other = tmp_path / "notes.h5"
    other.write_text("just words")
    assert features(monkeypatch, run, folder / "up", "-o", other) == 2
    assert "not a file of xvit features" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="its features have"):
        FeatureFile(target, 7, model=str(run), views="1x1")
    begun = FeatureFile(tmp_path / "new.h5", 3, model="a")
    begun.add("v", np.zeros(3))
    with pytest.raises(ConfigError, match="is another xvit features writing"):
        FeatureFile(tmp_path / "new.h5", 3, model="a")
    begun._journal.close()
    with pytest.raises(ConfigError, match=r"begun with .*delete it to begin again"):
        FeatureFile(tmp_path / "new.h5", 3, model="b")
    (tmp_path / ".odd.h5.unfinished").write_text(
        "just words, and enough of them to be no database at all" * 9
    )
    with pytest.raises(ConfigError, match="delete it to begin again"):
        FeatureFile(tmp_path / "odd.h5", 3, model="b")
