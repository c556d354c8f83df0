"""How much of an evaluation's time is the model's?

    python benchmarks/eval.py WEIGHTS DATA           # the file's model: our order against the released one
    python benchmarks/eval.py WEIGHTS DATA --base    # ViT-B/16: our order against the model alone

The 3×2 protocol over the packed clips of DATA, repeated. *Ours*: a video's frames are decoded and resized
once for all six views. *Released order*: each of the six views is an item of its own, decoded, normalised,
resized and cropped by itself (only the frames of its clip: a generous reading). Both feed the same model
from the same number of loader workers; runs alternate; figures are medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from itertools import product
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from xvit.config import ClipConfig, DataConfig
from xvit.data import Manifest, VideoDataset, load_manifest, make_loader, open_video
from xvit.data.crops import view_corners
from xvit.data.sampling import view_frames
from xvit.data.transforms import normalise, resize_short_side
from xvit.engine.evaluate import evaluate
from xvit.models import XViT, create_model, load_model

CROPS, CLIPS = 3, 2


class ReleasedOrder(Dataset[torch.Tensor]):
    """One view an item: (T, C, H, W)."""

    def __init__(self, manifest: Manifest, clip: ClipConfig) -> None:
        self.manifest, self.clip = manifest, clip
        self.items = list(product(range(len(manifest.records)), range(CLIPS), range(CROPS)))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, item: int) -> torch.Tensor:
        row, clip, crop = self.items[item]
        with open_video(self.manifest.records[row].path) as video:
            frames = video.read(view_frames(video.info, self.clip, CLIPS)[clip].tolist())
        frames = resize_short_side(normalise(frames, self.clip), self.clip.size, antialias=False)
        top, left = view_corners(*frames.shape[-2:], self.clip.size, CROPS)[crop]
        return frames[..., top : top + self.clip.size, left : left + self.clip.size]


def repeated(manifest: Manifest, videos: int) -> Manifest:
    """A list of `videos` records: the same clips again under other names."""
    records = [manifest.records[n % len(manifest.records)] for n in range(videos)]
    named = [dataclasses.replace(record, video_id=f"{n}") for n, record in enumerate(records)]
    return dataclasses.replace(manifest, records=named)


def ours(model: XViT, manifest: Manifest, workers: int) -> float:
    """Seconds."""
    dataset = VideoDataset(manifest, model.clip, views=(CROPS, CLIPS))
    loader = make_loader(dataset, batch_size=2, shuffle=False, num_workers=workers)
    start = time.perf_counter()
    evaluate(model, loader, manifest=manifest, combine="logits", clips_per_pass=12)
    return time.perf_counter() - start


@torch.inference_mode()
def released(model: XViT, manifest: Manifest, workers: int) -> float:
    """Seconds."""
    loader = DataLoader(ReleasedOrder(manifest, model.clip), batch_size=12, num_workers=workers)
    start = time.perf_counter()
    for views in loader:
        model(views)
    return time.perf_counter() - start


@torch.inference_mode()
def alone(model: XViT, videos: int) -> float:
    """Seconds for the model's part: the same passes on a clip in memory."""
    clip = model.clip
    views = torch.randn(12, clip.num_frames, 3, clip.size, clip.size)
    start = time.perf_counter()
    for _ in range(videos // 2):
        model(views)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", action="store_true")
    parser.add_argument("--videos", type=int)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

    model = load_model(options.weights)
    if options.base:
        clip = model.clip
        classes = sum(model.num_classes)
        model = create_model("xvit_base_patch16", num_classes=classes, num_frames=clip.num_frames).eval()
        # A stride at which the clips of short videos differ, so that no view is spared.
        model.clip = clip.model_copy(update={"frame_stride": 4})
    classes = tuple(tuple(map(str, range(count))) for count in model.num_classes)
    found = load_manifest(DataConfig(root=str(options.data)), "val", classes=classes)
    manifest = repeated(found, options.videos or (4 if options.base else 64))
    videos = len(manifest.records)
    pairs = []
    for run in range(options.runs):
        mine = ours(model, manifest, options.workers)
        other = alone(model, videos) if options.base else released(model, manifest, options.workers)
        pairs.append((videos / mine, videos / other))
        print(f"run {run}: ours {pairs[-1][0]:.3g}, other {pairs[-1][1]:.3g} videos/s", flush=True)
    against = "the model alone" if options.base else "the released order"
    mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{videos} videos, {CROPS}×{CLIPS} views, {options.workers} workers")
    print(f"ours {mine:.3g} videos/s; {against} {other:.3g} videos/s; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
