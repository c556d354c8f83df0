"""Where to crop: boxes for training clips, corners for views. Pure arithmetic on sizes."""

from __future__ import annotations

import math

import numpy as np

from xvit.config import AugmentConfig

Box = tuple[int, int, int, int]  # top, left, height, width

_SCALES = (1.0, 0.875, 0.75, 0.66)


def view_corners(height: int, width: int, size: int, num_crops: int) -> list[tuple[int, int]]:
    """(top, left) of crops spread along the long side; one crop is the centre."""
    room_y, room_x = height - size, width - size
    places = [0.5] if num_crops == 1 else [i / (num_crops - 1) for i in range(num_crops)]
    if room_x >= room_y:
        return [(math.ceil(room_y / 2), math.ceil(room_x * place)) for place in places]
    return [(math.ceil(room_y * place), math.ceil(room_x / 2)) for place in places]


def train_box(height: int, width: int, size: int, augment: AugmentConfig, rng: np.random.Generator) -> Box:
    """The part of the frames that becomes the size × size clip, as `augment.crop` says."""
    match augment.crop:
        case "random_resized":
            return random_resized_box(height, width, augment.scale, augment.ratio, rng)
        case "multi_scale":
            return multi_scale_box(height, width, rng)
        case "jitter":
            return jitter_box(height, width, size, augment.jitter_sides, rng)
        case "none":
            side = min(height, width)
            return (height - side) // 2, (width - side) // 2, side, side


def random_resized_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """A random share of the area at a random aspect ratio; after ten draws the largest centred box."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return _placed(height, width, h, w, rng)
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def multi_scale_box(height: int, width: int, rng: np.random.Generator) -> Box:
    """The released Kinetics recipe: sides of 1, .875, .75 or .66 of the short side, at most one step apart,
    at one of 13 places of a five by five grid: corners, edge centres, centre, and half-way to the corners.
    """
    sides = [int(min(height, width) * scale) for scale in _SCALES]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    h, w = pairs[rng.integers(len(pairs))]
    places = [(y, x) for y in range(5) for x in range(5) if y % 2 == x % 2]
    y, x = places[rng.integers(len(places))]
    return (height - h) // 4 * y, (width - w) // 4 * x, h, w


def jitter_box(height: int, width: int, size: int, sides: tuple[int, int], rng: np.random.Generator) -> Box:
    """The released SSv2 recipe: short side to a random length, then a random size × size crop of that."""
    side = round(rng.uniform(sides[0], sides[1]))
    length = min(round(size * min(height, width) / side), height, width)
    return _placed(height, width, length, length, rng)


def erase_box(height: int, width: int, rng: np.random.Generator) -> Box:
    """The box that random erasing fills: 2 % to a third of the area, aspect ratio 0.3 to 3.3."""
    area = height * width * rng.uniform(0.02, 1 / 3)
    aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
    h = min(round(math.sqrt(area * aspect)), height)
    w = min(round(math.sqrt(area / aspect)), width)
    return _placed(height, width, h, w, rng)


def _placed(height: int, width: int, h: int, w: int, rng: np.random.Generator) -> Box:
    return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
