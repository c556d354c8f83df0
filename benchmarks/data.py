"""How fast do videos become batches, and does memory stay flat?

    python benchmarks/data.py [--videos FOLDER]

Each question alternates the two ways in one run and reports medians and ratios, by the clock and in processor
time, which other work disturbs less. Videos are drawn, 256 frames of drifting noise at 340×256; `--videos`
takes a folder of real ones instead.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from released_order import OneByOne
from rounds import alternate, processes, report
from torch.utils.data import DataLoader

from xvit.config import AugmentConfig, ClipConfig
from xvit.data import Manifest, VideoDataset, make_loader, open_video
from xvit.data.pack import PackSettings, pack
from xvit.types import VideoRecord

VIEWS = (3, 2)
CLIP = ClipConfig(num_frames=16, size=224, sampling="dense", frame_stride=4)


def drain(loader: DataLoader, videos: int) -> int:
    for _ in loader:
        pass
    return videos


def packed_views(records: list[VideoRecord], workers: int) -> None:
    ours = VideoDataset(Manifest(records, ((),)), CLIP, views=VIEWS)
    ours_loader = make_loader(ours, batch_size=1, shuffle=False, num_workers=workers)
    theirs_loader = DataLoader(
        OneByOne(records, CLIP, VIEWS), batch_size=6, num_workers=workers, persistent_workers=workers > 0
    )
    rates = alternate(
        {
            "all views from one decoding": lambda: drain(ours_loader, len(records)),
            "each view on its own (Pillow, float)": lambda: drain(theirs_loader, len(records)),
        }
    )
    report(f"3 crops × 2 clips of 16 frames from packed videos, {workers} workers", "video", rates)


def packed_training(records: list[VideoRecord], workers: int) -> None:
    ours = VideoDataset(Manifest(records, ((),)), CLIP, augment=AugmentConfig())
    ours_loader = make_loader(ours, batch_size=4, shuffle=True, num_workers=workers)
    theirs_loader = DataLoader(
        OneByOne(records, CLIP), batch_size=4, num_workers=workers, persistent_workers=workers > 0
    )
    rates = alternate(
        {
            "ours": lambda: drain(ours_loader, len(records)),
            "Pillow, float": lambda: drain(theirs_loader, len(records)),
        }
    )
    report(f"training clips of 16 frames from packed videos, {workers} workers", "clip", rates)


def sparse_read(path: Path) -> None:
    """16 of 256 frames over the whole video: what more than bare decoding does reading cost?"""
    numbers = np.linspace(0, 255, 16).astype(int).tolist()

    def ours() -> int:
        with open_video(path) as video:
            assert len(video.read(numbers)) == 16
        return 1

    def decoder_alone() -> int:
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "AUTO"
            for count, _ in enumerate(container.decode(video=0)):
                if count == 255:
                    break
        return 1

    report(
        "16 of 256 frames from an mp4",
        "video",
        alternate({"open_video().read": ours, "decoder alone": decoder_alone}),
    )


def memory(records: list[VideoRecord]) -> None:
    """Resident memory of all processes after each of ten epochs with two workers."""
    dataset = VideoDataset(Manifest(records, ((),)), CLIP, augment=AugmentConfig())
    loader = make_loader(dataset, batch_size=2, shuffle=True, num_workers=2)
    after = []
    for epoch in range(10):
        dataset.set_epoch(epoch)
        drain(loader, 0)
        after.append(resident_megabytes())
    print("memory after each epoch, 2 workers, MB:", " ".join(f"{mb:.0f}" for mb in after))


def resident_megabytes() -> float:
    """Proportional set size of this process and its children."""
    total = 0
    for pid in processes():
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def long_list(folder: Path, lines: int = 1_000_000) -> None:
    """Time and peak memory of loading a manifest, in a process of its own."""
    import subprocess
    import sys

    rows = (f"class_{i % 400:03}/video_{i:09}_000010_000020.mp4 {i % 400}\n" for i in range(lines))
    (folder / "train.csv").write_text("".join(rows))
    code = (
        "import resource, sys, time; import xvit.data; from xvit.config import DataConfig;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024;"
        "before, start = peak(), time.time();"
        "m = xvit.data.load_manifest(DataConfig(root=sys.argv[1]), 'train');"
        "print(f'manifest of {len(m.records):,} lines: {time.time() - start:.1f} s,',"
        "f'{peak() - before:.0f} MB more at the peak')"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


def draw_video(path: Path, seed: int, num_frames: int = 256) -> None:
    """340×256 H.264 of drifting noise over a still picture, about as hard to decode as a real clip."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (32, 43, 3), np.uint8)
    base = np.array(Image.fromarray(small).resize((344, 256), Image.Resampling.BICUBIC))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "23", "g": "96", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
        for i in range(num_frames):
            frame = np.roll(base, (i, 2 * i), (0, 1))[:, :340].astype(np.int16)
            frame = (frame + rng.integers(-6, 7, frame.shape)).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=Path, help="folder of real videos instead of drawn ones")
    parser.add_argument("--count", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.videos:
            files = sorted(p for p in arguments.videos.rglob("*") if p.suffix in {".mp4", ".avi", ".webm"})
            files = files[: arguments.count]
        else:
            files = [folder / f"{i}.mp4" for i in range(arguments.count)]
            for i, file in enumerate(files):
                draw_video(file, i)
        sources = Manifest(
            [VideoRecord(f"{i}", str(f), (0,)) for i, f in enumerate(files)], (("x",),), "train"
        )
        pack(sources, folder / "packed", PackSettings())
        packed = [VideoRecord(p.stem, str(p), (0,)) for p in sorted((folder / "packed").rglob("*.h5"))]
        for workers in (1, 2):
            packed_views(packed, workers)
            packed_training(packed, workers)
        if not arguments.videos:
            sparse_read(files[0])
        memory(packed)
        long_list(folder)


if __name__ == "__main__":
    main()
