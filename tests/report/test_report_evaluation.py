from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from made_up import make_evaluation

from chromium import Browser
from xvit.config import ClipConfig
from xvit.engine.results import results
from xvit.report import filmstrip, worst_mistakes, write_report
from xvit.report.evaluation import shown


def write(path: Path, num_classes: int) -> None:
    evaluation = make_evaluation(num_classes, 8, strength=3, twins=2, views=6)
    evaluation = dataclasses.replace(evaluation, missing=(("gone.mp4", "no <video> stream"),))
    frames = np.random.default_rng(0).integers(0, 255, (4, 3, 96, 80), np.uint8)
    strips = [filmstrip(evaluation, row, frames) for row in worst_mistakes(evaluation, 3)]
    write_report(path, results(evaluation), evaluation, strips)


def test_worst_mistakes_are_mistakes_surest_first() -> None:
    evaluation = make_evaluation(5, 12, strength=1.0)
    rows = worst_mistakes(evaluation)
    assert 0 < len(rows) <= 24
    assert (evaluation.scores[rows].argmax(1) != evaluation.labels[rows, 0]).all()
    assert (np.diff(evaluation.scores[rows].max(1)) <= 0).all()


def test_shown_undoes_the_normalisation() -> None:
    clip = ClipConfig()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5)).astype(np.uint8)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (clip.mean, clip.std))
    np.testing.assert_array_equal(shown(((pictures / 255 - mean) / std).astype(np.float32), clip), pictures)


