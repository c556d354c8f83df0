"""A short film to try the page with, rendered when it is asked for."""

from __future__ import annotations

import io

import numpy as np

from xvit.data.synth import PAIRS, render_scene, write_video

SIDE = 160  # pixels
SCENE_FRAMES = 8
SCENES = 4


def render_sample(seed: int) -> bytes:
    """An mp4 of shapes that move or change their size, one motion after the other."""
    rng = np.random.default_rng(seed)
    scenes = []
    for number in range(SCENES):
        frames = render_scene((seed + number) % len(PAIRS), SIDE, SCENE_FRAMES, rng)
        scenes.append(frames[::-1] if rng.random() < 0.5 else frames)
    file = io.BytesIO()
    write_video(file, np.concatenate(scenes))
    return file.getvalue()
