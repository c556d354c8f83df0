"""What does XViT cost over the same image model without mixing?

    python benchmarks/model.py forward train frames divided memory --precision fp32 --runs 9

All models of a question run in turn in one process, in changing order; a ratio is the median of the rounds'
ratios, so that a slow minute of the machine slows both sides. `forward` also times a large matrix product
between the runs and compares the rates of multiply-adds. `memory` starts one process a measurement.
On a machine that others use, --clock cpu --threads 1 counts processor time instead of waiting.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from xvit import Mixing, create_model
from xvit.models.cost import multiply_adds

NAME, FRAMES = "vit_base_patch16_224", 16
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class ImageModel(nn.Module):
    """timm's own ViT on every frame, and the mean: the plainest video model."""

    def __init__(self, num_classes: int, name: str = NAME) -> None:
        super().__init__()
        self.image = timm.create_model(name, num_classes=num_classes)

    def forward(self, frames: Tensor) -> Tensor:
        return self.image(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).mean(dim=1)


def build(kind: str, frames: int = FRAMES) -> nn.Module:
    """A model by the name of its row in the tables; the mean head, so that only the attention differs."""
    if kind == "timm":
        return ImageModel(400)
    config: dict[str, dict[str, object]] = {
        "xvit": {},
        "xvit, channels": {"mixing": Mixing(layout="channels")},
        "xvit, gate": {"mixing": Mixing(gate="learned")},
        "xvit, temporal head": {"head": "temporal"},
        "divided": {"attention": "divided"},
    }
    values = {"head": "mean", **config[kind]}
    return create_model(NAME, num_classes=400, num_frames=frames, **values)


def forward(model: nn.Module, frames: Tensor) -> None:
    with torch.inference_mode():
        model(frames)


def train(model: nn.Module, frames: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    model(frames).float().logsumexp(dim=1).sum().backward()


def alternate(
    work: dict[str, Callable[[], None]], runs: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of every piece of work in each of `runs` rounds, the order turned round every time."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for run in range(runs + 1):
        for name in list(work) if run % 2 else reversed(list(work)):
            start = clock()
            work[name]()
            if run:  # the first round warms up
                seconds[name].append(clock() - start)
    return seconds


def report(title: str, seconds: dict[str, list[float]], base: str) -> None:
    print(f"\n{title}")
    for name, times in seconds.items():
        ratios = [one / other for one, other in zip(times, seconds[base], strict=True)]
        spread = statistics.quantiles(ratios, n=4)
        print(
            f"  {name:22} median {statistics.median(times):8.3f} s   over {base}: "
            f"{statistics.median(ratios):.3f} (quartiles {spread[0]:.3f} to {spread[2]:.3f})",
            flush=True,
        )


def compare_forward(dtype: torch.dtype, runs: int, clock: Callable[[], float]) -> None:
    """XViT over timm, and the rate of multiply-adds over that of a matrix product between the runs."""
    frames = torch.randn(1, FRAMES, 3, 224, 224, dtype=dtype)
    models = {kind: build(kind).eval().to(dtype) for kind in ("timm", "xvit", "xvit, channels", "xvit, gate")}
    # The shape of the model's own largest product: all tokens of the clip through the MLP.
    left, right = torch.randn(FRAMES * 197, 768, dtype=dtype), torch.randn(768, 3072, dtype=dtype)
    product = left.shape[0] * left.shape[1] * right.shape[1]

    def matrix() -> None:
        for _ in range(20):
            left @ right

    work = {kind: (lambda m=model: forward(m, frames)) for kind, model in models.items()}
    seconds = alternate({**work, "matrix product": matrix}, runs, clock)
    rate = seconds.pop("matrix product")
    report(f"forward, {FRAMES} frames, {dtype}", seconds, "timm")
    macs = multiply_adds(models["xvit"], frames)
    shares = [macs / a / (20 * product / b) for a, b in zip(seconds["xvit"], rate, strict=True)]
    print(f"  multiply-adds per second over those of a matrix product: {statistics.median(shares):.3f}")


def compare_train(dtype: torch.dtype, runs: int, clock: Callable[[], float]) -> None:
    """A forward and a backward pass, XViT over timm."""
    frames = torch.randn(1, FRAMES, 3, 224, 224, dtype=dtype)
    models = {kind: build(kind).train().to(dtype) for kind in ("timm", "xvit")}
    work = {kind: (lambda m=model: train(m, frames)) for kind, model in models.items()}
    report(f"training step, {FRAMES} frames, {dtype}", alternate(work, runs, clock), "timm")


def compare_frames(dtype: torch.dtype, runs: int, clock: Callable[[], float]) -> None:
    """Time at 32 frames over time at 8."""
    model = build("xvit, temporal head").eval().to(dtype)
    clips = {f"{t} frames": torch.randn(1, t, 3, 224, 224, dtype=dtype) for t in (8, 32)}
    work = {name: (lambda c=clip: forward(model, c)) for name, clip in clips.items()}
    report(f"forward of XViT, {dtype}", alternate(work, runs, clock), "8 frames")


def compare_divided(dtype: torch.dtype, runs: int, clock: Callable[[], float]) -> None:
    """Divided space-time attention over XViT."""
    frames = torch.randn(1, FRAMES, 3, 224, 224, dtype=dtype)
    models = {kind: build(kind).eval().to(dtype) for kind in ("xvit", "divided")}
    work = {kind: (lambda m=model: forward(m, frames)) for kind, model in models.items()}
    report(f"forward, {FRAMES} frames, {dtype}", alternate(work, runs, clock), "xvit")


def peak(dtype: torch.dtype, checkpointing: bool) -> None:
    """Print the growth in MB of this process's peak memory over one training step."""
    model = build("xvit").train().to(dtype)
    model.set_grad_checkpointing(checkpointing)
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    frames = torch.randn(1, FRAMES, 3, 224, 224, dtype=dtype)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model(frames).float().logsumexp(dim=1).sum().backward()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3)


def compare_memory(precision: str, threads: int) -> None:
    """Peak memory of a training step with gradient checkpointing over that without."""
    measured = []
    for checkpointing in ("plain", "checkpointed"):
        command = [
            sys.executable,
            __file__,
            checkpointing,
            "--precision",
            precision,
            "--threads",
            str(threads),
        ]
        measured.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    print(f"\npeak memory of a training step, {FRAMES} frames, {precision}")
    print(f"  plain {measured[0]:.0f} MB, checkpointed {measured[1]:.0f} MB: {measured[1] / measured[0]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    questions = ["forward", "train", "frames", "divided", "memory", "plain", "checkpointed"]
    parser.add_argument("questions", nargs="+", choices=questions)
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dtype = DTYPES[arguments.precision]
    comparisons = {
        "forward": compare_forward,
        "train": compare_train,
        "frames": compare_frames,
        "divided": compare_divided,
    }
    for question in arguments.questions:
        if question in ("plain", "checkpointed"):
            peak(dtype, question == "checkpointed")
        elif question == "memory":
            compare_memory(arguments.precision, arguments.threads)
        else:
            comparisons[question](dtype, arguments.runs, CLOCKS[arguments.clock])


if __name__ == "__main__":
    main()
