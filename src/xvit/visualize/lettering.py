"""Text on pictures."""

from __future__ import annotations

from functools import cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Where Pillow's own font has no glyphs for a label, the first of these that the system has may.
_WIDE = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf", "arialuni.ttf", "Arial.ttf")


def font_for(text: str, size: int) -> Font:
    """A font of `size` pixels: Pillow's own for Western text, else one of the system's where it has any."""
    return _font(size, text.isascii() or all(ord(c) < 0x180 for c in text))


@cache
def _font(size: int, western: bool) -> Font:
    for name in () if western else _WIDE:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def shorten(text: str, font: Font, width: float) -> str:
    """The text on one line, cut with … where it is wider than `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
