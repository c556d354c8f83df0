"""Checkpoints are whole or not there; the newest intact one is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from xvit.engine import checkpoint
from xvit.engine.checkpoint import (
    find_checkpoints,
    load_newest,
    save_checkpoint,
    set_aside,
    set_damaged_aside,
)
from xvit.errors import XViTError


def save(run: Path, step: int, keep_last: int = 9) -> Path:
    return save_checkpoint(run, step, {"step": step, "weight": torch.full((3,), step)}, keep_last=keep_last)


def test_the_newest_is_loaded_and_old_ones_go(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        save(tmp_path, step, keep_last=2)
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step_00000100", "step_00000010"]
    state = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 100
    assert torch.equal(state["weight"], torch.full((3,), 100))


def test_what_else_lies_there_is_no_checkpoint(tmp_path: Path) -> None:
    """It would be taken for a newer one, and the run's own deleted in its stead."""
    save(tmp_path, 5)
    (tmp_path / "checkpoints" / "step_best").mkdir()
    (tmp_path / "checkpoints" / "step_00000009 (copy)").mkdir()
    (tmp_path / "checkpoints" / "step_00000005.zip").write_bytes(b"")
    save(tmp_path, 6, keep_last=1)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        "step_00000006",
        "step_best",
        "step_00000009 (copy)",
        "step_00000005.zip",
    }
    state = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 6


@pytest.mark.parametrize("damage", ["flipped", "truncated", "gone"])
def test_a_damaged_newest_falls_back_with_a_warning(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 1)
    file = save(tmp_path, 2) / "state.pt"
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-10] if damage == "truncated" else content[:50] + b"?" + content[51:])
    with pytest.warns(UserWarning, match="step_00000002: a damaged checkpoint"):
        state = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 1
    assert save(tmp_path, 2).is_dir()  # the damaged one is replaced
    state = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 2


def test_damaged_ones_take_no_whole_ones_place(tmp_path: Path) -> None:
    for step in (27, 57, 60):
        save(tmp_path, step)
    for step in (57, 60):
        (tmp_path / "checkpoints" / f"step_000000{step}" / "state.pt").write_bytes(b"")
    set_damaged_aside(tmp_path, 27)
    save(tmp_path, 70, keep_last=2)
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step_00000070", "step_00000027"]
    assert (tmp_path / "checkpoints" / "step_00000060.damaged").is_dir()


def test_nothing_set_aside_is_ever_deleted(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path, number)
        with pytest.warns(UserWarning, match="begins anew"):
            set_aside(tmp_path)
    kept = [path.relative_to(tmp_path).parts for path in tmp_path.glob("checkpoints*/step_*")]
    assert sorted(kept) == [
        ("checkpoints.earlier", "step_00000000"),
        ("checkpoints.earlier.2", "step_00000001"),
        ("checkpoints.earlier.3", "step_00000002"),
    ]
    set_aside(tmp_path)  # nothing is there


def test_a_full_disk_costs_only_the_new_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_flushed", full)
    with pytest.raises(XViTError, match=r"step_00000002: cannot save: No space left on device"):
        save(tmp_path, 2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]
    state = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 1


def test_no_checkpoint_is_no_state(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
