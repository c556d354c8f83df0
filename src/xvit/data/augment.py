"""AutoAugment and RandAugment on whole clips: one draw, the same operation on every frame.

Levels run from 0 to 10. Geometry fills with grey 128.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

_GREY = [128.0]


def _affine(
    frames: torch.Tensor,
    *,
    angle: float = 0,
    shift: float = 0,
    shift_y: float = 0,
    shear: tuple[float, float],
) -> torch.Tensor:
    height, width = frames.shape[-2:]
    offset = [round(shift * width), round(shift_y * height)]
    degrees = [math.degrees(math.atan(s)) for s in shear]
    return F.affine(frames, angle, offset, 1.0, degrees, InterpolationMode.BILINEAR, fill=_GREY)


def _solarize_add(frames: torch.Tensor, amount: int) -> torch.Tensor:
    brighter = frames.to(torch.int16).add_(amount).clamp_(max=255).to(torch.uint8)
    return torch.where(frames < 128, brighter, frames)


# Each takes (frames, level, sign): sign is ±1 and turns what has a direction.
OPERATIONS: dict[str, Callable[[torch.Tensor, float, int], torch.Tensor]] = {
    "AutoContrast": lambda x, level, sign: F.autocontrast(x),
    "Equalize": lambda x, level, sign: F.equalize(x),
    "Invert": lambda x, level, sign: F.invert(x),
    "Rotate": lambda x, level, sign: _affine(x, angle=-sign * 3 * level, shear=(0, 0)),
    "ShearX": lambda x, level, sign: _affine(x, shear=(sign * 0.03 * level, 0)),
    "ShearY": lambda x, level, sign: _affine(x, shear=(0, sign * 0.03 * level)),
    "TranslateX": lambda x, level, sign: _affine(x, shift=sign * 0.045 * level, shear=(0, 0)),
    "TranslateY": lambda x, level, sign: _affine(x, shift_y=sign * 0.045 * level, shear=(0, 0)),
    "Color": lambda x, level, sign: F.adjust_saturation(x, 0.1 + 0.18 * level),
    "Contrast": lambda x, level, sign: F.adjust_contrast(x, 0.1 + 0.18 * level),
    "Brightness": lambda x, level, sign: F.adjust_brightness(x, 0.1 + 0.18 * level),
    "Sharpness": lambda x, level, sign: F.adjust_sharpness(x, 0.1 + 0.18 * level),
    # Levels under 2.5 would keep no bit at all, a black clip; one bit is the least kept here.
    "Posterize": lambda x, level, sign: F.posterize(x, max(int(0.4 * level), 1)),
    "Solarize": lambda x, level, sign: F.solarize(x, min(int(25.6 * level), 255)),
    "SolarizeAdd": lambda x, level, sign: _solarize_add(x, int(11 * level)),
}

# Policy v0: pairs of (operation, probability, level), one pair a clip.
AUTOAUGMENT_V0 = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateY", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)


def autoaugment(frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """uint8 (T, C, H, W) through one random pair of policy v0."""
    for name, probability, level in AUTOAUGMENT_V0[rng.integers(len(AUTOAUGMENT_V0))]:
        if rng.random() < probability:
            frames = OPERATIONS[name](frames, level, _sign(rng))
    return frames


def randaugment(frames: torch.Tensor, rng: np.random.Generator, *, ops: int, magnitude: int) -> torch.Tensor:
    """uint8 (T, C, H, W) through `ops` random operations at `magnitude` of 30."""
    names = list(OPERATIONS)
    for _ in range(ops):
        frames = OPERATIONS[names[rng.integers(len(names))]](frames, magnitude / 3, _sign(rng))
    return frames


def color_jitter(frames: torch.Tensor, rng: np.random.Generator, strength: float) -> torch.Tensor:
    """Brightness, contrast and saturation, each times a factor in 1 ± strength, in random order."""
    changes = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)
    for i in rng.permutation(len(changes)):
        frames = changes[i](frames, rng.uniform(max(1 - strength, 0), 1 + strength))
    return frames


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1
