"""The screen at the start of a training: what was found, what it costs, and what can hardly be meant."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import torch

from xvit.engine.optim import freeze
from xvit.engine.setup import Run
from xvit.models import XViT
from xvit.models.cost import activations, multiply_adds

SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)  # in a class's name


def describe(run: Run, steps: int, notes: Iterable[str] = ()) -> str:
    """What is about to happen, for a person, and `notes` on it."""
    clip = run.model.clip
    macs, memory = expected_cost(run)
    trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    doubts = find_doubts(run)
    return "\n".join(
        [
            f"data   {len(run.train_list.records)} train and {len(run.val_list.records)} val videos, "
            f"{sum(run.train_list.num_classes)} classes, {run.train_list.format}",
            f"model  {run.model.config.name}, {run.num_parameters / 1e6:.2f} M parameters "
            f"({trained / 1e6:.2f} M trained), {macs / 1e9:.3g} G "
            f"multiply-adds a clip of {clip.num_frames} frames at {clip.size} px",
            f"steps  {steps} of {run.batch_size} clips, {run.steps_per_epoch} an epoch, "
            f"on {run.accelerator.num_processes} × {run.accelerator.device}",
            f"memory about {memory / 1e9:.2g} GB a process, beside decoded videos and libraries",
            f"output {run.folder}",
            *(f"note   {line}" for line in (*notes, *doubts)),
        ]
    )


def expected_cost(run: Run) -> tuple[int, int]:
    """Multiply-adds of a clip, and the bytes of a training step in each process.

    The bytes are those of weights, gradients, the optimiser's state, the average and what autograd keeps, all
    in float32: with bf16 or fp16 it keeps less.
    """
    config, clip = run.config, run.model.clip
    with torch.device("meta"):
        twin = XViT(run.model.config, num_classes=run.model.num_classes, clip=clip)
        macs = multiply_adds(twin, torch.empty(1, clip.num_frames, 3, clip.size, clip.size))
    freeze(twin, config.train.trained_blocks)
    trained = sum(p.numel() for p in twin.parameters() if p.requires_grad)
    copies = run.num_parameters * (1 if run.average is None else 2)
    state = trained * (1 if config.train.optimizer == "sgd" else 2)
    parts = run.accelerator.num_processes if run.sharded else 1
    clips = run.batch_size // (config.train.accumulate * run.accelerator.num_processes)
    kept = activations(twin)[config.train.grad_checkpointing]
    return macs, 4 * (copies + trained + state) // parts + clips * kept


def find_doubts(run: Run) -> list[str]:
    """What is asked for and this run cannot do, or what can hardly be meant."""
    settings, augment, found = run.config.train, run.config.data.augment, []
    if run.batch_size < settings.batch_size:
        few = f"train.batch_size={settings.batch_size} is more than the videos there are"
        found.append(f"{few}: a step takes {run.batch_size}")
    if settings.warmup_epochs >= settings.epochs:
        long = f"train.warmup_epochs={settings.warmup_epochs:g} is all of train.epochs={settings.epochs}"
        found.append(f"{long}: the learning rate never gets to train.lr")
    five = math.prod(run.train_list.num_classes) <= 5 and not run.train_list.several_labels
    if settings.best_metric == "top5" and five:
        found.append(
            "train.best_metric=top5 is always 100 % with so few classes: the first validation is best"
        )
    paired = {*augment.flip_labels, *augment.flip_labels.values()}
    sided = [n for names in run.train_list.classes for n in names if SIDE.search(n) and n not in paired]
    if sided and augment.flip_prob:
        found.append(
            f"data.augment.flip_prob={augment.flip_prob:g} mirrors clips of {sided[0]!r} too: where that "
            "makes them another class, name the two in data.augment.flip_labels, or set flip_prob=0"
        )
    clips, others = ({(r.path, r.start_seconds) for r in m.records} for m in (run.train_list, run.val_list))
    seen = len(clips & others)
    if seen:
        found.append(
            f"{seen} of the {len(others)} val videos are training videos: what is measured on them "
            "tells nothing of new ones"
        )
    return found
