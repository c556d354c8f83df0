"""How much of an evaluation's time is the model's?

    python benchmarks/eval.py WEIGHTS DATA           # the file's model: our order against the released one
    python benchmarks/eval.py WEIGHTS DATA --base    # ViT-B/16: our order against the model alone

The 3×2 protocol over the packed clips of DATA, repeated. *Ours*: a video's frames are decoded and resized
once for all six views, equal views are scored once. *Released order*: each of the six views is an item of
its own, decoded with Pillow, normalised, resized and cropped by itself. *Model alone*: the views that ours
scores, from memory; no order of work can be faster. All feed the same model, from as
many loader workers; they run in turn, figures are medians.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from released_order import OneByOne
from rounds import alternate, report
from torch.utils.data import DataLoader

from xvit.config import DataConfig
from xvit.data import Manifest, VideoDataset, load_manifest, make_loader
from xvit.engine.evaluate import evaluate
from xvit.models import XViT, create_model, load_model

VIEWS = (3, 2)
VIDEOS_A_BATCH = 2
CLIPS_A_PASS = 12


def repeated(manifest: Manifest, videos: int) -> Manifest:
    """A list of `videos` records: the same clips again under other names."""
    records = [manifest.records[n % len(manifest.records)] for n in range(videos)]
    named = [dataclasses.replace(record, video_id=f"{n}") for n, record in enumerate(records)]
    return dataclasses.replace(manifest, records=named)


def ours(model: XViT, manifest: Manifest, workers: int) -> Callable[[], int]:
    dataset = VideoDataset(manifest, model.clip, views=VIEWS)
    loader = make_loader(dataset, batch_size=VIDEOS_A_BATCH, shuffle=False, num_workers=workers)

    def run() -> int:
        scored = evaluate(model, loader, manifest=manifest, combine="logits", clips_per_pass=CLIPS_A_PASS)
        return len(scored.video_id)

    return run


def released(model: XViT, manifest: Manifest, workers: int) -> Callable[[], int]:
    views = OneByOne(manifest.records, model.clip, VIEWS)
    loader = DataLoader(views, CLIPS_A_PASS, num_workers=workers, persistent_workers=workers > 0)

    @torch.inference_mode()
    def run() -> int:
        for batch in loader:
            model(batch)
        return len(manifest.records)

    return run


def alone(model: XViT, manifest: Manifest) -> Callable[[], int]:
    videos = len(manifest.records)
    batch = VideoDataset(manifest, model.clip, views=VIEWS).__getitems__(range(min(videos, VIDEOS_A_BATCH)))
    scored = sum(len(set(row)) for row in batch.same.tolist())
    views = batch.frames.flatten(0, 1)[:scored].clone()
    print(f"{scored / len(batch.index):g} of {VIEWS[0] * VIEWS[1]} views of a video differ")

    @torch.inference_mode()
    def run() -> int:
        for _ in range(videos // len(batch.index)):
            for part in views.split(CLIPS_A_PASS):
                model(part)
        return videos

    return run


def base_model(model: XViT) -> XViT:
    """ViT-B/16 for the same data, at a stride at which the clips of short videos differ."""
    classes, frames = sum(model.num_classes), model.clip.num_frames
    base = create_model("xvit_base_patch16", num_classes=classes, num_frames=frames).eval()
    base.clip = model.clip.model_copy(update={"frame_stride": 4})
    return base


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", action="store_true")
    parser.add_argument("--videos", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, help="of the model; default: torch's own")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    model = load_model(options.weights)
    if options.base:
        model = base_model(model)
    classes = tuple(tuple(map(str, range(count))) for count in model.num_classes)
    found = load_manifest(DataConfig(root=str(options.data)), "val", classes=classes)
    manifest = repeated(found, options.videos or (4 if options.base else 32))
    ways = {"ours": ours(model, manifest, options.workers), "model alone": alone(model, manifest)}
    if not options.base:
        ways["released order"] = released(model, manifest, options.workers)
    report(
        f"{len(manifest.records)} videos, {VIEWS[0]}×{VIEWS[1]} views, {options.workers} workers",
        "video",
        alternate(ways, options.rounds),
    )


if __name__ == "__main__":
    main()
