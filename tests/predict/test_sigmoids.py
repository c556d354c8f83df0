"""A model trained on videos of several labels gives each class a probability of its own, wherever it runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from xvit.cli import main
from xvit.config import ClipConfig, ModelConfig
from xvit.data import open_video
from xvit.data.synth import write_motion_set
from xvit.errors import ConfigError
from xvit.export import export_model
from xvit.exported import load_exported
from xvit.models import XViT, build_model, load_model, save_model
from xvit.predict import Predictor
from xvit.predict.stream import Watch
from xvit.predict.timeline import make_timeline
from xvit.predict.windows import centre_crops
from xvit.visualize import explain

CLASSES = ("down", "grow", "size", "up")


@pytest.fixture(scope="module")
def model() -> XViT:
    config = ModelConfig.model_validate(
        {
            "name": "vit_tiny_patch16_224",
            "backbone_args": {"embed_dim": 16, "depth": 1, "num_heads": 2},
            "head_num_heads": 2,
            "mixing": {"causal": True},
        }
    )
    clip = ClipConfig(num_frames=4, size=32)
    made = build_model(config, num_classes=4, clip=clip, classes=[CLASSES], several_labels=True)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        made.head.fc.bias += 1.0  # softmax does not see this, sigmoids do
    return made.eval()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("motion")
    write_motion_set(root, train_per_class=0, val_per_class=1, workers=1)
    return str(next(iter(sorted(root.rglob("*.mp4")))))


def by_hand(model: XViT, views: Tensor) -> Tensor:
    with torch.inference_mode():
        return (1 / (1 + torch.exp(-model(views)))).mean(0)


def test_scores_of_every_way_to_ask(model: XViT, film: str) -> None:
    clf = Predictor(model, "cpu")
    views = clf.read(film, "3x2")
    expected = by_hand(model, views)
    assert not 0.9 < expected.sum() < 1.1
    torch.testing.assert_close(clf.scores(film, views="3x2"), expected)
    torch.testing.assert_close(clf.score_batch([views, views[:1]])[0], expected)
    entries = clf(film, top_k=4, views="3x2")
    assert [e["score"] for e in entries] == pytest.approx(sorted(expected.tolist(), reverse=True))
    for method in ("gradient", "rollout"):
        why = explain(clf, film, method=method, target="size")
        assert why.score == pytest.approx(float(by_hand(model, clf.read(film))[2]), abs=1e-6)


def test_timelines_and_streams(model: XViT, film: str) -> None:
    clf = Predictor(model, "cpu")
    found = make_timeline(clf, film, window=0.2)
    with open_video(film) as video:
        frames = centre_crops(video.read(range(video.info.num_frames)), model.clip)
    fps = 4 / 0.2
    stride = video.info.fps / fps if video.info.fps else 1
    first = [int(stride * t + 1e-6) for t in range(4)]
    np.testing.assert_allclose(found.scores[0], by_hand(model, frames[first][None]), rtol=0, atol=1e-5)
    with Watch(clf, film, fast=True, seconds=0.5) as events:
        scores = [event.score for event in events]
    assert scores[0] == pytest.approx(float(by_hand(model, frames[None, :1]).max()), abs=1e-5)


def test_it_travels_with_weights_and_exported_files(
    model: XViT,
    film: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_model(model, tmp_path / "run")
    description = json.loads((tmp_path / "run" / "config.json").read_text())
    assert description["several_labels"] is True
    export_model(model, tmp_path / "ours.onnx")
    assert load_exported(tmp_path / "ours.onnx").several_labels
    expected = Predictor(model, "cpu").scores(film).max()
    for name in ("run", "ours.onnx"):
        arguments = ["predict", str(tmp_path / name), film, "--top-k", "1", "--format", "jsonl"]
        monkeypatch.setattr(sys, "argv", ["xvit", *arguments])
        with pytest.raises(SystemExit):
            main()
        entry = json.loads(capsys.readouterr().out)["predictions"][0]
        assert entry["score"] == pytest.approx(float(expected), abs=1e-4)
    del description["several_labels"]  # as files of before
    (tmp_path / "run" / "config.json").write_text(json.dumps(description))
    before = load_model(tmp_path / "run")
    assert not before.several_labels
    assert Predictor(before, "cpu").scores(film).sum() == pytest.approx(1)


def test_not_with_several_tasks() -> None:
    with pytest.raises(ConfigError, match="go with one task"):
        build_model(
            ModelConfig(name="vit_tiny_patch16_224", backbone_args={"embed_dim": 16, "depth": 1}),
            num_classes=(2, 3),
            clip=ClipConfig(num_frames=2, size=32),
            several_labels=True,
        )
