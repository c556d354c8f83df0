"""The service's answers, against the predictor's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from client import Client

from xvit.predict import Predictor
from xvit.predict.segments import as_srt
from xvit.predict.timeline import make_timeline


@pytest.mark.parametrize(("name", "label"), [("red", "red"), ("green", "green"), ("blue", "<b>blue")])
def test_predictions_are_the_predictors(
    service: Client, trained: Path, clips: Path, name: str, label: str
) -> None:
    path = clips / f"{name}.mp4"
    answer = service.send("/predict?top_k=2&views=3x2", path)
    assert answer.status == 200, answer.body
    own = Predictor.load(trained)(str(path), top_k=2, views="3x2")
    assert [e["label"] for e in answer.json["predictions"]] == [e["label"] for e in own]
    assert answer.json["predictions"][0]["label"] == label
    for mine, theirs in zip(own, answer.json["predictions"], strict=True):
        assert theirs["score"] == pytest.approx(mine["score"], abs=1e-5)
    assert {
        key: answer.json[key] for key in ("video", "num_frames", "fps", "width", "height", "seconds")
    } == {
        "video": path.name,
        "num_frames": 8,
        "fps": 8,
        "width": 48,
        "height": 48,
        "seconds": 1,
    }


def test_timelines_are_the_predictors(service: Client, trained: Path, clips: Path) -> None:
    own = make_timeline(Predictor.load(trained), str(clips / "film.mp4"))
    answer = service.send("/timeline", clips / "film.mp4")
    assert answer.status == 200, answer.body
    found = answer.json
    assert [s["label"] for s in found["segments"]] == ["red", "<b>blue"]
    assert found["srt"] == as_srt(own.segments())
    assert found["curves"]["seconds"] == pytest.approx(own.centres.tolist(), abs=1e-3)
    leader = found["curves"]["classes"][0]
    row = own.classes.index(leader["label"])
    assert leader["scores"] == pytest.approx(own.smoothed(3)[:, row].tolist(), abs=1e-3)
    assert service.send("/timeline?format=srt", clips / "film.mp4").body.decode() == found["srt"]


def test_explanations_come_as_pictures(service: Client, clips: Path) -> None:
    answer = service.send("/explain?method=rollout", clips / "red.mp4")
    assert answer.status == 200, answer.body
    found = answer.json
    assert found["label"] == "red"
    assert len(found["frames"]) == 4
    assert sum(frame["share"] for frame in found["frames"]) == pytest.approx(1, abs=1e-4)
    assert found["frames"][0]["picture"].startswith("data:image/jpeg;base64,")
    assert found["frames"][0]["map"].startswith("data:image/png;base64,")
    wrong = service.send("/explain?label=purple", clips / "red.mp4")
    assert (wrong.status, "no class 'purple'" in wrong.json["detail"]) == (422, True)
