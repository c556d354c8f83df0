"""The predictor: the same answer for a video however it is handed over."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import xvit
from xvit.config import ClipConfig, ModelConfig
from xvit.data import open_video
from xvit.data.synth import write_motion_set
from xvit.errors import VideoReadError, WeightsError
from xvit.models import build_model, save_model
from xvit.predict import Predictor

CLASSES = ("down", "grow", "left", "right", "shrink", "up")


def make_predictor(
    classes: tuple[tuple[str, ...], ...] = (CLASSES,), precision: str = "fp32", **clip: object
) -> Predictor:
    args = {"embed_dim": 16, "depth": 2, "num_heads": 2}
    config = ModelConfig(name="vit_tiny_patch16_224", backbone_args=args, head_num_heads=2)
    settings = ClipConfig.model_validate({"num_frames": 4, "size": 32, **clip})
    counts = [len(names) for names in classes]
    model = build_model(config, num_classes=counts, clip=settings, classes=classes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Predictor(model, "cpu", precision)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("motion")
    write_motion_set(root, train_per_class=0, val_per_class=1, workers=1)
    return sorted(root.rglob("*.mp4"))


def test_every_kind_of_source_gives_the_same(videos: list[Path]) -> None:
    clf = make_predictor()
    expected = clf(videos[0], top_k=6, views="2x3")
    assert [entry["label"] for entry in expected] != list(CLASSES)
    assert sum(float(entry["score"]) for entry in expected) == pytest.approx(1)
    with open_video(videos[0]) as video:
        tensor = video.read(range(video.info.num_frames))
    array = tensor.permute(0, 2, 3, 1).numpy()
    assert clf(str(videos[0]), top_k=6, views="2x3") == expected
    assert clf(tensor, top_k=6, views="2x3") == expected
    assert clf(array, top_k=6, views="2x3") == expected
    assert clf(io.BytesIO(videos[0].read_bytes()), top_k=6, views="2x3") == expected
    with videos[0].open("rb") as file:
        assert clf(file, top_k=6, views="2x3") == expected


def test_many_videos_and_threads_equal_one_by_one(videos: list[Path]) -> None:
    clf = make_predictor()
    expected = [clf(path) for path in videos]
    assert clf(videos) == expected
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(clf, videos * 3)) == expected * 3


def test_scores_are_the_mean_softmax_or_for_released_files_the_mean_logits(videos: list[Path]) -> None:
    for position in ("spread", "released"):
        clf = make_predictor(clip_position=position)
        views = clf.read(str(videos[0]), "1x3")
        with torch.inference_mode():
            logits = clf.model(views)
        each = logits.softmax(-1).mean(0) if position == "spread" else logits.mean(0).softmax(-1)
        torch.testing.assert_close(clf.scores(str(videos[0]), views="1x3"), each)


def test_features_are_what_the_classifier_sees(videos: list[Path]) -> None:
    clf = make_predictor()
    feature = clf.features(videos[0])
    assert feature.shape == (16,)
    with torch.inference_mode():
        scores = clf.model.get_classifier()(feature).softmax(-1)
    torch.testing.assert_close(scores, clf.scores(videos[0]))


def test_several_tasks_are_scored_apart(videos: list[Path]) -> None:
    clf = make_predictor(classes=(("cut", "wash"), ("onion", "plate", "knife")))
    entries = clf(videos[0], top_k=2)
    assert [entry["task"] for entry in entries] == [0, 0, 1, 1]
    assert clf.scores(videos[0]).split([2, 3])[1].sum() == pytest.approx(1)


def test_bf16_is_near_fp32(videos: list[Path]) -> None:
    clf = make_predictor()
    expected = clf.scores(videos[0])
    low = Predictor(clf.model, "cpu", "bf16").scores(videos[0])
    assert 0 < (low - expected).abs().max() < 0.05


def test_what_is_no_video_says_so(videos: list[Path], tmp_path: Path) -> None:
    clf = make_predictor()
    with pytest.raises(VideoReadError, match="<file>: not a readable video"):
        clf(io.BytesIO(b"just words"))
    with pytest.raises(VideoReadError, match=r"gone\.mp4: no such file"):
        clf([videos[0], tmp_path / "gone.mp4"])
    with pytest.raises(ValueError, match="an array is"):
        clf(np.zeros((4, 3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="a tensor is"):
        clf(torch.zeros(4, 3, 8, 8))


def test_loading_by_folder_and_by_wrong_name(tmp_path: Path, videos: list[Path]) -> None:
    clf = make_predictor()
    save_model(clf.model, tmp_path / "run")
    assert xvit.Predictor.load(tmp_path / "run", device="cpu")(videos[0]) == clf(videos[0])
    with pytest.raises(WeightsError, match="nor a published name"):
        Predictor.load(tmp_path / "nowhere")
