"""What do a stream's new frame and a timeline's window cost?

    python benchmarks/streaming.py frame [--frames 500]     # over one frame of the plain timm ViT
    python benchmarks/streaming.py timeline [--windows 30]  # shared groups over windows one by one

`frame`: a causal XViT through StreamingXViT and timm's own ViT see the same frame in turn, so that a busy
machine slows both; the median of the ratios, and the process's memory along the way. `timeline`: the released
Kinetics configuration (16 frames in two groups of 8) over frames in memory, a hop of one group; both ways in
turn, --runs times, and the largest difference of their scores.
--model NAME and --size PIXELS choose smaller ones; --threads and --clock cpu as in benchmarks/model.py.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch

from xvit import Mixing, create_model
from xvit.models.streaming import StreamingXViT
from xvit.predict import Predictor
from xvit.predict.windows import Windows, follow_windows

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def resident() -> float:
    """Megabytes of this process in memory now."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1e3


def frame(args: argparse.Namespace, clock: Callable[[], float]) -> None:
    """A new frame of a stream over one frame of the image model."""
    stream = StreamingXViT(create_model(args.model, num_classes=400, mixing=Mixing(causal=True, window=1)))
    plain = timm.create_model(args.model, num_classes=400).eval()
    seconds: dict[str, list[float]] = {"stream": [], "plain": []}
    memory = []
    with torch.inference_mode():
        for number in range(args.frames):
            image = torch.randn(1, 3, args.size, args.size)
            runs = [("stream", stream), ("plain", plain)]
            for name, model in runs if number % 2 else runs[::-1]:
                started = clock()
                model(image)
                seconds[name].append(clock() - started)
            memory.append(resident())
    ratios = [a / b for a, b in zip(seconds["stream"][2:], seconds["plain"][2:], strict=True)]
    for name, times in seconds.items():
        print(f"{name}: {1000 * statistics.median(times):.1f} ms a frame")
    print_ratio("new frame over the plain model's frame", ratios)
    tenth = len(memory) // 10
    print(f"memory: {memory[tenth]:.0f} MB after {tenth + 1} frames, {memory[-1]:.0f} MB after {len(memory)}")


def timeline(args: argparse.Namespace, clock: Callable[[], float]) -> None:
    """Overlapping windows with their groups shared, over the same windows computed one by one."""
    group = 8
    model = create_model(
        args.model, num_classes=400, num_frames=2 * group, temporal_length=group, mixing=Mixing(group=group)
    )
    predictor = Predictor(model, "cpu")
    images = torch.randn((args.windows + 1) * group, 3, args.size, args.size)
    ratios = []
    for run in range(args.runs):
        spent, answers = {}, {}
        ways = [("shared", follow_windows(predictor, group)), ("alone", Windows(predictor, group))]
        for name, windows in ways if run % 2 else ways[::-1]:
            started = clock()
            found = [windows.push(image) for image in images]
            spent[name] = clock() - started
            answers[name] = torch.stack([answer for answer in found if answer is not None])
        ratios.append(spent["shared"] / spent["alone"])
    difference = (answers["shared"] - answers["alone"]).abs().max().item()
    print_ratio(f"shared over one by one, {args.windows} windows", ratios)
    print(f"largest difference of a score: {difference:.1e}")


def print_ratio(what: str, ratios: list[float]) -> None:
    """The median, and the quartiles where there are enough."""
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 3 else [min(ratios), 0, max(ratios)]
    print(f"{what}: {statistics.median(ratios):.3f} ({quartiles[0]:.3f} to {quartiles[2]:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("question", choices=["frame", "timeline"])
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--windows", type=int, default=30)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    print(f"{args.model} at {args.size}, {args.threads} threads, {args.clock} clock")
    {"frame": frame, "timeline": timeline}[args.question](args, CLOCKS[args.clock])


if __name__ == "__main__":
    main()
