"""What do extreme films cost `xvit predict` and `xvit timeline` in memory?

    python benchmarks/extremes.py [--only hour 8k …] [--keep FOLDER] [--pyav]

Makes the films (an hour, 7680×4320, 240 frames a second, a single frame, none, a name in other scripts), runs
both commands over each in a process of its own, and prints the peak of its resident memory, over that of an
ordinary clip, and the seconds it took. The model is ViT-Tiny over 8 frames of 224 pixels, one thread.
--pyav: without TorchCodec, where that is installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

MODEL = """
import sys, xvit
from xvit.models import save_model
model = xvit.create_model("vit_tiny_patch16_224", num_classes=10, num_frames=8)
save_model(model, sys.argv[1])
"""


WITHOUT_TORCHCODEC = "import sys; sys.modules['torchcodec'] = None; from xvit.cli import main; main()"


class Film(NamedTuple):
    """What is made: `frames` at `rate`, 0 for an empty file."""

    name: str
    frames: int
    rate: int = 25
    width: int = 320
    height: int = 180
    codec: str = "mpeg4"


FILMS = {
    "ordinary": Film("ordinary.mp4", 250),
    "hour": Film("hour.mp4", 90_000),
    "1080p": Film("1080p.mp4", 250, 25, 1920, 1080, "libx264"),
    "8k": Film("8k.mp4", 24, 25, 7680, 4320),
    "8k-h264": Film("8k_h264.mp4", 24, 25, 7680, 4320, "libx264"),
    "240fps": Film("fast.mp4", 2400, 240),
    "one": Film("one_frame.mp4", 1),
    "none": Film("zero_bytes.mp4", 0),
    "name": Film("ein Film – 影片 🎬 «видео».mp4", 250),
}


def write_film(film: Film, path: Path) -> None:
    """A texture that moves sideways: cheap to make, but not to be coded as nothing."""
    if not film.frames:
        path.touch()
        return
    rng = np.random.default_rng(0)
    coarse = rng.integers(16, 236, (film.height // 20 + 1, film.width // 10 + 1), np.uint8)
    texture = coarse.repeat(20, 0).repeat(20, 1)[: film.height]
    with av.open(str(path), "w") as out:
        options = {"preset": "ultrafast"} if film.codec == "libx264" else {}
        stream = out.add_stream(film.codec, rate=film.rate, options=options)
        stream.width, stream.height, stream.pix_fmt = film.width, film.height, "yuv420p"
        stream.bit_rate = 4 * film.width * film.height
        chroma = np.full((film.height // 2, film.width), 128, np.uint8)
        for number in range(film.frames):
            start = number % film.width
            planes = np.concatenate([texture[:, start : start + film.width], chroma])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), "yuv420p")))
        out.mux(stream.encode())


def run(*arguments: object, pyav: bool) -> tuple[int, float, float]:
    """Exit code, peak of resident memory in MB, and seconds of `xvit …` in a process of its own."""
    started = time.perf_counter()
    program = ["-c", WITHOUT_TORCHCODEC] if pyav else ["-m", "xvit"]
    process = subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        print(f"    {said.strip().splitlines()[-1]}")
    return code, usage.ru_maxrss / 1000, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=FILMS, default=list(FILMS))
    parser.add_argument("--keep", type=Path, help="folder of the films, kept")
    parser.add_argument("--pyav", action="store_true", help="without TorchCodec")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-c", MODEL, str(folder / "model")], check=True)
        usual: dict[str, float] = {}
        for key in dict.fromkeys(["ordinary", *args.only]):
            path = folder / FILMS[key].name
            if not path.exists():
                write_film(FILMS[key], path)
            for command in ("predict", "timeline"):
                more = ["--window", "60"] if (key, command) == ("hour", "timeline") else []
                code, megabytes, seconds = run(command, folder / "model", path, *more, pyav=args.pyav)
                over = megabytes - usual.setdefault(command, megabytes)
                told = (
                    f"{key:10} {command:9} exit {code}  {megabytes:6.0f} MB  {over:+6.0f}  {seconds:6.1f} s"
                )
                print(told, flush=True)


if __name__ == "__main__":
    main()
