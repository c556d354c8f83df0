"""Timelines: windows over a film, equal to clips scored one by one, and the segments they add up to."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import av
import numpy as np
import pytest
import torch

from xvit.cli import main
from xvit.config import ClipConfig, ModelConfig
from xvit.data import open_video
from xvit.errors import ConfigError
from xvit.models import build_model, save_model
from xvit.predict import Predictor
from xvit.predict.segments import FORMATS, Segment
from xvit.predict.timeline import Timeline, frame_grid, make_timeline
from xvit.predict.windows import independent_frames
from xvit.types import VideoInfo


def make_predictor(clip: dict[str, Any] | None = None, **config: Any) -> Predictor:
    args = {"embed_dim": 16, "depth": 2, "num_heads": 2}
    settings = {"num_frames": 8, "size": 32, "sampling": "dense", "frame_stride": 2, **(clip or {})}
    model = build_model(
        ModelConfig.model_validate(
            {"name": "vit_tiny_patch16_224", "backbone_args": args, "head_num_heads": 2, **config}
        ),
        num_classes=3,
        clip=ClipConfig.model_validate(settings),
        classes=[("a", "b", "c")],
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Predictor(model, "cpu")


GROUPS = {"mixing": {"group": 4, "layout": "channels"}, "temporal_length": 4}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> str:
    """75 frames of 48×32 at 25 fps, no two alike."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    rng = np.random.default_rng(0)
    with av.open(path, "w") as out:
        stream = out.add_stream("mpeg4", rate=25, width=48, height=32, pix_fmt="yuv420p")
        for _ in range(75):
            tile = rng.integers(0, 256, (4, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(tile, "rgb24")))
        out.mux(stream.encode())
    return str(path)


@pytest.mark.parametrize(
    ("config", "group"),
    [(GROUPS, 4), ({}, None), ({"attention": "spatial", "temporal_embedding": "none"}, 1)],
)
def test_every_window_equals_its_clip_scored_alone(film: str, config: dict[str, Any], group: int) -> None:
    clf = make_predictor(**config)
    assert independent_frames(clf.model) == group
    found = make_timeline(clf, film)
    assert found.seconds == 3
    assert len(found.scores) == 8  # 38 frames of the grid: windows start at 0, 4, … 28
    with open_video(film) as video:
        for i, (centre, row) in enumerate(zip(found.centres, found.scores, strict=True)):
            numbers = [8 * i + 2 * t for t in range(8)]
            assert centre == pytest.approx((np.mean(numbers) + 0.5) / 25)
            one = clf.scores(video.read(list(range(numbers[0], numbers[-1] + 1))))
            np.testing.assert_allclose(row, one, rtol=0, atol=1e-5)
    alone = make_timeline(clf, film, share=False)
    np.testing.assert_allclose(found.scores, alone.scores, rtol=0, atol=1e-5)


def test_groups_are_computed_once(film: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clf = make_predictor(**GROUPS)
    seen: list[int] = []
    compute = clf.network.forward_features

    def counted(frames: torch.Tensor) -> torch.Tensor:
        seen.append(frames.shape[1])
        return compute(frames)

    monkeypatch.setattr(clf.network, "forward_features", counted)
    make_timeline(clf, film)
    shared = sum(seen)
    seen.clear()
    make_timeline(clf, film, share=False)
    assert (shared, sum(seen)) == (36, 64)


def test_groups_with_rows_of_their_own_are_not_shared() -> None:
    assert independent_frames(make_predictor(mixing={"group": 4}).model) == 8  # as long as the clip
    assert independent_frames(make_predictor(**GROUPS, summary_token=True).model) is None
    assert independent_frames(make_predictor(**GROUPS, tubelet=(-1, 2)).model) is None
    assert (
        independent_frames(make_predictor(**(GROUPS | {"temporal_embedding": "interpolate"})).model) is None
    )


def test_grids() -> None:
    dense = ClipConfig(num_frames=4, sampling="dense", frame_stride=2, target_fps=12.5)
    assert frame_grid(VideoInfo(40, 25.0, 1, 1), dense, 2, None).tolist() == list(range(0, 40, 4))
    assert frame_grid(VideoInfo(3, 25.0, 1, 1), dense, 2, None).tolist() == [0, 1, 1, 2]
    segment = ClipConfig(num_frames=4)
    assert frame_grid(VideoInfo(250, 25.0, 1, 1), segment, 2, 2.0).tolist()[:3] == [0, 12, 25]


def test_a_wrong_hop_says_so(film: str) -> None:
    with pytest.raises(ConfigError, match="1 to 8 frames"):
        make_timeline(make_predictor(), film, hop=9)


def test_segments_are_smoothed_and_cover_the_film() -> None:
    best = np.array([0, 0, 1, 0, 0, 2, 2, 2])  # one window of b among a's is noise
    scores = np.full((8, 3), 0.1) + 0.7 * np.eye(3)[best]
    found = Timeline(10.0, np.arange(8) + 1.0, scores, ("a", "b", "c"))
    assert [(s.start, s.end, s.label) for s in found.segments(3)] == [(0, 5.5, "a"), (5.5, 10, "c")]
    assert [s.label for s in found.segments(1)] == ["a", "b", "a", "c"]
    assert found.segments(3)[0].score == pytest.approx(np.mean([0.8, 1.7 / 3, 1.7 / 3, 1.7 / 3, 1.7 / 3]))
    assert [s.label for s in found.segments(3, min_score=0.65)] == ["c"]


def test_texts_are_exact() -> None:
    segments = [Segment(0, 1.5, "a<b", 0.5), Segment(3599.9996, 3661.25, "c", 0.25)]
    assert FORMATS["srt"](segments) == (
        "1\n00:00:00,000 --> 00:00:01,500\na<b (0.50)\n\n2\n01:00:00,000 --> 01:01:01,250\nc (0.25)\n"
    )
    assert FORMATS["vtt"](segments).startswith(
        "WEBVTT\n\n1\n00:00:00.000 --> 00:00:01.500\na&lt;b (0.50)\n\n2\n"
    )
    assert FORMATS["csv"](segments).splitlines()[1] == "0.000,1.500,a<b,0.500000"
    assert json.loads(FORMATS["json"](segments))[1]["end"] == 3661.25
    assert FORMATS["table"](segments).splitlines()[0] == "00:00:00.000  00:00:01.500  0.500  a<b"


def test_the_command(film: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(make_predictor().model, tmp_path / "run")
    target = tmp_path / "out" / "film.json"
    for arguments, code in (
        (
            (
                film,
                "--format",
                "json",
                "--output",
                target,
                "--hop",
                2,
                "--html",
                tmp_path / "t" / "film.html",
            ),
            0,
        ),
        ((film, "--format", "xml"), 2),
        ((tmp_path / "gone.mp4",), 2),
    ):
        monkeypatch.setattr(sys, "argv", ["xvit", "timeline", str(tmp_path / "run"), *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        assert (exited.value.code or 0) == code
    segments = json.loads(target.read_text())
    assert segments[0]["start"] == 0
    assert segments[-1]["end"] == 3
    page = (tmp_path / "t" / "film.html").read_text()
    assert page.count("<img src=") == 24
    assert page.count("<polyline") == 3  # one curve a class
    source = re.search(r'<video[^>]* src="([^"]*)"', page)
    assert source is not None
    assert (tmp_path / "t" / unquote(source[1])).resolve() == Path(film).resolve()
    jumps = [float(time) for time in re.findall(r'<a href="#film" data-time="([^"]*)"', page)]
    assert jumps == pytest.approx([segment["start"] for segment in segments], abs=1e-3)
