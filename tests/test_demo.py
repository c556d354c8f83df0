"""The demo from end to end, with fewer steps than the real one takes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from xvit.demo import DemoResult, run_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    threads = torch.get_num_threads()
    try:
        fewer = ("train.epochs=4", "train.lr=2e-3", "data.num_workers=0")
        return run_demo(tmp_path_factory.mktemp("demo") / "demo", overrides=fewer)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_demo_learns_and_shows_it(demo: DemoResult) -> None:
    assert demo.top1["XViT"] >= 0.7  # beyond what frames without order allow; the whole demo reaches 1
    assert demo.top1["time-blind control"] <= 0.55
    page = demo.report.read_text(encoding="utf8")
    for word in ("XViT", "time-blind control", *("down", "grow", "left", "right", "shrink", "up")):
        assert word in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


@pytest.mark.slow
def test_its_model_in_8_bits_answers_as_before(demo: DemoResult) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    folder = demo.report.parent
    command = ["export", str(folder / "xvit"), "--to", "onnx-int8", "--calibrate", str(folder / "videos")]
    command = [sys.executable, "-m", "xvit", *command, "-o", str(folder / "m8.onnx")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr  # the command refuses a file below 98 % agreement
    agreement, accuracy = found.stdout.splitlines()[:2]
    assert agreement.startswith("192 clips: top-1 agrees on ")
    assert float(agreement.split("agrees on ")[1].split(" %")[0]) >= 98
    model, file = (float(part.split()[-1]) for part in accuracy.split("top-1 ")[1].split(" %")[:2])
    assert accuracy.startswith("192 labelled: ")
    assert abs(model - file) <= 2
