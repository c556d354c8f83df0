"""A real browser for the tests of pages, over the WebDriver protocol; skips where there is none."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",  # a camera that shows a test picture,
    "--use-fake-ui-for-media-stream",  # and a user who lets pages have it
]


class Browser:
    """A page in headless Chromium."""

    def __init__(self, base: str) -> None:
        self.base = base

    def call(self, command: str, **body: Any) -> Any:
        request = urllib.request.Request(
            self.base + command, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as reply:
            return json.load(reply)["value"]

    def open(self, page: Path | str, *, width: int = 1200, dark: bool = False) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.cdp("Emulation.setEmulatedMedia", features=features)
        self.cdp(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        self.call("/url", url=page if isinstance(page, str) else page.as_uri())

    def cdp(self, command: str, **params: Any) -> Any:
        return self.call("/goog/cdp/execute", cmd=command, params=params)

    def run(self, script: str) -> Any:
        """The value of a function body."""
        return self.call("/execute/sync", script=script, args=[])

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"after {seconds} s still not: {condition}"
            time.sleep(0.05)

    def element(self, selector: str) -> str:
        """The command path of an element."""
        found = self.call("/element", using="css selector", value=selector)
        return f"/element/{next(iter(found.values()))}"

    def click(self, selector: str) -> None:
        self.call(self.element(selector) + "/click")

    def click_at(self, selector: str, across: float) -> None:
        """At half the height of an element, `across` of its width from its left."""
        self.run(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = self.run(f"return document.querySelector({selector!r}).getBoundingClientRect().toJSON()")
        x, y = round(box["x"] + across * box["width"]), round(box["y"] + box["height"] / 2)
        steps = [
            {"type": "pointerMove", "duration": 0, "x": x, "y": y},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        self.call("/actions", actions=[{"type": "pointer", "id": "mouse", "actions": steps}])

    def type(self, selector: str, text: str) -> None:
        """Into a field; into a file input the path of a file."""
        self.call(self.element(selector) + "/value", text=text)

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        shot = self.cdp("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def press(self, *keys: str) -> None:
        presses = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("/actions", actions=[{"type": "key", "id": "keyboard", "actions": presses}])

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.call("/se/log", type="browser")]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    driver = shutil.which("chromedriver")
    if driver is None or not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("needs chromium and chromedriver")
    profile = tmp_path_factory.mktemp("profile")
    with subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = next(
                m[1] for line in process.stdout if (m := re.search(r"successfully on port (\d+)", line))
            )
            chrome = {"args": [*OPTIONS, f"--user-data-dir={profile}"]}
            wanted = {"goog:chromeOptions": chrome, "goog:loggingPrefs": {"browser": "ALL"}}
            browser = Browser(f"http://127.0.0.1:{port}/session")
            session = browser.call("", capabilities={"alwaysMatch": wanted})["sessionId"]
            browser.base += f"/{session}"
            yield browser
            request = urllib.request.Request(browser.base, method="DELETE")
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60).close()
        finally:
            process.terminate()
