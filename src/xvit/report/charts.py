"""Line charts as inline SVG; colours are the page's, by class."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 40


@dataclass(frozen=True)
class Series:
    """A named line through (x, y) points, in order of x; `marks` draws the points as well.

    `bounds`: the lowest and highest y of every point, shaded behind the line.
    """

    name: str
    points: Sequence[tuple[float, float]]
    marks: bool = False
    bounds: Sequence[tuple[float, float]] = ()
    style: int | None = None  # which of the page's line styles; None is the place in the chart


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    percent: bool = False,
    whole_x: bool = False,
) -> Markup:
    """An <svg> of the series on common axes. `label` says in a sentence what is seen (for screen readers).

    `percent`: y is a share. `whole_x`: x counts something, so that only whole numbers are marked.
    """
    points = [point for line in series for point in line.points if all(map(math.isfinite, point))]
    if not points:
        return Markup("<p class=quiet>Nothing was recorded.</p>")
    x_low, x_high = x_range or _span([x for x, _ in points])
    y_low, y_high = y_range or _span([y for _, y in points] + [0.0])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [Markup('<svg class="chart" viewBox="0 0 {} {}" role="img">').format(WIDTH, HEIGHT)]
    parts.append(Markup("<title>{}</title>").format(label))
    parts += _grid(place, (x_low, x_high), (y_low, y_high), percent, 1.0 if whole_x else 0.0)
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(Markup('<text class="axis" x="{}" y="{}">{}</text>').format(middle, HEIGHT - 4, x_label))
    parts.append(
        Markup('<text class="axis" transform="translate(11 {}) rotate(-90)">{}</text>').format(
            (TOP + HEIGHT - BOTTOM) / 2, y_label
        )
    )
    for number, line in enumerate(series):
        parts += _line(line, number if line.style is None else line.style, place)
    return Markup("").join([*parts, Markup("</svg>")])


def legend(names: Sequence[str]) -> Markup:
    """The names of line styles 0, 1, … as a list."""
    swatch = '<svg viewBox="0 0 28 8" aria-hidden="true"><path class="line s{}" d="M0 4H28"/></svg>'
    items = (Markup("<li>" + swatch + "{}</li>").format(i, name) for i, name in enumerate(names))
    return Markup('<ul class="legend">') + Markup("").join(items) + Markup("</ul>")


def smooth(points: Sequence[tuple[float, float]], keep: int = 120) -> list[tuple[float, float]]:
    """At most `keep` points, each the mean of its stretch."""
    size = max(1, math.ceil(len(points) / keep))
    stretches = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in s) / len(s), sum(y for _, y in s) / len(s)) for s in stretches]


def _line(line: Series, style: int, place: Callable[[float, float], tuple[float, float]]) -> list[Markup]:
    spots = [place(*point) for point in line.points if all(map(math.isfinite, point))]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    polyline = Markup('<polyline class="line s{}" points="{}"><title>{}</title></polyline>')
    drawn = [*_band(line, style, place), polyline.format(style, path, line.name)]
    if line.marks:
        circle = Markup('<circle class="mark s{}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>')
        drawn += [
            circle.format(style, x, y, f"{line.name}: {point[0]:g}, {point[1]:.4g}")
            for (x, y), point in zip(spots, line.points, strict=True)
        ]
    return drawn


def _band(line: Series, style: int, place: Callable[[float, float], tuple[float, float]]) -> list[Markup]:
    if not line.bounds:
        return []
    ends = zip(line.points, line.bounds, strict=True)
    lows, highs = zip(*((place(x, low), place(x, high)) for (x, _), (low, high) in ends), strict=True)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (*lows, *reversed(highs)))
    return [Markup('<polygon class="band s{}" points="{}"/>').format(style, path)]


def _grid(
    place: Callable[[float, float], tuple[float, float]],
    x_span: tuple[float, float],
    y_span: tuple[float, float],
    percent: bool,
    least_x_step: float,
) -> list[Markup]:
    parts = []
    for tick in _ticks(*y_span):
        x, y = place(x_span[0], tick)
        text = f"{100 * tick:g} %" if percent else f"{tick:g}"
        parts.append(Markup(f'<path class="grid" d="M{x:.1f} {y:.1f}H{WIDTH - RIGHT}"/>'))
        parts.append(Markup(f'<text class="tick end" x="{x - 6:.1f}" y="{y + 4:.1f}">{escape(text)}</text>'))
    for tick in _ticks(*x_span, least_step=least_x_step):
        x, y = place(tick, y_span[0])
        parts.append(Markup(f'<text class="tick" x="{x:.1f}" y="{y + 16:.1f}">{tick:g}</text>'))
    return parts


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float, about: int = 5, least_step: float = 0.0) -> list[float]:
    """Round numbers between low and high, roughly `about` of them, no closer than `least_step`."""
    rough = max((high - low) / about, least_step)
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]
