from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from made_up import make_evaluation

from chromium import Browser
from xvit.report import TrainedModel, filmstrip, one_per_class, write_demo_report
from xvit.report.page import similar_order


def write_demo(path: Path) -> None:
    log = [{"event": "start"}]
    log += [{"event": "step", "step": s, "loss": 3 / s} for s in range(1, 201)]
    log += [{"event": "val", "step": s, "top1": s / 200} for s in (100, 200)]
    models = [
        TrainedModel(name, 1_234_567, 2.34e8, 120.5, log, make_evaluation(strength=strength))
        for name, strength in (("XViT", 2.0), ("time-blind <control>", 0.5))
    ]
    evaluation = models[0].evaluation
    frames = np.random.default_rng(0).integers(0, 255, (4, 3, 32, 40), np.uint8)
    strips = [filmstrip(evaluation, row, frames) for row in one_per_class(evaluation)]
    write_demo_report(path, models=models, strips=strips, facts={"seed": "0"}, prediction=strips[0])


def test_one_per_class_shows_mistakes_first() -> None:
    evaluation = make_evaluation(strength=2.0)
    rows = one_per_class(evaluation)
    assert sorted(evaluation.labels[rows, 0].tolist()) == list(range(6))
    wrong = [bool(evaluation.scores[row].argmax() != evaluation.labels[row, 0]) for row in rows]
    assert any(wrong)
    assert wrong == sorted(wrong, reverse=True)


def test_similar_order_joins_what_is_confused() -> None:
    confusion = np.diag([9] * 6)
    for a, b in ((0, 3), (1, 4), (2, 5)):
        confusion[a, b] = confusion[b, a] = 5
    order = similar_order(confusion)
    assert sorted(order) == list(range(6))
    assert all(abs(order.index(a) - order.index(b)) == 1 for a, b in ((0, 3), (1, 4), (2, 5)))


def test_the_demo_page_is_one_file_and_escapes_names(tmp_path: Path) -> None:
    write_demo(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "<control>" not in page
    assert page.count("data:image/png") == 4 * 7
    assert "1.23 M" in page


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_the_demo_page_in_a_browser(chromium: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    write_demo(tmp_path / "report.html")
    chromium.open(tmp_path / "report.html", width=width, dark=dark)
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    background = chromium.run("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") != dark
    painted = """const c = document.querySelector("canvas"), p = c.getContext("2d");
    return p.getImageData(0, 0, c.width, c.height).data.some(x => x)"""
    assert chromium.run(painted)
    assert chromium.console() == []
