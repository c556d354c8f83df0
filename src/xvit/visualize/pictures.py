"""An explanation as a picture, a film and a page."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from xvit.report.page import data_uri, render
from xvit.visualize.explanation import Explanation
from xvit.visualize.lettering import font_for, shorten

_COLUMNS = 8  # of frames in a picture
_CELL = 176  # pixels, the side of a frame in a picture
_GAP = 8
_FILM_SIDE = 448  # pixels; smaller frames are enlarged to about it
_FILM_RATE = 4  # frames a second, slow enough to look at each
_HEAT = np.array([[255, 214, 0], [255, 120, 0], [214, 0, 38]], np.float32)  # from weak to strong
_INK, _FAINT, _MARK = (32, 32, 32), (216, 216, 216), (214, 0, 38)
_TITLES = {"gradient": "what speaks for it (integrated gradients)", "rollout": "attention rollout"}


def blend(found: Explanation, strength: float = 0.75) -> NDArray[np.uint8]:
    """The frames with their maps on them, uint8 (T, C, H, W): yellow to red where the map is high.

    strength: how much of a pixel the colour covers where the map is 1.
    """
    maps = found.maps[..., None]
    at = np.clip(found.maps, 0, 1) * (len(_HEAT) - 1)
    low = np.minimum(at.astype(int), len(_HEAT) - 2)
    part = (at - low)[..., None]
    colours = _HEAT[low] * (1 - part) + _HEAT[low + 1] * part
    grey = np.moveaxis(found.frames, 1, -1).astype(np.float32)
    mixed = grey + strength * maps * (colours - grey)
    return np.ascontiguousarray(np.moveaxis(mixed.round().clip(0, 255).astype(np.uint8), -1, 1))


def write(found: Explanation, path: str | Path) -> None:
    """Write a picture, a film or a page, by its ending: .png, .mp4 or .html. Raises KeyError for others."""
    WRITERS[Path(path).suffix.lower()](found, path)


def write_png(found: Explanation, path: str | Path) -> None:
    """One picture: the frames, below each its overlay and its share of the decision."""
    frames, overlays = _images(found.frames, _CELL), _images(blend(found), _CELL)
    columns = min(_COLUMNS, len(frames))
    rows = -(-len(frames) // columns)
    top, step = 56, 2 * _CELL + 48
    picture = Image.new("RGB", (columns * (_CELL + _GAP) + _GAP, top + rows * step), "white")
    draw = ImageDraw.Draw(picture)
    _caption(draw, found, (_GAP, 6), picture.width - 2 * _GAP)
    for t, share in enumerate(found.shares):
        x, y = _GAP + t % columns * (_CELL + _GAP), top + t // columns * step
        picture.paste(frames[t], (x, y))
        picture.paste(overlays[t], (x, y + _CELL + 2))
        y += 2 * _CELL + 6
        draw.rectangle((x, y, x + _CELL - 1, y + 7), _FAINT)
        draw.rectangle((x, y, x + max(round(_CELL * share / found.shares.max()), 1) - 1, y + 7), _MARK)
        text = f"{t + 1}: {100 * share:.1f} %"
        draw.text((x, y + 10), text, _INK, font_for(text, 16))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "png")


def write_mp4(found: Explanation, path: str | Path) -> None:
    """A film of the overlays, four frames a second; bars below show the frames' shares of the decision."""
    side = max(_FILM_SIDE, found.frames.shape[-1]) // 2 * 2
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=_FILM_RATE, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = side, side + 128, "yuv420p"
        for t, image in enumerate(_images(blend(found), side)):
            picture = Image.new("RGB", (side, side + 128), "white")
            picture.paste(image, (0, 56))
            draw = ImageDraw.Draw(picture)
            _caption(draw, found, (_GAP, 6), side - 2 * _GAP)
            _bars(draw, found.shares, t, (_GAP, side + 62, side - _GAP, side + 122))
            out.mux(stream.encode(av.VideoFrame.from_image(picture)))
        out.mux(stream.encode())


def write_html(found: Explanation, path: str | Path) -> None:
    """A page that opens offline: the overlay plays or is stepped through, every frame with its share."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    images = [
        {
            "frame": data_uri(frame, _FILM_SIDE),
            "overlay": data_uri(overlay, _FILM_SIDE),
            "share": float(share),
        }
        for frame, overlay, share in zip(found.frames, blend(found), found.shares, strict=True)
    ]
    render(
        "explanation.html",
        path,
        title=f"Why: {found.label}",
        label=found.label,
        score=found.score,
        method=_TITLES[found.method],
        images=images,
        largest=float(found.shares.max()),
    )


WRITERS = {".png": write_png, ".mp4": write_mp4, ".html": write_html}


def _images(frames: NDArray[np.uint8], side: int) -> list[Image.Image]:
    return [
        Image.fromarray(np.ascontiguousarray(np.moveaxis(frame, 0, -1))).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        for frame in frames
    ]


def _caption(draw: ImageDraw.ImageDraw, found: Explanation, place: tuple[int, int], width: int) -> None:
    x, y = place
    font = font_for(found.label, 22)
    score = f"  {100 * found.score:.1f} %"
    label = shorten(found.label, font, width - font.getlength(score))
    draw.text((x, y), label + score, _INK, font)
    method = _TITLES[found.method]
    small = font_for(method, 15)
    draw.text((x, y + 27), shorten(method, small, width), (110, 110, 110), small)


def _bars(
    draw: ImageDraw.ImageDraw, shares: NDArray[np.float32], now: int, box: tuple[int, int, int, int]
) -> None:
    """One bar a frame, the one shown now in the mark's colour."""
    left, top, right, bottom = box
    width = (right - left) / len(shares)
    for t, share in enumerate(shares):
        x = left + t * width
        height = max(round((bottom - top) * share / shares.max()), 1)
        colour = _MARK if t == now else (150, 150, 150)
        draw.rectangle((x, bottom - height, max(x + width - 2, x), bottom), colour)
