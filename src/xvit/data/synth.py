"""The motion set: real mp4 files whose class only time can tell.

A scene is a bright textured shape on a dim textured background, rendered for one motion and played twice: as
rendered, and backwards. The two are different classes that consist of the very same frames, so an unordered
bag of frames can name the pair and never the direction: where a shape is or how large it is tells nothing,
when it is there tells all.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

# Each motion, and its twin: the same frames backwards.
PAIRS = (("right", "left"), ("down", "up"), ("grow", "shrink"))
FPS = 8
# Visually lossless. With a fixed quantiser and intra frames alone a decoded frame depends on nothing but the
# frame, so twins hold identical pictures and coding gives no hint about their order.
_X264 = {
    "qp": "10",
    "g": "1",
    "bf": "0",
    "preset": "veryfast",
    "x264-params": "threads=1:lookahead-threads=1",
}


def write_motion_set(
    root: str | Path,
    *,
    size: int = 32,
    num_frames: int = 8,
    train_per_class: int = 106,
    val_per_class: int = 32,
    seed: int = 0,
    workers: int = 2,
) -> None:
    """Write the set as class folders of mp4 files with `train.csv`, `val.csv` and `classes.txt`.

    `size` is the side in pixels; shapes cross the frame, at about 4 pixels a frame for 8 frames of 32. The
    same arguments give the same files, whatever the number of `workers`; train and val share no scene.
    """
    root = Path(root)
    classes = sorted(name for pair in PAIRS for name in pair)
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
    counts = {"train": train_per_class, "val": val_per_class}
    jobs = [(split, pair, i) for split, n in counts.items() for pair in range(len(PAIRS)) for i in range(n)]
    write = partial(_write_twins, root, size, num_frames, seed)
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            list(pool.map(write, jobs, chunksize=max(len(jobs) // (8 * workers), 1)))
    else:
        for job in jobs:
            write(job)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf8")
    for split, count in counts.items():
        rows = [f"{name}/{split}_{i:05}.mp4 {k}\n" for k, name in enumerate(classes) for i in range(count)]
        (root / f"{split}.csv").write_text("".join(rows), encoding="utf8")


def _write_twins(root: Path, size: int, num_frames: int, seed: int, job: tuple[str, int, int]) -> None:
    split, pair, number = job
    rng = np.random.default_rng([seed, {"train": 0, "val": 1}[split], pair, number])
    frames = render_scene(pair, size, num_frames, rng)
    forward, backward = PAIRS[pair]
    write_video(root / forward / f"{split}_{number:05}.mp4", frames)
    write_video(root / backward / f"{split}_{number:05}.mp4", frames[::-1])


def render_scene(pair: int, size: int, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (T, size, size, 3): one scene in the first motion of `PAIRS[pair]`."""
    unit = size / 32
    time = np.linspace(-0.5, 0.5, num_frames)  # 0 in the middle: forwards and backwards look alike
    centres = np.tile(rng.uniform(10, 22, 2) * unit, (num_frames, 1))  # (y, x)
    radii = np.full(num_frames, rng.uniform(5, 7) * unit)
    if pair < 2:
        centres[:, 1 - pair] = (rng.uniform(13, 19) + rng.uniform(24.5, 31.5) * time) * unit
    else:
        radii = (rng.uniform(7.5, 8.5) + rng.uniform(8, 11) * time) * unit
    background = 90 * _texture(size, rng) + rng.uniform(0, 50, 3)
    surface = 60 * _texture(size, rng) + rng.uniform(140, 195, 3)
    shape = rng.choice(["disc", "square", "diamond"])
    frames = []
    for centre, radius in zip(centres, radii, strict=True):
        mask = _mask(size, centre, radius, str(shape))[..., None]
        moved = np.roll(surface, np.round(centre).astype(int), axis=(0, 1))
        frames.append(mask * moved + (1 - mask) * background)
    return np.stack(frames).round().clip(0, 255).astype(np.uint8)


def _texture(size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3) smooth random values in 0 … 1 that repeat at the edges."""
    coarse = rng.random((8, 8, 3))
    at = np.arange(size) * 8 / size
    low = at.astype(int)
    part = at - low
    rows = coarse[low] * (1 - part)[:, None, None] + coarse[(low + 1) % 8] * part[:, None, None]
    return rows[:, low] * (1 - part)[:, None] + rows[:, (low + 1) % 8] * part[:, None]


def _mask(size: int, centre: np.ndarray, radius: float, shape: str) -> np.ndarray:
    """(size, size) coverage 0 … 1 of a shape around `centre`, with soft borders."""
    dy, dx = (np.abs(np.arange(size) - c) for c in centre)
    if shape == "disc":
        distance = np.hypot(dy[:, None], dx[None])
    elif shape == "square":
        distance = np.maximum(dy[:, None], dx[None]) * 1.1
    else:
        distance = (dy[:, None] + dx[None]) * 0.8
    return np.clip(radius - distance + 0.5, 0, 1)


def write_video(path: Path | BinaryIO, frames: np.ndarray) -> None:
    """Write uint8 (T, H, W, 3) RGB as H.264 in mp4, every frame coded alone."""
    with av.open(str(path) if isinstance(path, Path) else path, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=_X264)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")))
        container.mux(stream.encode())
