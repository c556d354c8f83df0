"""The page of an explanation in a real browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chromium import Browser
from xvit.visualize import Explanation, write


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 3, 56, 56), np.uint8)
    maps = np.zeros((8, 56, 56), np.float32)
    maps[3, 10:30, 10:30] = 1.0
    shares = np.array([0.02, 0.03, 0.1, 0.6, 0.1, 0.1, 0.03, 0.02], np.float32)
    found = Explanation(frames, maps, shares, "opening <a> door", 0.81, "gradient")
    target = tmp_path_factory.mktemp("why") / "why.html"
    write(found, target)
    return target


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1200, False)])
def test_frames_and_overlays_are_seen(
    chromium: Browser, page: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    chromium.console()
    chromium.open(page, width=width, dark=dark)
    chromium.wait("[...document.images].every((i) => i.complete)")
    widths = chromium.run("return [...document.images].map((i) => [i.naturalWidth, i.offsetWidth])")
    assert len(widths) == 1 + 2 * 8
    assert all(own > 0 and shown >= 100 for own, shown in widths)
    assert "opening <a> door" in chromium.run("return document.querySelector('h1').textContent")

    shown, says = "document.getElementById('shown')", "document.getElementById('says')"
    chromium.click("[data-frame='3']")
    chromium.wait(f"{says}.textContent.includes('4: 60.0 %')", 5)
    with_overlay = chromium.run(f"return {shown}.src")
    chromium.click("#overlay")
    chromium.wait(f"{shown}.src !== {with_overlay!r}", 5)
    chromium.click("#play")
    chromium.wait(f"!{says}.textContent.includes('4: 60.0 %')", 5)
    chromium.click("#play")
    assert chromium.run("return document.getElementById('play').textContent") == "play"
    assert chromium.run("return document.documentElement.scrollWidth <= innerWidth")
    chromium.picture(tmp_path / "page.png")
    assert chromium.console() == []
