"""Draws docs/attention.svg: what one query attends to under each scheme.

Run: python docs/draw_attention.py
"""

from pathlib import Path

FRAMES, SIDE, CELL, GAP = 5, 4, 13, 14
QUERY_FRAME, QUERY_ROW, QUERY_COLUMN = 2, 1, 2
OWN, BEFORE, AFTER, OFF, QUERY = "#3b82f6", "#f59e0b", "#10b981", "#e5e7eb", "#dc2626"
INK = "#6b7280"  # readable on white and on GitHub's dark page


def stripes(x: float, y: float, colours: list[str]) -> str:
    """One patch: its channels as vertical stripes, so that borrowed ones can be seen."""
    width = (CELL - 2) / len(colours)
    return "".join(
        f'<rect x="{x + i * width:.2f}" y="{y}" width="{width:.2f}" height="{CELL - 2}" fill="{colour}"/>'
        for i, colour in enumerate(colours)
    )


def patch_colours(scheme: str, frame: int, row: int, column: int) -> list[str]:
    """The colour of each stripe of a patch, as the query sees it."""
    if (frame, row, column) == (QUERY_FRAME, QUERY_ROW, QUERY_COLUMN):
        return [QUERY]
    if scheme == "joint":
        return [OWN]
    if scheme == "divided":
        return [OWN] if frame == QUERY_FRAME or (row, column) == (QUERY_ROW, QUERY_COLUMN) else [OFF]
    if scheme == "mixing" and frame == QUERY_FRAME:
        return [AFTER, BEFORE, OWN, OWN]
    if scheme == "mixing" and abs(frame - QUERY_FRAME) == 1:
        lent = AFTER if frame > QUERY_FRAME else BEFORE
        position = 0 if frame > QUERY_FRAME else 1
        return [lent if stripe == position else OFF for stripe in range(4)]
    return [OFF]


def panel(scheme: str, title: str, cost: str, top: float) -> str:
    """One row: a title, its cost, the frames."""
    parts = [
        f'<text x="0" y="{top + 24}" font-size="15" font-weight="600" fill="{INK}">{title}</text>',
        f'<text x="0" y="{top + 42}" font-size="12" fill="{INK}">{cost}</text>',
    ]
    for frame in range(FRAMES):
        left = 276 + frame * (SIDE * CELL + GAP)
        for row in range(SIDE):
            for column in range(SIDE):
                colours = patch_colours(scheme, frame, row, column)
                parts.append(stripes(left + column * CELL, top + row * CELL, colours))
    return "\n".join(parts)


def main() -> None:
    """Write the picture."""
    panels = [
        panel("joint", "Joint space-time", "every patch of every frame: O(T²·S²)", 30),
        panel("divided", "Divided space-time", "its frame and its place: O(T·S² + T²·S)", 110),
        panel("mixing", "Space-time mixing (XViT)", "its frame, with lent channels: O(T·S²)", 190),
    ]
    axis = "".join(
        f'<text x="{276 + frame * (SIDE * CELL + GAP) + SIDE * CELL / 2}" y="18" font-size="12" fill="{INK}" '
        f'text-anchor="middle">{label}</text>'
        for frame, label in enumerate(["t−2", "t−1", "t", "t+1", "t+2"])
    )
    names = {QUERY: "query", OWN: "attended", BEFORE: "lent by t−1", AFTER: "lent by t+1", OFF: "not seen"}
    key = "".join(
        f'<rect x="{i * 118}" y="262" width="11" height="11" fill="{colour}"/>'
        f'<text x="{i * 118 + 17}" y="272" font-size="12" fill="{INK}">{name}</text>'
        for i, (colour, name) in enumerate(names.items())
    )
    width = 276 + FRAMES * (SIDE * CELL + GAP)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -4 {width + 8} 288" width="{width + 8}" '
        'font-family="system-ui, sans-serif" role="img" '
        f'aria-label="What one patch attends to: joint, divided and mixing attention">\n{axis}\n'
        + "\n".join(panels)
        + f"\n{key}\n</svg>\n"
    )
    Path(__file__).with_name("attention.svg").write_text(svg, encoding="utf8")


if __name__ == "__main__":
    main()
