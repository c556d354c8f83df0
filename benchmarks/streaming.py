"""What does a new frame of a stream cost beside one frame of the plain image model?

    python benchmarks/streaming.py [--frames 500] [--model vit_base_patch16_224]

Both see the same frame in turn, so that a busy machine slows both; medians, and the median of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time

import timm
import torch

from xvit import Mixing, create_model
from xvit.models.streaming import StreamingXViT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--model", default="vit_base_patch16_224")
    args = parser.parse_args()
    torch.manual_seed(0)
    stream = StreamingXViT(create_model(args.model, num_classes=400, mixing=Mixing(causal=True, window=1)))
    plain = timm.create_model(args.model, num_classes=400).eval()
    seconds: dict[str, list[float]] = {"stream": [], "plain": []}
    with torch.inference_mode():
        for number in range(args.frames):
            frame = torch.randn(1, 3, 224, 224)
            runs = [("stream", stream), ("plain", plain)]
            for name, model in runs if number % 2 else runs[::-1]:
                started = time.perf_counter()
                model(frame)
                seconds[name].append(time.perf_counter() - started)
    ratios = [a / b for a, b in zip(seconds["stream"][2:], seconds["plain"][2:], strict=True)]
    print(f"{args.model}, {args.frames} frames, {torch.get_num_threads()} threads")
    for name, times in seconds.items():
        print(f"{name}: {1000 * statistics.median(times):.1f} ms a frame")
    print(f"ratio: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
