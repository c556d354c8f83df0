"""An exported model behind the service: the same answers, and a page that offers what there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from client import Client

from chromium import Browser
from conftest import hosting, serving
from xvit.predict import Predictor
from xvit.predict.timeline import make_timeline

pytest.importorskip("onnxruntime", reason="needs the extra onnx")


@pytest.fixture(scope="module")
def exported_service(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    from xvit.export import export_model
    from xvit.models import load_model

    path = tmp_path_factory.mktemp("exported") / "colours.onnx"
    export_model(load_model(trained), path)
    with serving(path) as client:
        yield client


def test_answers_are_the_trained_models(exported_service: Client, trained: Path, clips: Path) -> None:
    own = Predictor.load(trained)
    answer = exported_service.send("/predict?views=3x2", clips / "film.mp4")
    assert answer.status == 200, answer.body
    for got, expected in zip(answer.json["predictions"], own(clips / "film.mp4", views="3x2"), strict=True):
        assert got["label"] == expected["label"]
        assert got["score"] == pytest.approx(expected["score"], abs=1e-4)
    found = exported_service.send("/timeline", clips / "film.mp4").json
    expected = make_timeline(own, str(clips / "film.mp4"))
    assert [s["label"] for s in found["segments"]] == [s.label for s in expected.segments()]
    leader = found["curves"]["classes"][0]
    scores = expected.smoothed(3)[:, expected.classes.index(leader["label"])]
    assert leader["scores"] == pytest.approx(scores.tolist(), abs=1e-3)
    assert exported_service.get("/labels").json["tasks"] == [["red", "green", "<b>blue"]]


def test_explanations_are_not_offered(exported_service: Client, clips: Path) -> None:
    answer = exported_service.send("/explain", clips / "red.mp4")
    assert answer.status == 422
    assert answer.json["detail"] == (
        "this service runs an exported model, which gives scores and no explanations"
    )


def test_the_page(chromium: Browser, exported_service: Client, clips: Path) -> None:
    chromium.open(exported_service.address)
    chromium.type("#file", str(clips / "film.mp4"))
    chromium.wait('document.getElementById("progress").hidden && !document.getElementById("when").hidden')
    labels = chromium.run("return [...document.querySelectorAll('#segments .label')].map(e => e.textContent)")
    assert labels == ["red", "<b>blue"]
    assert chromium.run("return document.getElementById('why').getBoundingClientRect().width") == 0
    assert chromium.run("return document.getElementById('several')") is None
    assert chromium.console() == []


def test_of_several_labels_each_has_a_probability_of_its_own(
    chromium: Browser, trained: Path, clips: Path, tmp_path: Path
) -> None:
    from xvit.export import export_model
    from xvit.models import load_model, save_model

    shares = {e["label"]: e["score"] for e in Predictor.load(trained)(clips / "film.mp4")}
    assert sum(shares.values()) == pytest.approx(1)
    model = load_model(trained)
    model.reset_classifier(len(shares), model.classes, several_labels=True)
    model.head.fc.load_state_dict(load_model(trained).head.fc.state_dict())
    save_model(model, tmp_path / "run")
    export_model(model, tmp_path / "m.onnx")
    own = Predictor.load(tmp_path / "run")(clips / "film.mp4")
    assert sum(entry["score"] for entry in own) != pytest.approx(1, abs=0.01)
    for path in (tmp_path / "run", tmp_path / "m.onnx"):
        with hosting(path) as client:
            found = client.send("/predict", clips / "film.mp4").json["predictions"]
            curves = client.send("/timeline", clips / "film.mp4").json["curves"]["classes"]
            assert client.get("/labels").json["several_labels"] is True
            spoken, bars = page_says(chromium, client.address, clips / "film.mp4")
        assert [entry["label"] for entry in found] == [entry["label"] for entry in own]
        assert [e["score"] for e in found] == pytest.approx([e["score"] for e in own], abs=1e-4)
        assert sum(curve["scores"][0] for curve in curves) != pytest.approx(1, abs=0.01)
        assert spoken == ("A video can have several of these classes: each has a probability of its own.")
        assert bars == pytest.approx([entry["score"] for entry in own], abs=0.02)


def page_says(chromium: Browser, address: str, video: Path) -> tuple[str, list[float]]:
    """The words about several labels, and each bar's part of its track, for a video."""
    chromium.open(address)
    chromium.type("#file", str(video))
    chromium.wait('document.getElementById("progress").hidden && !document.getElementById("when").hidden')
    bars = chromium.run("""return [...document.querySelectorAll("#best .track")].map(
      t => t.firstChild.getBoundingClientRect().width / t.getBoundingClientRect().width)""")
    return chromium.run("return document.getElementById('several').innerText"), bars
