"""Videos of several labels: from lists like `path 3,7` through training and packing to average precision."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from xvit.config import DataConfig, load_config
from xvit.data import load_manifest
from xvit.data.check import check, write_lists
from xvit.data.pack import pack
from xvit.data.synth import write_motion_set
from xvit.engine.metrics import mean_average_precision
from xvit.engine.optim import Blend, classification_loss
from xvit.engine.protocol import evaluate_run
from xvit.engine.train import train
from xvit.errors import DatasetError
from xvit.models import load_model

SMALL = (
    "device=cpu",
    "model.name=vit_tiny_patch16_224",
    "model.backbone_args={patch_size: 16, embed_dim: 16, depth: 1, num_heads: 2}",
    "model.head_num_heads=2",
    "data.num_frames=2",
    "data.size=32",
    "data.num_workers=0",
    "train.epochs=2",
    "train.batch_size=6",
    "train.mixup_alpha=0.2",
    "train.best_metric=map",
    "eval.views=1x2",
)


@pytest.fixture(scope="module")
def motion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The motion set, whose videos that grow or shrink also have the label `size`, of train's lists alone."""
    root = tmp_path_factory.mktemp("motion")
    write_motion_set(root, size=32, num_frames=4, train_per_class=2, val_per_class=2, workers=1)
    names = (root / "classes.txt").read_text().split()
    (root / "classes.txt").write_text("\n".join([*names, "size"]) + "\n")
    for split in ("train", "val"):
        file = root / f"{split}.csv"
        rows = [line.split() for line in file.read_text().splitlines()]
        sized = [f"{path} {label},6" if path[0] in "gs" else f"{path} {label}" for path, label in rows]
        file.write_text("\n".join(sized) + "\n")
    return root


def test_lists(motion: Path, tmp_path: Path) -> None:
    manifest = load_manifest(DataConfig(root=str(motion)), "train")
    assert manifest.num_classes == (7,)
    labels = {record.video_id.split("/")[0]: record.labels for record in manifest.records}
    assert labels["down"] == (0, -1)
    assert labels["grow"] == (1, 6)
    for text in ("v.mp4 3,7,12", "v.mp4\t3,7,12", '"v.mp4" 3,7,12'):
        (tmp_path / "train.csv").write_text(text + "\nw.mp4 0\n")
        found = load_manifest(DataConfig(root=str(tmp_path), format="csv"), "train")
        assert [record.labels for record in found.records] == [(3, 7, 12), (0, -1, -1)]
        assert found.num_classes == (13,)
    (tmp_path / "val.csv").write_text("x.mp4 7\n")  # one label each in val: still a set of several
    assert load_manifest(DataConfig(root=str(tmp_path)), "val").records[0].labels == (7, -1)


@pytest.mark.parametrize(
    ("train_list", "val_list", "message"),
    [
        ("v.mp4 3,3\n", "v.mp4 3\n", "train.csv:1: a label stands there twice: 3,3"),
        ("v.mp4 3,x\n", "v.mp4 3\n", "train.csv:1: "),
        ("v.mp4 0,1\n", "w.mp4 0,2\n", r"val.csv:1: label 2 does not occur in train.csv"),
    ],
)
def test_wrong_lists(tmp_path: Path, train_list: str, val_list: str, message: str) -> None:
    (tmp_path / "train.csv").write_text(train_list)
    (tmp_path / "val.csv").write_text(val_list)
    with pytest.raises(DatasetError, match=message):
        load_manifest(DataConfig(root=str(tmp_path)), "val")


def test_labels_follow_the_models_names(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("v.mp4 0,2\nw.mp4 1\n")
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    found = load_manifest(DataConfig(root=str(tmp_path)), "train", classes=(("c", "b", "a"),))
    assert [record.labels for record in found.records] == [(2, 0), (1, -1)]


def test_loss_is_binary_cross_entropy() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0]])
    labels = torch.tensor([[0, 2], [1, -1]])
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    chance = logits.sigmoid()

    def by_hand(wanted: torch.Tensor) -> torch.Tensor:
        return -(wanted * chance.log() + (1 - wanted) * (1 - chance).log()).mean()

    torch.testing.assert_close(classification_loss(logits, labels, (3,)), by_hand(targets))
    smoothed = classification_loss(logits, labels, (3,), label_smoothing=0.2)
    torch.testing.assert_close(smoothed, by_hand(targets * 0.8 + 0.1))
    blended = classification_loss(logits, labels, (3,), blend=Blend(0.7, torch.tensor([1, 0])))
    torch.testing.assert_close(blended, by_hand(0.7 * targets + 0.3 * targets.flip(0)))


def test_training_packing_checking_and_average_precision(motion: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        assert not pack(load_manifest(DataConfig(root=str(motion)), split), tmp_path / "packed", workers=1)
    assert "seq_h5/val/grow/val_00000.h5 1,6\n" in (tmp_path / "packed/val.csv").read_text()
    output = train(load_config(None, [*SMALL, f"output={tmp_path}/run", f"data.root={tmp_path}/packed"]))
    metrics = json.loads((output / "metrics.json").read_text())
    assert 0 < metrics["best_map"] <= 1

    for folder in (output, output / "best"):
        assert load_model(folder).several_labels

    done = evaluate_run(output, quiet=True)
    scores, labels = done.evaluation.scores, done.evaluation.labels
    assert labels.shape == (12, 2)
    assert np.all((scores > 0) & (scores < 1))
    positive = np.zeros(scores.shape, bool)
    for row, own in enumerate(labels):
        positive[row, own[own >= 0]] = True
    found = done.found["tasks"]["class"]
    written = json.loads((output / "eval/results.json").read_text())["tasks"]["class"]["map"]
    assert written["value"] == pytest.approx(mean_average_precision(scores, positive)) == metrics["map"]
    assert written["low"] < written["value"] < written["high"]
    assert {row["class"]: row["videos"] for row in found["per_class"]}["size"] == 4

    # A list without labels does not say that videos have several; the model does.
    names = [line.rpartition(" ")[0] for line in (tmp_path / "packed/val.csv").read_text().splitlines()]
    (tmp_path / "packed/test.csv").write_text("".join(f"{name}\n" for name in names))
    hidden = evaluate_run(output, split="test", output=tmp_path / "hidden", quiet=True)
    np.testing.assert_allclose(hidden.evaluation.scores, scores, rtol=0, atol=1e-6)

    findings, manifests = check(DataConfig(root=str(motion)), workers=1)
    assert not [finding for finding in findings if finding.kind != "one-sample class"]
    write_lists(findings, manifests, tmp_path / "fixed")
    assert " 1,6\n" in (tmp_path / "fixed/train.csv").read_text()
