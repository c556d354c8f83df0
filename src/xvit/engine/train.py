"""The training loop, visible from top to bottom."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import skip_first_batches
from torch import nn

from xvit.config import Config, parse_views, write_yaml
from xvit.data import Manifest, VideoDataset, make_loader
from xvit.engine.checkpoint import load_newest
from xvit.engine.evaluate import evaluate
from xvit.engine.optim import classification_loss, draw_blend, learning_rate
from xvit.engine.runlog import ProgressLine, RunLog
from xvit.engine.setup import Run, build_run
from xvit.engine.signals import StopSignal
from xvit.errors import XViTError
from xvit.models import save_model
from xvit.types import Batch


def train(config: Config, *, quiet: bool = False) -> Path:
    """Train as configured and return the run folder.

    The folder holds `config.yaml`, `model.safetensors` + `config.json` (with class names), `log.jsonl`,
    `metrics.json` and `checkpoints/`. SIGINT or SIGTERM ends the run after the current step with all of these
    written; with `train.resume=auto` the same call goes on from there, bit for bit on a CPU.
    Raises ConfigError or DatasetError before anything is trained, XViTError where the loss is not finite.
    """
    run = build_run(config)
    folder, settings = run.folder, config.train
    if run.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        write_yaml(config, folder / "config.yaml")
    state = load_newest(folder) if settings.resume == "auto" else None
    log = RunLog(folder if run.is_main else None, resume=state is not None)
    step = run.load_state(state) if state else 0
    steps = min(settings.epochs * run.steps_per_epoch, settings.max_steps or math.inf)
    log.write(
        "start", step=step, steps=steps, videos=len(run.train_list.records), parameters=run.num_parameters
    )
    if run.is_main and not quiet:
        print(run.describe(int(steps)))
    with (
        StopSignal() as stop,
        ProgressLine("train", int(steps), done=step, quiet=quiet or not run.is_main) as bar,
    ):
        while step < steps and not (stop.requested or run.out_of_patience):
            epoch, done = divmod(step, run.steps_per_epoch)
            run.loader.set_epoch(epoch)  # Accelerate's loader sets the dataset's from its own
            run.network.train()
            waited = time.perf_counter()
            for batch in run.batches(
                skip_first_batches(run.loader, done * settings.accumulate) if done else run.loader
            ):
                waiting = time.perf_counter() - waited
                rate = learning_rate(step / run.steps_per_epoch, settings)
                loss = train_step(run, batch, step, rate)
                step += 1
                seconds = time.perf_counter() - waited
                log.write(
                    "step", step=step, epoch=epoch, loss=loss, lr=rate, seconds=seconds, waiting=waiting
                )
                bar.advance(loss=loss, lr=rate, clips_s=settings.batch_size / seconds, wait=waiting / seconds)
                run.trackers.log({"loss": loss, "lr": rate}, step=step)
                at_end = step >= steps or step % run.steps_per_epoch == 0
                if at_end and (step >= steps or (epoch + 1) % settings.eval_every == 0):
                    metrics = validate(run.evaluated, run.val_list, config, run)
                    run.note(metrics, step)
                    log.write("val", step=step, epoch=epoch, **metrics)
                    bar.note(top1=metrics.get("top1", math.nan))
                    run.trackers.log(metrics, step=step)
                if at_end or step % (settings.checkpoint_every or run.steps_per_epoch) == 0 or stop.requested:
                    run.save(step)
                if at_end and settings.released_every and (epoch + 1) % settings.released_every == 0:
                    run.save_released(epoch + 1)
                if at_end or stop.requested:
                    break
                waited = time.perf_counter()
    finish(run, log, step, int(steps), stopped=stop.requested)
    return folder


def train_step(run: Run, passes: list[Batch], step: int, rate: float) -> float:
    """One update from the batches of its accumulated passes; returns the loss.

    Raises XViTError on a non-finite loss beyond `train.max_nonfinite`, naming step, rate and videos.
    """
    settings, accelerator = run.config.train, run.accelerator
    # A step's randomness is a function of its number, so a resumed run draws what it would have.
    generator = seed_step(run.config.seed, step, accelerator.process_index)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
    total = 0.0
    passes = [batch for batch in passes if len(batch.index)]
    for number, batch in enumerate(passes):
        frames = batch.frames.flatten(0, 1)  # one view a video in training
        blend = draw_blend(len(frames), settings.mixup_alpha, settings.cutmix_alpha, generator)
        if blend is not None:
            frames = blend.frames(frames)
        with run.gradients_held(number < len(passes) - 1):
            with accelerator.autocast():
                logits = run.network(frames)
            loss = classification_loss(
                logits.float(),
                batch.labels,
                run.model.num_classes,
                label_smoothing=settings.label_smoothing,
                blend=blend,
            )
            accelerator.backward(loss / len(passes))
        total += accelerator.reduce(loss.detach(), "mean").item() / len(passes)
    if math.isfinite(total):
        if settings.clip_grad_norm is not None:
            accelerator.clip_grad_norm_(run.network.parameters(), settings.clip_grad_norm)
        run.optimizer.step()
        if run.average is not None:
            run.average.update_parameters(run.model)
    else:
        run.nonfinite += 1
        if run.nonfinite > settings.max_nonfinite:
            videos = [run.train_list.records[row].path for batch in passes for row in batch.index.tolist()]
            raise XViTError(
                f"the loss is {total} at step {step + 1}, learning rate {rate:.3g}, "
                f"videos {', '.join(videos)}; lower train.lr or skip such steps with train.max_nonfinite=N"
            )
    run.optimizer.zero_grad(set_to_none=True)
    return total


def validate(model: nn.Module, manifest: Manifest, config: Config, run: Run) -> dict[str, Any]:
    """Accuracy over the configured views of the val list."""
    dataset = VideoDataset(
        manifest, config.data, views=parse_views(config.eval.views), on_error=config.data.on_error
    )
    loader = make_loader(
        dataset, batch_size=config.eval.batch_size, shuffle=False, num_workers=config.data.num_workers
    )
    if run.accelerator.num_processes > 1:
        loader = run.accelerator.prepare(loader)
    return evaluate(
        model, loader, manifest=manifest, accelerator=run.accelerator, combine=config.eval.combine
    ).summary()


def finish(run: Run, log: RunLog, step: int, steps: int, *, stopped: bool) -> None:
    """Write the model and the final metrics."""
    metrics = {"step": step, "steps": steps, "stopped": stopped, **run.best, **run.metrics}
    metrics["unreadable"] = run.unreadable
    log.write("end", **metrics)
    if run.is_main:
        save_model(run.evaluated, run.folder)
        text = json.dumps(metrics, indent=2) + "\n"
        (run.folder / "metrics.json").write_text(text, encoding="utf8")
    run.accelerator.wait_for_everyone()
    run.accelerator.end_training()


def seed_step(seed: int, step: int, rank: int) -> torch.Generator:
    """Seed torch's generators (dropout) for a step and return one on the CPU for the batch's own draws."""
    number = (seed * 1_000_003 + step) * 1009 + rank
    torch.manual_seed(number % 2**63)
    return torch.Generator().manual_seed((number * 7 + 1) % 2**63)
