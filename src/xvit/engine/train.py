"""The training loop, visible from top to bottom."""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from torch import nn

from xvit.config import Config, parse_views
from xvit.data import Manifest, VideoDataset, make_loader
from xvit.engine.checkpoint import load_newest
from xvit.engine.ending import finish, give_up_step, mendable
from xvit.engine.evaluate import evaluate
from xvit.engine.optim import classification_loss, correct, draw_blend, learning_rate
from xvit.engine.processes import share_words
from xvit.engine.runlog import ProgressLine, RunLog
from xvit.engine.screen import describe
from xvit.engine.setup import Run, build_run
from xvit.engine.signals import StopSignal
from xvit.engine.start import claim, notes_on_resuming
from xvit.engine.trackers import start_trackers
from xvit.engine.warmup import fit_head_first
from xvit.errors import VideoReadError, XViTError
from xvit.types import Batch


def train(config: Config, *, quiet: bool = False, conclude: Callable[[Path], None] | None = None) -> Path:
    """Train as configured and return the run folder.

    The folder holds `config.yaml`, `model.safetensors` + `config.json` (with class names), `log.jsonl`,
    `metrics.json`, `checkpoints/`, and in `best/` the model of the best validation. SIGINT or
    SIGTERM ends the run after the current step with all of these written; with `train.resume=auto` the same
    call goes on from there, bit for bit on a CPU. `conclude` is called with the folder when all is written,
    in the first process; where a step outlasts the patience of who sent a signal, that ends the process.
    Raises ConfigError or DatasetError before anything is trained, XViTError where the loss is not finite.
    """
    run = build_run(config)
    folder, settings = run.folder, config.train
    log, step, steps, resumed, notes = begin(run)
    words = share_words(run.accelerator)
    with (
        StopSignal(lambda: give_up_step(run, log, steps, conclude, words), words) as stop,
        mendable(folder),
    ):
        if run.is_main and not quiet:
            print(describe(run, steps, notes))
        if settings.head_first and not resumed:
            fit_head_first(run, stop, quiet=quiet)
        with ProgressLine("train", steps, done=step, quiet=quiet or not run.is_main) as bar:
            check_up(run, log, bar, stop, step, steps)  # where the run was stopped before it could
            stopped = run.anywhere(stop.requested)
            unread = 0  # steps in a row without a readable video
            while step < steps and not (stopped or run.out_of_patience):
                epoch, done = divmod(step, run.steps_per_epoch)
                run.loader.set_epoch(epoch)  # Accelerate's loader sets the dataset's from its own
                run.network.train()
                waited = time.perf_counter()
                for batch in run.batches(
                    skip_first_batches(run.loader, done * settings.accumulate) if done else run.loader
                ):
                    waiting = time.perf_counter() - waited
                    rate = run.lr_scale * learning_rate(step / run.steps_per_epoch, settings)
                    loss, top1 = train_step(run, batch, step, rate)
                    step += 1
                    unread = unread + 1 if math.isnan(top1) else 0
                    seconds = time.perf_counter() - waited
                    values = {"loss": loss, "top1": top1, "lr": rate}
                    log.write("step", step=step, epoch=epoch, **values, seconds=seconds, waiting=waiting)
                    bar.step(clips=run.batch_size, seconds=seconds, waiting=waiting, **values)
                    run.track("train", values, step)
                    at_end = step >= steps or step % run.steps_per_epoch == 0
                    if at_end and unread >= min(step, run.steps_per_epoch):
                        raise run.nothing_readable()
                    check_up(run, log, bar, stop, step, steps)
                    stopped = run.anywhere(stop.requested)
                    if at_end or step % (settings.checkpoint_every or run.steps_per_epoch) == 0 or stopped:
                        run.save(step)
                    if at_end and settings.released_every and (epoch + 1) % settings.released_every == 0:
                        run.save_released(epoch + 1)
                    if at_end or stopped:
                        break
                    waited = time.perf_counter()
        finish(run, log, step, steps, stopped=stopped)
        if conclude is not None and run.is_main:
            conclude(folder)
    return folder


class Beginning(NamedTuple):
    """The log, the step to go on from, the one to end at, whether a checkpoint was taken over, notes."""

    log: RunLog
    step: int
    steps: int
    resumed: bool
    notes: list[str]


def begin(run: Run) -> Beginning:
    """Write down what is to be done, take over the newest checkpoint where that is asked for."""
    config, folder = run.config, run.folder
    state = load_newest(folder) if config.train.resume == "auto" else None
    step = run.load_state(state) if state else 0
    run.check_alike(step)
    notes = notes_on_resuming(folder, config, state is not None)
    if state and state.get("list_sha256", run.train_list.digest) != run.train_list.digest:
        notes.append("resumed with other training videos: epochs are counted in those there are now")
    if run.is_main:
        claim(folder, config, None if state is None else step)
    start_trackers(run.accelerator, config, step)
    with mendable(folder):
        log = RunLog(folder if run.is_main else None, resume_at=None if state is None else step)
    steps = min(config.train.epochs * run.steps_per_epoch, config.train.max_steps or sys.maxsize)
    steps = max(step, steps)  # a run that is beyond that already
    log.write(
        "start", step=step, steps=steps, videos=len(run.train_list.records), parameters=run.num_parameters
    )
    return Beginning(log, step, steps, state is not None, notes)


