"""A run's curves as one picture: `curves.png` in its folder."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from xvit.engine.runlog import read_log
from xvit.report.charts import smooth

WIDTH, HEIGHT, MARGIN, LEFT = 900, 260, 36, 80  # of a panel, in pixels
INK, GRID, LINE = "#333333", "#dddddd", "#1f6fb2"
PANELS = (
    ("step", "loss", "training loss"),
    ("val", "top1", "validation top-1"),
    ("step", "lr", "learning rate"),
)

Points = Sequence[tuple[float, float]]


def write_curves(run: Path) -> Path:
    """Draw loss, validation top-1 and learning rate over steps from the run's log; returns the picture."""
    events = read_log(run)
    picture = Image.new("RGB", (WIDTH, HEIGHT * len(PANELS)), "white")
    draw = ImageDraw.Draw(picture)
    last = max((event.get("step", 0) for event in events), default=0)
    for number, (kind, value, title) in enumerate(PANELS):
        found = [(e["step"], e[value]) for e in events if e["event"] == kind and e.get(value) is not None]
        points = [(float(x), float(y)) for x, y in found]
        _panel(draw, number * HEIGHT, title, points if kind == "val" else smooth(points), last)
    path = run / "curves.png"
    picture.save(path)
    return path


def conclude(run: Path, command: Sequence[str]) -> None:
    """Draw the curves and tell where everything is; `command` began the run and would go on with it."""
    write_curves(run)
    found = json.loads((run / "metrics.json").read_text(encoding="utf8"))
    for path, reason in found["unreadable"].items():
        print(f"not read: {path}: {reason}")
    if found.get("nonfinite"):
        print(f"skipped: {found['nonfinite']} steps whose loss was not finite (train.max_nonfinite)")
    if not found["stopped"] and found["step"] < found["steps"]:
        print(f"ended at step {found['step']} of {found['steps']}: nothing got better (train.patience)")
    if not found["stopped"]:
        print(f"saved {run}; next: xvit eval {run} --views 3x1")
        return
    words = [word for word in command if word.strip() and not word.startswith("train.resume=")]
    launched = " (launched as before)" if "RANK" in os.environ else ""
    print(f"stopped at step {found['step']} of {found['steps']}, saved {run}; resume with{launched}")
    print(f"  {shlex.join([*words, 'train.resume=auto'])}")


def _panel(draw: ImageDraw.ImageDraw, top: int, title: str, points: Points, last: float) -> None:
    """One curve with its title and the values at the ends of its axes."""
    font = ImageFont.load_default(14)
    upper, lower, right = top + MARGIN, top + HEIGHT - MARGIN, WIDTH - MARGIN
    draw.text((LEFT, top + 10), title, fill=INK, font=font)
    draw.rectangle((LEFT, upper, right, lower), outline=GRID)
    draw.text((LEFT, lower + 6), "0", fill=INK, font=font)
    draw.text((right, lower + 6), f"{last:g} steps", fill=INK, font=font, anchor="ra")
    if not points:
        return
    highest = max(y for _, y in points) or 1.0
    draw.text((LEFT - 8, upper), f"{highest:.3g}", fill=INK, font=font, anchor="ra")
    draw.text((LEFT - 8, lower), "0", fill=INK, font=font, anchor="rs")
    places = [
        (LEFT + x / max(last, 1) * (right - LEFT), lower - y / highest * (lower - upper)) for x, y in points
    ]
    draw.line(places, fill=LINE, width=2, joint="curve")
    x, y = places[-1]
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=LINE)
    draw.text((x - 6, max(y - 22, upper + 2)), f"{points[-1][1]:.3g}", fill=LINE, font=font, anchor="ra")
