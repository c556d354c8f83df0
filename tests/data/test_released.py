"""The released code's layouts on disk, and its scores from its own packed videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from xvit.config import DataConfig
from xvit.data import VideoDataset, load_manifest
from xvit.errors import DatasetError
from xvit.models import load_model


def lay(root: Path, **files: str) -> DataConfig:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_txt", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return DataConfig(root=str(root))


def test_kinetics_lists(tmp_path: Path) -> None:
    config = lay(
        tmp_path,
        annotations__train_txt="jump/a,12,0\nrun, fast/b,7,1\n",
        annotations__val_txt="jump/c,9,0\n",
        annotation__train_fps_txt="run, fast/b,12.5\n",
        seq_h5__train__x_txt="",
    )
    train = load_manifest(config, "train")
    assert train.format == "released_kinetics"
    assert train.classes == (("jump", "run, fast"),)
    assert [r.video_id for r in train.records] == ["jump/a", "run, fast/b"]
    assert train.records[1].path == str(tmp_path / "seq_h5/train/run, fast/b.h5")
    assert [r.fps for r in train.records] == [None, 12.5]
    test = load_manifest(config, "test")  # the released test split is val
    assert test.records[0].path == str(tmp_path / "val/jump/c.h5")


def test_ssv2_lists(tmp_path: Path) -> None:
    config = lay(tmp_path, train_videofolder_txt="12 30 1\n7 40 0\n", val_videofolder_txt="9 10 1\n")
    train = load_manifest(config, "train")
    assert train.format == "released_ssv2"
    assert [(r.path, r.labels) for r in train.records] == [
        (f"{tmp_path}/seq_h5/12.h5", (1,)),
        (f"{tmp_path}/seq_h5/7.h5", (0,)),
    ]
    assert train.classes == (("0", "1"),)
    (tmp_path / "Something-Something-v2-frames.h5").touch()
    assert load_manifest(config, "test").records[0].path == f"{tmp_path}/Something-Something-v2-frames.h5::9"


def test_wrong_lines(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"val.txt:2: expected `path,num_frames,label`, got 'b,3'"):
        load_manifest(lay(tmp_path / "k", annotations__val_txt="a,3,0\nb,3\n"), "val")
    with pytest.raises(DatasetError, match=r"val_videofolder.txt:1: expected `path num_frames label`"):
        load_manifest(lay(tmp_path / "s", val_videofolder_txt="a 3 x\n"), "val")


@pytest.mark.parametrize("case", ["eval_kinetics", "eval_ssv2"])
def test_the_released_scores(shared: Path, case: str) -> None:
    """3 crops × 2 clips of a packed video give the released code's sum of logits."""
    folder = shared / "oracle" / case
    model = load_model(folder / "weights.pth")
    config = DataConfig(root=str(folder / "data"), **model.clip.model_dump())
    manifest = load_manifest(config, "test")
    expected = np.load(folder / "scores.npz")
    assert [r.video_id for r in manifest.records] == expected["names"].tolist()
    assert [r.labels[0] for r in manifest.records] == expected["labels"].tolist()
    views = VideoDataset(manifest, config, views=(3, 2))[0].frames[0]
    with torch.inference_mode():
        scores = model(views).sum(0)
    torch.testing.assert_close(scores, torch.from_numpy(expected["video_preds"][0]), rtol=1e-4, atol=1e-5)
