"""The head first: it learns what the frozen image model can tell, and nothing else moves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from xvit.config import Config, load_config
from xvit.data.synth import write_motion_set
from xvit.engine import ending
from xvit.engine.checkpoint import load_newest
from xvit.engine.runlog import RunLog
from xvit.engine.setup import build_run
from xvit.engine.signals import StopSignal
from xvit.engine.train import train
from xvit.engine.warmup import _features, fit_head_first
from xvit.errors import ConfigError


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("motion")
    write_motion_set(root, train_per_class=3, val_per_class=1, workers=1)
    return root


def config(videos: Path, output: Path, *overrides: str) -> Config:
    small = (
        "device=cpu",
        "model.backbone_args={patch_size: 16, embed_dim: 32, depth: 1, num_heads: 2}",
        "model.head=moments",
        "data.num_workers=0",
        "train.batch_size=6",
        "train.epochs=1",
        "train.head_first=2",
    )
    return load_config("demo/motion", [f"data.root={videos}", f"output={output}", *small, *overrides])


def test_only_the_head_moves_and_it_fits_its_features(videos: Path, tmp_path: Path) -> None:
    run = build_run(config(videos, tmp_path, "train.ema_decay=0.9"))
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    fit_head_first(run, StopSignal(), quiet=True)
    moved = {name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(name.startswith("head.") for name in moved)
    features, labels = _features(run, StopSignal(), quiet=True)
    assert features.shape[:2] == (2 * len(run.train_list.records), 6)
    run.model.head.eval()
    assert (run.model.head(features).argmax(1) == labels[:, 0]).float().mean() > 0.9
    assert torch.equal(run.average.module.head.fc.weight, run.model.head.fc.weight)


def test_a_resumed_run_does_not_begin_again(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config(videos, tmp_path / "whole", "train.epochs=2"), quiet=True)
    part = tmp_path / "part"
    train(config(videos, part, "train.epochs=2", "train.max_steps=2"), quiet=True)
    monkeypatch.setattr("xvit.engine.train.fit_head_first", None)
    train(config(videos, part, "train.epochs=2", "train.resume=auto"), quiet=True)
    assert (whole / "model.safetensors").read_bytes() == (part / "model.safetensors").read_bytes()


def test_a_signal_breaks_it_off(videos: Path, tmp_path: Path) -> None:
    run, stop = build_run(config(videos, tmp_path)), StopSignal()
    before = run.model.head.fc.weight.clone()
    stop.requested = True
    fit_head_first(run, stop, quiet=True)
    assert torch.equal(run.model.head.fc.weight, before)


def test_a_signal_leaves_out_all_further_draws(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, stop, seen = build_run(config(videos, tmp_path, "train.head_first=50")), StopSignal(), []
    real = run.dataset._ship

    def signalled(keys: Sequence[Any]) -> Any:
        seen.extend(keys)
        stop.requested = True
        return real(keys)

    monkeypatch.setattr(run.dataset, "_ship", signalled)
    fit_head_first(run, stop, quiet=True)
    assert len(seen) == 6  # one batch


def test_a_process_that_has_to_leave_meanwhile_saves_no_step(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that went on from there would not fit the head."""
    run, codes = build_run(config(videos, tmp_path / "r")), []
    run.folder.mkdir()
    monkeypatch.setattr(ending, "_leave", codes.append)
    ending.give_up_step(run, RunLog(run.folder), 9, None, None)
    assert codes == [0]
    assert (run.folder / "metrics.json").exists()
    assert load_newest(run.folder) is None


def test_not_with_weights_in_parts(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="head_first"):
        build_run(config(videos, tmp_path, "train.shard=fsdp"))