class StepResult(NamedTuple):
    """Over the global batch: the mean loss, and the share of clips whose (dominant) label scored highest.

    NaN where none of the batch's videos could be read.
    """

    loss: float
    top1: float


def train_step(run: Run, passes: list[Batch], step: int, rate: float) -> StepResult:
    """One update from the batches of its accumulated passes.

    Raises XViTError on a non-finite loss beyond `train.max_nonfinite`, naming step, rate and videos.
    """
    settings, accelerator = run.config.train, run.accelerator
    # A step's randomness is a function of its number, so a resumed run draws what it would have.
    generator = seed_step(run.config.seed, step, accelerator.process_index)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
    clips = run.count_clips(passes)
    if not clips:
        return StepResult(math.nan, math.nan)
    totals = torch.zeros(2, device=accelerator.device)  # of loss and top-1
    for number, batch in enumerate(passes):
        share = len(batch.index) / clips
        batch = batch if share else blank_like(batch)
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
            # Exchanged gradients are means over processes; each clip's share is to be 1/clips.
            accelerator.backward(loss * (share * accelerator.num_processes))
        hits = correct(logits.detach(), batch.labels, run.model.num_classes, blend=blend)
        totals += torch.stack([loss.detach(), hits.float().mean()]) * share
    mean, top1 = run.over_processes(totals)
    with run.changing:
        if math.isfinite(mean):
            update(run)
        else:
            run.nonfinite += 1
        run.step = step + 1
        if run.nonfinite > settings.max_nonfinite:
            videos = [run.train_list.records[row].path for batch in passes for row in batch.index.tolist()]
            raise XViTError(
                f"the loss is {mean} at step {step + 1}, learning rate {rate:.3g}, "
                f"videos {', '.join(videos)}; lower train.lr or skip such steps with train.max_nonfinite=N"
            )
    run.optimizer.zero_grad(set_to_none=True)
    return StepResult(mean, top1)


def update(run: Run) -> None:
    """Clip the gradients, let the optimiser step, follow with the average."""
    limit = run.config.train.clip_grad_norm
    if limit is not None:
        run.accelerator.clip_grad_norm_(run.network.parameters(), limit)
    run.optimizer.step()
    if run.average is not None:
        run.average.update_parameters(run.model)


def blank_like(batch: Batch) -> Batch:
    """One black clip: where no video could be read, a process still has to exchange gradients."""
    shape = (1, *batch.frames.shape[1:])
    return Batch(batch.frames.new_zeros(shape), batch.labels.new_zeros(1, batch.labels.shape[1]), batch.index)


def check_up(run: Run, log: RunLog, bar: ProgressLine, stop: StopSignal, step: int, steps: int) -> None:
    """Validate where `step` asks for it and that is not done yet, unless the run is to stop meanwhile."""
    if not run.validation_due(step, steps):
        return
    model = run.evaluated()
    try:
        metrics = validate(model, run.val_list, run.config, run, stop)
    except VideoReadError:
        if run.accelerator.num_processes == 1:  # others may be waiting for this one
            run.save(step)
        raise
    if metrics is None:
        return
    run.note(metrics, step, model)
    log.write("val", step=step, epoch=(step - 1) // run.steps_per_epoch, **metrics)
    bar.note(val=metrics.get("top1", math.nan))
    run.track("val", metrics, step)


def validate(
    model: nn.Module, manifest: Manifest, config: Config, run: Run, stop: StopSignal
) -> dict[str, Any] | None:
    """Accuracy over the configured views of the val list; None where a signal broke it off.

    Every process scores whole batches of its own, so that each video is scored once.
    """
    dataset = VideoDataset(
        manifest, config.data, views=parse_views(config.eval.views), on_error=config.data.on_error
    )
    processes = run.accelerator.num_processes
    loader = make_loader(
        dataset,
        batch_size=max(1, config.eval.batch_size // processes),
        shuffle=False,
        num_workers=config.data.num_workers,
    )
    if processes > 1:
        rank = run.accelerator.process_index
        loader = prepare_data_loader(
            loader, num_processes=processes, process_index=rank, split_batches=False, even_batches=False
        )
    batches = itertools.takewhile(lambda batch: not stop.requested, run.watched(loader, manifest))
    evaluation = evaluate(
        model, batches, manifest=manifest, accelerator=run.accelerator, combine=config.eval.combine
    )
    return None if run.anywhere(stop.requested) else evaluation.summary()


def seed_step(seed: int, step: int, rank: int) -> torch.Generator:
    """Seed torch's generators (dropout) for a step and return one on the CPU for the batch's own draws."""
    number = (seed * 1_000_003 + step) * 1009 + rank
    torch.manual_seed(number % 2**63)
    return torch.Generator().manual_seed((number * 7 + 1) % 2**63)
