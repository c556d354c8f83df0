"""What does the engine cost beside the model? A step of the training loop over forward, backward and update.

    python benchmarks/train.py --frames 16 --runs 5 --threads 1

Both sides run in turn on the same model and the same clips in memory, in changing order; the overhead is the
median of the rounds' ratios, minus one. The engine's side has everything a step of `train` does but decoding:
schedule, seeding, clipping of gradients, log and progress bar. The clock counts processor time, so that other
work on the machine does not count. `--memory N` instead trains N epochs on made-up videos and prints the peak
of the resident memory at each checkpoint.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from xvit.config import load_config
from xvit.data.synth import write_motion_set
from xvit.engine import train as engine
from xvit.engine.runlog import ProgressLine, RunLog
from xvit.engine.setup import Run, build_run
from xvit.types import Batch

STEPS = 1000  # of the made-up schedule


def made_up_run(folder: Path, *changes: str) -> Run:
    """A run over a few synthetic videos."""
    write_motion_set(folder / "videos", train_per_class=2, val_per_class=1, workers=1)
    overrides = [f"data.root={folder / 'videos'}", f"output={folder / 'run'}", "device=cpu"]
    return build_run(load_config("demo/motion", [*overrides, "train.ema_decay=null", *changes]))


def bare_step(run: Run, batch: Batch) -> None:
    """What no training can do without."""
    run.optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(run.model(batch.frames.flatten(0, 1)), batch.labels[:, 0]).backward()
    run.optimizer.step()


def engine_step(run: Run, batch: Batch, log: RunLog, bar: ProgressLine, step: int) -> None:
    """What `train` does from one batch to the next."""
    began = time.perf_counter()
    rate = engine.learning_rate(step / STEPS, run.config.train)
    loss, top1 = engine.train_step(run, [batch.to("cpu")], step, rate)
    values = {"loss": loss, "top1": top1, "lr": rate}
    seconds = time.perf_counter() - began
    log.write("step", step=step, epoch=0, **values, seconds=seconds, waiting=0.0)
    bar.step(clips=len(batch.index), seconds=seconds, waiting=0.0, **values)
    run.track("train", values, step)
    run.anywhere(False)


def overhead(name: str, frames: int, size: int, clips: int, runs: int) -> None:
    """Print the engine's share at `clips` clips a step."""
    model = (f"model.name={name}", "model.backbone_args={}", "model.head_num_heads=null")
    data = (f"data.num_frames={frames}", f"data.size={size}", f"train.batch_size={clips}")
    seconds: dict[str, list[float]] = {"bare": [], "engine": []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        run = made_up_run(folder, *model, *data, "data.num_workers=0")
        run.folder.mkdir()
        (batch,) = next(iter(run.batches(run.loader)))
        log = RunLog(run.folder)
        with ProgressLine("train", STEPS, quiet=True) as bar:
            for number in range(runs + 1):
                for side in ("bare", "engine") if number % 2 else ("engine", "bare"):
                    start = time.process_time()
                    if side == "bare":
                        bare_step(run, batch)
                    else:
                        engine_step(run, batch, log, bar, number + 1)
                    if number:  # the first round warms up
                        seconds[side].append(time.process_time() - start)
    ratios = [one / other for one, other in zip(seconds["engine"], seconds["bare"], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    print(
        f"{name}, {clips} × {frames} frames of {size} px: "
        f"bare step {statistics.median(seconds['bare']):.2f} s, "
        f"engine {100 * (statistics.median(ratios) - 1):+.1f} % "
        f"(quartiles {100 * (low - 1):+.1f} to {100 * (high - 1):+.1f})"
    )


def memory(epochs: int) -> None:
    """Print the peak of resident memory at each checkpoint of a small training."""

    def watch(run: Run, step: int) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"step {step}: peak {peak:.0f} MB", flush=True)
        save(run, step)

    save, engine.Run.save = engine.Run.save, watch  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as place:
        run = made_up_run(Path(place), f"train.epochs={epochs}", "data.num_workers=0")
        engine.train(run.config, quiet=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--name", default="vit_base_patch16_224")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", type=int, metavar="EPOCHS")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        memory(args.memory)
    else:
        overhead(args.name, args.frames, args.size, args.clips, args.runs)


if __name__ == "__main__":
    main()
