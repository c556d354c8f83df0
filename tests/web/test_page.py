"""The page in a real browser: a clip, the curve, what the model looked at, the camera, errors."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from client import Client

from chromium import Browser

PLAYER = 'document.getElementById("player")'
BEST = 'document.querySelector("#best .name")'
DONE = 'document.getElementById("progress").hidden && !document.getElementById("when").hidden'


def shown(chromium: Browser, name: str) -> str:
    return chromium.run(f"return document.getElementById('{name}').innerText")


def test_a_clip_its_label_its_curve_and_why(chromium: Browser, service: Client, clips: Path) -> None:
    chromium.open(service.address)
    chromium.type("#file", str(clips / "film.mp4"))
    chromium.wait(DONE)
    labels = chromium.run("return [...document.querySelectorAll('#segments .label')].map(e => e.textContent)")
    assert labels == ["red", "<b>blue"]  # as text: a name is never HTML
    assert "32 frames of 48 × 48" in shown(chromium, "facts")
    bars = chromium.run("""return [...document.querySelectorAll("#best .track")].map(
      t => t.firstChild.getBoundingClientRect().width / t.getBoundingClientRect().width)""")
    assert len(bars) == 3
    assert bars[0] > 0.4 > bars[2]

    chromium.wait(f"{PLAYER}.readyState >= 2")
    click_chart = """const box = document.getElementById("chart").getBoundingClientRect();
    document.getElementById("chart").dispatchEvent(new PointerEvent("pointerdown",
      {clientX: box.left + 44 + 0.75 * (box.width - 58), clientY: box.top + 60, bubbles: true}));"""
    chromium.run(click_chart)
    chromium.wait(f"Math.abs({PLAYER}.currentTime - 3) < 0.1")
    assert "<b>blue" in chromium.run("return document.querySelector('#segments .now').textContent")
    chromium.click("#segments li:first-child button")
    chromium.wait(f"{PLAYER}.currentTime === 0")

    chromium.run("document.getElementById('chart').focus()")
    chromium.press("\ue010")  # End
    chromium.wait(f"{PLAYER}.currentTime > 3.8")
    spoken = chromium.run("return document.getElementById('chart').getAttribute('aria-valuetext')")
    assert spoken.startswith("4.0 seconds: <b>blue, ")

    chromium.click("#why")
    chromium.wait("document.querySelectorAll('#frames img').length === 8")
    assert chromium.console() == []


def test_keyboard_alone_takes_a_sample(chromium: Browser, service: Client) -> None:
    chromium.open(service.address)
    for _ in range(6):
        if chromium.run("return document.activeElement.id") == "sample":
            break
        chromium.press("\ue004")  # Tab
    chromium.press("\ue007")  # Enter
    chromium.wait(DONE)
    assert "sample.mp4: 32 frames of 160 × 160" in shown(chromium, "facts")
    assert chromium.console() == []


def test_a_video_is_dropped(chromium: Browser, service: Client) -> None:
    chromium.open(service.address)
    chromium.run("""return fetch("sample?seed=5").then((reply) => reply.blob()).then((film) => {
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File([film], "dropped.mp4", {type: "video/mp4"}));
      const drop = new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true});
      document.getElementById("drop").dispatchEvent(drop);
    })""")
    chromium.wait(DONE)
    assert shown(chromium, "facts").startswith("dropped.mp4: 32 frames")
    assert chromium.console() == []


def test_the_camera_records_a_clip(chromium: Browser, service: Client) -> None:
    chromium.open(service.address)
    chromium.click("#webcam")
    chromium.wait(DONE)
    assert shown(chromium, "facts").startswith("webcam.webm: ")


def test_a_broken_file_says_so(chromium: Browser, service: Client, clips: Path) -> None:
    chromium.open(service.address)
    chromium.type("#file", str(clips / "broken.mp4"))
    chromium.wait("!document.getElementById('error').hidden")
    assert shown(chromium, "error").startswith("broken.mp4: not a readable video")
    assert chromium.run("return document.getElementById('result').hidden")
    assert [line for line in chromium.console() if "422" not in line] == []
    chromium.type("#file", str(clips / "red.mp4"))  # and the next one is welcome
    chromium.wait(DONE)
    assert chromium.run(f"return {BEST}.textContent") == "red"
    assert chromium.run("return document.getElementById('error').hidden")


def test_downloads(chromium: Browser, service: Client, clips: Path, tmp_path: Path) -> None:
    chromium.open(service.address)
    chromium.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    chromium.type("#file", str(clips / "film.mp4"))
    chromium.wait(DONE)
    for button in ("#srt", "#json"):
        chromium.click(button)
        end, path = time.monotonic() + 20, tmp_path / f"film.{button[1:]}"
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.1)
    assert "-->" in (tmp_path / "film.srt").read_text()
    saved = json.loads((tmp_path / "film.json").read_text())
    assert saved["prediction"]["video"] == "film.mp4"
    assert [segment["label"] for segment in saved["timeline"]["segments"]] == ["red", "<b>blue"]


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_widths_and_colours(chromium: Browser, service: Client, clips: Path, width: int, dark: bool) -> None:
    for path in ("/", "/docs"):
        chromium.open(service.address + path, width=width, dark=dark)
        assert chromium.run("return document.documentElement.scrollWidth") <= width
        background = chromium.run("return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") != dark
    chromium.open(service.address, width=width, dark=dark)
    chromium.type("#file", str(clips / "film.mp4"))
    chromium.wait(DONE)
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    assert chromium.console() == []


def test_pages_load_nothing_from_elsewhere(chromium: Browser, service: Client) -> None:
    for path in ("/", "/docs"):
        chromium.open(service.address + path)
        loaded = chromium.run("return performance.getEntriesByType('resource').map(e => e.name)")
        assert loaded
        assert all(name.startswith((service.address, "data:")) for name in loaded)
        assert "default-src 'self'" in service.get(path).headers["content-security-policy"]
