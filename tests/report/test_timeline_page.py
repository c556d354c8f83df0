"""The page of a timeline in a real browser: a click anywhere jumps there."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import numpy as np
import pytest

from chromium import Browser
from xvit.predict.segments import Segment
from xvit.report import write_timeline
from xvit.report.charts import LEFT, RIGHT, WIDTH

SECONDS = 20
LABELS = (
    "shaking hands",
    "hugging",
    "kicking",
    "pointing",
    "a <b>label</b> & one that is much longer than most",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a film that Chromium plays, beside it in another folder, with a name that needs quoting."""
    folder = tmp_path_factory.mktemp("timeline")
    film = folder / "ein Film, 100% 名.webm"
    with av.open(film, "w") as out:
        stream = out.add_stream("libvpx", rate=5, width=160, height=96, pix_fmt="yuv420p")
        stream.options = {"deadline": "realtime", "cpu-used": "8"}
        for number in range(5 * SECONDS):
            picture = np.full((96, 160, 3), (40 + 2 * number, 120, 230 - 2 * number), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(stream.encode())
    centres = np.linspace(0.5, SECONDS - 0.5, 40)
    phase = 2 * np.pi * (centres[:, None] / SECONDS + np.arange(5) / 5)
    scores = np.exp(2 * np.cos(phase))
    best = (scores / scores.sum(1, keepdims=True)).argmax(1)
    cuts = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist(), 40]
    segments = [
        Segment(a * SECONDS / 40, b * SECONDS / 40, LABELS[best[a]], 0.6) for a, b in itertools.pairwise(cuts)
    ]
    target = folder / "pages" / "timeline.html"
    write_timeline(
        target,
        str(film),
        seconds=SECONDS,
        centres=centres,
        scores=scores / scores.sum(1, keepdims=True),
        classes=LABELS,
        segments=segments,
    )
    return target


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_a_click_jumps_there(chromium: Browser, page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    chromium.console()
    chromium.open(page, width=width, dark=dark)
    chromium.wait("document.getElementById('film').readyState >= 1")
    film = "document.getElementById('film')"
    assert chromium.run(f"return {film}.duration") == pytest.approx(SECONDS, abs=0.5)

    def arrived(at: float) -> None:
        chromium.wait(f"Math.abs({film}.currentTime - {at}) < 0.02 && !{film}.seeking", 10)

    times = [
        float(t)
        for t in chromium.run(
            "return [...document.querySelectorAll('button[data-time]')].map((b) => b.dataset.time)"
        )
    ]
    assert len(times) == 24
    chromium.click("button[data-time]:nth-of-type(18)")
    arrived(times[17])
    left, right = LEFT / WIDTH, RIGHT / WIDTH
    box = chromium.run("return document.querySelector('#chart svg').getBoundingClientRect().width")
    for share in (0.25, 0.8):
        chromium.click_at("#chart svg", left + share * (1 - left - right))
        at = chromium.run(f"return {film}.currentTime")
        assert at == pytest.approx(share * SECONDS, abs=2 * SECONDS / box)
        arrived(at)
    chromium.click("tbody tr:nth-of-type(3) a")
    arrived(float(chromium.run("return document.querySelectorAll('tbody a')[2].dataset.time")))

    strokes = chromium.run(
        "return [...document.querySelectorAll('polyline')].map((line) => getComputedStyle(line).stroke)"
    )
    assert len(set(strokes)) == 5
    assert "none" not in strokes
    assert chromium.run("return document.documentElement.scrollWidth <= innerWidth")
    assert chromium.run("return [...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    paper = chromium.run("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is not dark
    chromium.picture(tmp_path / "page.png")
    assert chromium.console() == []


def test_a_film_that_is_gone_is_told(chromium: Browser, page: Path) -> None:
    alone = page.parent.parent / "moved" / "far" / "timeline.html"
    alone.parent.mkdir(parents=True)
    alone.write_bytes(page.read_bytes())
    chromium.open(alone)
    chromium.wait("document.getElementById('unplayable').offsetHeight > 0", 10)
    chromium.console()  # the file that is not there
