"""300 damaged files in a child process: every one is read or refused in time, and the child lives."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from xvit.data.synth import render_scene, write_video

MUTANTS = 300
SECONDS = 120  # for all of them; a healthy run takes a few

CHILD = """
import sys
from pathlib import Path
from xvit.data import open_video
from xvit.errors import VideoReadError

for path in sorted(Path(sys.argv[1]).iterdir()):
    for partial in (False, True):
        try:
            with open_video(path, partial=partial) as video:
                count = min(video.info.num_frames, 64)
                assert video.read(range(count)).shape[0] == count
                outcome = f"read {count}"
        except VideoReadError as err:
            assert err.reason
            outcome = "refused"
        print(path.name, partial, outcome, flush=True)
"""


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Bytes flipped, a piece cut out, doubled or zeroed, or the end lost."""
    damaged = bytearray(data)
    start = draw.randrange(len(data))
    length = draw.randrange(1, max(len(data) // 8, 2))
    match draw.randrange(5):
        case 0:
            for _ in range(draw.randrange(1, 40)):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        case 1:
            del damaged[start : start + length]
        case 2:
            damaged[start:start] = damaged[start : start + length]
        case 3:
            damaged[start : start + length] = bytes(len(damaged[start : start + length]))
        case 4:
            del damaged[start:]
    return bytes(damaged)


def sources(folder: Path) -> list[Path]:
    import numpy as np

    folder.mkdir()
    frames = render_scene(0, 32, 24, np.random.default_rng(0))
    paths = [folder / f"a{suffix}" for suffix in (".mp4", ".mkv", ".avi", ".ts")]
    for path in paths:
        write_video(path, frames)
    return paths


@pytest.mark.slow
def test_mutated_files(tmp_path: Path) -> None:
    draw = random.Random(0)
    whole = sources(tmp_path / "whole")
    (tmp_path / "mutants").mkdir()
    for i in range(MUTANTS):
        source = whole[i % len(whole)]
        (tmp_path / "mutants" / f"{i:03}{source.suffix}").write_bytes(mutate(source.read_bytes(), draw))
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "mutants")],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    lines = child.stdout.splitlines()
    assert child.returncode == 0, (lines[-1:], child.stderr[-2000:])
    assert len(lines) == 2 * MUTANTS
    outcomes = {line.rpartition(" ")[0].split()[-1] for line in lines}
    assert "refused" in child.stdout
    assert "read" in outcomes
