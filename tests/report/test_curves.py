"""The picture of a run's curves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from xvit.report.curves import HEIGHT, LEFT, MARGIN, WIDTH, write_curves


def line_rows(picture: np.ndarray, panel: int, column: int) -> np.ndarray:
    """Rows of a panel whose pixel in `column` is the curve's colour."""
    part = picture[panel * HEIGHT : (panel + 1) * HEIGHT, column].astype(int)
    return np.flatnonzero((part[:, 2] - part[:, 0]) > 100)


def test_a_falling_loss_falls(tmp_path: Path) -> None:
    steps = [{"event": "step", "step": n, "loss": 2 - n / 10, "lr": 0.1} for n in range(1, 11)]
    lines = [*steps, {"event": "val", "step": 10, "top1": 0.5}, {"event": "end", "step": 10}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    picture = np.asarray(Image.open(write_curves(tmp_path)))
    assert picture.shape == (3 * HEIGHT, WIDTH, 3)
    width = WIDTH - MARGIN - LEFT
    early, late = (line_rows(picture, 0, LEFT + int(share * width)).mean() for share in (0.2, 0.8))
    assert late - early > 40
    flat = [line_rows(picture, 2, LEFT + int(share * width)).mean() for share in (0.2, 0.8)]
    assert abs(flat[0] - flat[1]) < 2
    assert line_rows(picture, 1, WIDTH - MARGIN).size  # a single validation is a dot


def test_a_run_without_steps_is_an_empty_picture(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("")
    assert write_curves(tmp_path).is_file()
