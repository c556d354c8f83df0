"""The motion set: twins are the same frames in the opposite order, and nothing else tells them apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from xvit.config import DataConfig
from xvit.data import load_manifest, open_video
from xvit.data.synth import PAIRS, write_motion_set


@pytest.fixture(scope="module")
def motion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("motion")
    write_motion_set(root, train_per_class=24, val_per_class=8, seed=3)
    return root


def read(path: Path) -> torch.Tensor:
    with open_video(path) as video:
        return video.read(range(video.info.num_frames))


def test_twins_are_the_same_pictures_backwards(motion: Path) -> None:
    for forward, backward in PAIRS:
        for split in ("train", "val"):
            name = f"{split}_00002.mp4"
            there, back = read(motion / forward / name), read(motion / backward / name)
            assert there.shape == (8, 3, 32, 32)
            assert torch.equal(there, back.flip(0))
            assert not torch.equal(there, back)


def test_train_and_val_share_no_scene(motion: Path) -> None:
    seen = {read(path)[0].numpy().tobytes() for path in motion.glob("right/train_*.mp4")}
    assert len(seen) == 24
    assert not seen & {frame.numpy().tobytes() for p in motion.glob("right/val_*.mp4") for frame in read(p)}


def test_no_frame_tells_how_early_it_comes(motion: Path) -> None:
    """How the last frame differs from the first guesses the direction no better than chance."""
    for forward, backward in PAIRS:
        paths = sorted((motion / forward).glob("*.mp4")) + sorted((motion / backward).glob("*.mp4"))
        x = np.array([differences(read(path)) for path in paths])
        x = np.c_[(x - x.mean(0)) / (x.std(0) + 1e-9), np.ones(len(x))]
        y = np.repeat([1.0, -1.0], len(paths) // 2)
        scene = np.tile(np.arange(len(paths) // 2), 2)  # both twins of a scene on the same side
        train = scene % 2 == 0
        weights = np.linalg.lstsq(x[train], y[train], rcond=None)[0]
        accuracy = (np.sign(x[~train] @ weights) == y[~train]).mean()
        assert accuracy < 0.8, (forward, accuracy)


def differences(frames: torch.Tensor) -> list[float]:
    """Last frame minus first in brightness, contrast, sharpness and brightness of the centre."""
    frames = frames[[0, -1]].float()
    values = [frames.mean((1, 2, 3)), frames.std((1, 2, 3)), frames.diff(dim=2).abs().mean((1, 2, 3))]
    first, last = torch.stack([*values, frames[..., 8:24, 8:24].mean((1, 2, 3))]).unbind(1)
    return (last - first).tolist()


def test_same_arguments_same_set(motion: Path, tmp_path: Path) -> None:
    write_motion_set(tmp_path, train_per_class=24, val_per_class=8, seed=3, workers=1)
    for name in ("grow/train_00005.mp4", "up/val_00001.mp4"):
        assert torch.equal(read(motion / name), read(tmp_path / name))
    for name in ("train.csv", "val.csv", "classes.txt"):
        assert (motion / name).read_text() == (tmp_path / name).read_text()


def test_it_is_a_dataset(motion: Path) -> None:
    train = load_manifest(DataConfig(root=str(motion)), "train")
    assert len(train.records) == 6 * 24
    assert train.classes == (("down", "grow", "left", "right", "shrink", "up"),)
    record = train.records[30]
    assert Path(record.path).parent.name == train.classes[0][record.labels[0]]