def test_the_page_says_what_is_missing(tmp_path: Path) -> None:
    write(tmp_path / "report.html", 5)
    page = (tmp_path / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "1 missing" in page
    assert "no &lt;video&gt; stream" in page


def test_every_accuracy_has_its_interval(tmp_path: Path) -> None:
    evaluation = make_evaluation(4, 10, strength=1.5, views=3)
    found = results(evaluation)
    last, task = found["by_views"][-1], found["tasks"]["class"]
    assert last == {"views": 3, "top1": task["top1"]["value"]} | {k: task["top1"][k] for k in ("low", "high")}
    assert all(row["low"] < row["top1"] < row["high"] for row in found["by_views"] + found["by_margin"])
    write_report(tmp_path / "report.html", found, evaluation)
    page = (tmp_path / "report.html").read_text()
    for row in task["per_class"]:
        assert f'<span class="range">{100 * row["low"]:.1f}–{100 * row["high"]:.1f}</span>' in page
    assert page.count('class="band') == 2


def test_a_page_without_labels(tmp_path: Path) -> None:
    evaluation = dataclasses.replace(make_evaluation(), labels=np.zeros((48, 0), np.int64))
    write_report(tmp_path / "report.html", results(evaluation), evaluation)
    assert "The list has no labels" in (tmp_path / "report.html").read_text()


def test_a_page_of_several_labels(tmp_path: Path) -> None:
    evaluation = make_evaluation(5, 6)
    second = np.where(evaluation.labels % 2, -1, (evaluation.labels + 1) % 5)
    evaluation = dataclasses.replace(evaluation, labels=np.hstack([evaluation.labels, second]))
    found = results(evaluation)
    frames = np.zeros((2, 3, 8, 8), np.uint8)
    rows = worst_mistakes(evaluation, 2)
    write_report(
        tmp_path / "report.html", found, evaluation, [filmstrip(evaluation, r, frames) for r in rows]
    )
    page = (tmp_path / "report.html").read_text()
    assert "mean average precision" in page
    value, low, high = (100 * share for share in found["tasks"]["class"]["map"].values())
    assert low < value < high
    assert f'{value:.1f} % <span class="range">{low:.1f}–{high:.1f}</span>' in page
    assert page.count("average precision</button>") == 1


def test_a_strip_of_several_labels_shows_them_all(tmp_path: Path) -> None:
    evaluation = make_evaluation(5, 6)
    labels = np.tile([[1, 2], [3, -1], [0, 4]], (10, 1))
    evaluation = dataclasses.replace(evaluation, labels=labels)
    frames = np.zeros((2, 3, 8, 8), np.uint8)
    strips = [filmstrip(evaluation, row, frames) for row in range(3)]
    assert [strip.labels for strip in strips] == [
        ("class 1", "class 2"),
        ("class 3",),
        ("class 0", "class 4"),
    ]
    assert [strip.right for strip in strips] == [False, False, True]
    write_report(tmp_path / "report.html", results(evaluation), evaluation, strips[:1])
    page = (tmp_path / "report.html").read_text()
    assert "<h3>class 1, class 2" in page
    assert page.count("true class</span>") == 2


def test_classes_that_never_occur_and_views_are_counted(tmp_path: Path) -> None:
    evaluation = dataclasses.replace(make_evaluation(5, 6, views=2), not_on_disk=7)
    keep = np.flatnonzero(evaluation.labels[:, 0] < 4)
    columns = ("scores", "labels", "leaders", "margins", "views_used")
    evaluation = dataclasses.replace(
        evaluation,
        video_id=tuple(evaluation.video_id[row] for row in keep),
        **{name: getattr(evaluation, name)[keep] for name in columns},
    )
    write_report(tmp_path / "report.html", results(evaluation), evaluation)
    page = (tmp_path / "report.html").read_text()
    assert "1 of 5 classes has no videos here." in page
    assert "7 more that the list names are not on disk" in page
    chart = page[page.index("top-1 by views, the first views") :].partition("</svg>")[0]
    bottom = re.findall(r'class="tick" [^>]*>([^<]+)<', chart)
    assert bottom == ["1", "2"]


def test_long_names_and_paper(chromium: Browser, tmp_path: Path) -> None:
    evaluation = make_evaluation(30, 8, strength=1, views=2)
    names = ("<script>x</script>", "n" * 300, *evaluation.classes[0][2:])
    videos = ("v" * 300, *evaluation.video_id[1:])
    missing = tuple((f"{'m' * 300}{n}", "gone" * 50) for n in range(100))
    evaluation = dataclasses.replace(evaluation, classes=(names,), video_id=videos, missing=missing)
    frames = np.zeros((2, 3, 8, 8), np.uint8)
    strips = [filmstrip(evaluation, row, frames) for row in (0, 8)]
    write_report(tmp_path / "report.html", results(evaluation), evaluation, strips)
    for width in (390, 1200):
        chromium.open(tmp_path / "report.html", width=width)
        assert chromium.run("return document.documentElement.scrollWidth") <= width
    chromium.cdp("Emulation.setEmulatedMedia", media="print")
    hidden = (
        "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollHeight > e.clientHeight + 1)"
    )
    assert chromium.run(f"{hidden}.length") == 0
    heads = "return [...document.querySelectorAll('thead button')].map(e => e.offsetWidth > 0)"
    assert chromium.run(heads) == [True] * 3
    chromium.cdp("Emulation.setEmulatedMedia", media="screen")
    assert chromium.console() == []


@pytest.mark.parametrize("num_classes", [5, 600])
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (400, True)])
def test_the_page_in_a_browser(
    chromium: Browser, tmp_path: Path, num_classes: int, width: int, dark: bool
) -> None:
    write(tmp_path / "report.html", num_classes)
    chromium.open(tmp_path / "report.html", width=width, dark=dark)
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    assert chromium.console() == []

    chromium.run("document.querySelector('canvas').focus()")
    chromium.press("\ue015", "\ue014")  # arrow down, arrow right
    status = chromium.run("return document.querySelector('.status').textContent")
    assert re.fullmatch(r"class 1 recognised: \d of 8 videos \(.*\)", status)
    before = chromium.run("return document.querySelector('canvas').toDataURL()")
    chromium.press("+")
    zoomed = chromium.run("return document.querySelector('canvas').toDataURL()")
    assert zoomed != before
    chromium.press("\ue00c")  # escape
    assert chromium.run("return document.querySelector('canvas').toDataURL()") == before
    chromium.run(
        "const s = document.querySelector('select'); s.value = 'worst'; s.dispatchEvent(new Event('change'))"
    )
    assert chromium.run("return document.querySelector('canvas').toDataURL()") != before

    column = "return [...document.querySelectorAll('.sortable tbody tr')].map(r => +r.cells[2].dataset.value)"
    shares = chromium.run(column)
    assert shares == sorted(shares)
    chromium.run("document.querySelectorAll('.sortable button')[2].click()")
    assert chromium.run(column) == sorted(shares, reverse=True)
    assert chromium.console() == []


def test_every_control_has_a_name(chromium: Browser, tmp_path: Path) -> None:
    write(tmp_path / "report.html", 5)
    chromium.open(tmp_path / "report.html")
    chromium.cdp("Accessibility.enable")
    nodes = chromium.cdp("Accessibility.getFullAXTree")["nodes"]
    controls = {"button", "combobox", "Canvas", "application", "image", "img", "region"}
    shown_nodes = [n for n in nodes if not n["ignored"] and n["role"]["value"] in controls]
    assert {n["role"]["value"] for n in shown_nodes} >= {"button", "combobox", "application", "region"}
    assert [n["role"]["value"] for n in shown_nodes if not n.get("name", {}).get("value")] == []
