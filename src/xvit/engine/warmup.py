"""The head first: fitted to features of the image model as it is, before anything is fine-tuned.

A fresh head sends noise into a pretrained model, which a small set does not repair; fitting the head first
keeps what the image model knows (Kumar et al., "Fine-Tuning can Distort Pretrained Features", ICLR 2022). A
clip passes the model once a draw; the steps on its features cost next to nothing.
"""

from __future__ import annotations

import copy
import itertools
import math
from typing import TYPE_CHECKING

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import gather_object
from torch import Tensor

from xvit.data import make_loader
from xvit.engine.optim import classification_loss, indicators
from xvit.engine.runlog import ProgressLine
from xvit.engine.signals import StopSignal
from xvit.models.heads import MomentsHead

if TYPE_CHECKING:
    from xvit.engine.setup import Run

STEPS, BATCH, LR, DECAY = 400, 32, 2e-3, 0.05


def fit_head_first(run: Run, stop: StopSignal, *, quiet: bool = False) -> None:
    """Train the head alone for STEPS steps on `train.head_first` draws of every clip's frame features.

    A signal breaks it off; a run that goes on from no checkpoint does it anew.
    """
    features, labels = _features(run, stop, quiet)
    if run.anywhere(stop.requested) or not len(features):
        return
    device = run.accelerator.device
    head, generator = run.model.head, torch.Generator().manual_seed(run.config.seed)
    if isinstance(head, MomentsHead):
        targets = indicators(labels, run.model.num_classes)
        head.standardise(features.to(device), targets.to(device), draws=run.config.train.head_first)
    matrices = [p for p in head.parameters() if p.ndim == 2]
    others = [p for p in head.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR)
    head.train()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, (step + 1) / 40) * (1 + math.cos(math.pi * step / STEPS)) / 2
        rows = torch.randint(len(labels), (min(BATCH, len(labels)),), generator=generator)
        loss = classification_loss(
            head(features[rows].to(device)),
            labels[rows].to(device),
            run.model.num_classes,
            label_smoothing=run.config.train.label_smoothing,
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    optimizer.zero_grad()
    if run.average is not None:
        run.average.module.load_state_dict(run.model.state_dict())


@torch.inference_mode()
def _features(run: Run, stop: StopSignal, quiet: bool) -> tuple[Tensor, Tensor]:
    """Frame features (n, T, D) of all draws of all readable clips, and labels; alike in all processes."""
    settings, accelerator = run.config.train, run.accelerator
    dataset = copy.copy(run.dataset)
    loader = make_loader(
        dataset,
        batch_size=max(1, run.batch_size // (settings.accumulate * accelerator.num_processes)),
        shuffle=False,
        num_workers=run.config.data.num_workers,
    )
    if accelerator.num_processes > 1:
        loader = prepare_data_loader(
            loader,
            num_processes=accelerator.num_processes,
            process_index=accelerator.process_index,
            split_batches=False,
            even_batches=False,
        )
    run.model.eval()
    found: list[tuple[Tensor, Tensor]] = []
    total = settings.head_first * len(dataset)
    with ProgressLine("head", total, quiet=quiet or not run.is_main) as bar:
        for draw in range(settings.head_first):
            if stop.requested:
                break
            epoch = settings.epochs + draw  # clips that no step will see
            dataset.set_epoch(epoch)
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(epoch)
            for batch in itertools.takewhile(lambda batch: not stop.requested, loader):
                if len(batch.index):
                    batch = batch.to(accelerator.device)
                    with accelerator.autocast():
                        features = run.model.forward_features(batch.frames.flatten(0, 1))
                    found.append((features.float().cpu(), batch.labels.cpu()))
                bar.advance(len(batch.index) * accelerator.num_processes)
    parts = gather_object(found)
    if not parts:  # broken off, or nothing readable
        return torch.empty(0), torch.empty(0)
    return torch.cat([x for x, _ in parts]).clone(), torch.cat([y for _, y in parts]).clone()
