"""The training loop, visible from top to bottom."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from xvit.config import Config, parse_views, write_yaml
from xvit.data import Manifest, VideoDataset, load_manifest, make_loader
from xvit.engine.evaluate import evaluate
from xvit.engine.optim import classification_loss, draw_mixup, learning_rate, make_optimizer
from xvit.engine.runlog import ProgressLine, RunLog
from xvit.errors import ConfigError, DatasetError
from xvit.models import build_model, save_model


def train(config: Config, *, quiet: bool = False) -> Path:
    """Train as configured and return the run folder.

    The folder holds `config.yaml`, `model.safetensors` + `config.json` (with class names),
    `log.jsonl` and `metrics.json`. SIGINT or SIGTERM ends the run after the current step
    with all of these written.
    Raises ConfigError or DatasetError before anything is trained.
    """
    accelerator = make_accelerator(config)
    set_seed(config.seed)
    train_list, val_list = load_lists(config)
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(config, folder / "config.yaml")
    log = RunLog(folder)

    model = build_model(
        config.model, num_classes=train_list.num_classes, clip=config.data, classes=train_list.classes
    )
    dataset = VideoDataset(
        train_list, config.data, augment=config.data.augment, seed=config.seed, on_error=config.data.on_error
    )
    batch_size = min(config.train.batch_size, len(dataset))
    loader = make_loader(
        dataset, batch_size=batch_size, shuffle=True, num_workers=config.data.num_workers, drop_last=True
    )
    optimizer = make_optimizer(model, config.train)
    network, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    steps = config.train.epochs * len(loader)
    if config.train.max_steps is not None:
        steps = min(steps, config.train.max_steps)
    log.write(
        "start", videos=len(dataset), steps=steps, parameters=sum(p.numel() for p in model.parameters())
    )
    step, started, metrics = 0, time.monotonic(), {}
    with StopSignal() as stop, ProgressLine("train", steps, quiet=quiet) as bar:
        for epoch in range(config.train.epochs):
            dataset.set_epoch(epoch)
            network.train()
            for batch in loader:
                # A step's randomness is a function of its number, so a resumed run draws what it would have.
                generator = seed_step(config.seed, step)
                rate = learning_rate(epoch + step % len(loader) / len(loader), config.train)
                for group in optimizer.param_groups:
                    group["lr"] = rate * group.get("lr_scale", 1.0)
                batch = batch.to(accelerator.device)
                frames = batch.frames.flatten(0, 1)  # one view a video in training
                mixup = draw_mixup(len(frames), config.train.mixup_alpha, generator)
                with accelerator.autocast():
                    logits = network(frames if mixup is None else mixup.frames(frames))
                loss = classification_loss(
                    logits.float(),
                    batch.labels,
                    model.num_classes,
                    label_smoothing=config.train.label_smoothing,
                    mixup=mixup,
                )
                accelerator.backward(loss)
                if config.train.clip_grad_norm is not None:
                    accelerator.clip_grad_norm_(network.parameters(), config.train.clip_grad_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
                log.write("step", step=step, epoch=epoch, loss=loss.item(), lr=rate)
                bar.advance(loss=loss.item(), lr=rate, **metrics)
                if step == steps or stop.requested:
                    break
            if (epoch + 1) % config.train.eval_every == 0 or step == steps:
                metrics = validate(network, val_list, config, accelerator)
                log.write("val", step=step, epoch=epoch, **metrics)
            if step == steps or stop.requested:
                break
    save_model(accelerator.unwrap_model(network), folder)
    final = {"step": step, "steps": steps, "seconds": time.monotonic() - started, **metrics}
    log.write("stopped" if stop.requested else "end", **final)
    (folder / "metrics.json").write_text(json.dumps(final, indent=2) + "\n", encoding="utf8")
    return folder


def make_accelerator(config: Config) -> Accelerator:
    """Accelerate's view of this process: device, precision, and the other processes there are."""
    precision = {"fp32": "no"}.get(config.train.precision, config.train.precision)
    return Accelerator(cpu=config.device == "cpu", mixed_precision=precision)


def load_lists(config: Config) -> tuple[Manifest, Manifest]:
    """The train and val lists of `data.root`. Raises DatasetError on empty or contradicting ones."""
    if config.data.root is None:
        raise ConfigError("data.root is not set; add data.root=FOLDER, the folder that holds your videos")
    train_list = load_manifest(config.data, "train")
    val_list = load_manifest(config.data, "val", classes=train_list.classes)
    for manifest in (train_list, val_list):
        if not manifest.records:
            raise DatasetError(f"{config.data.root}: no videos in the {manifest.split} split")
    known = {record.labels for record in train_list.records}
    for record in val_list.records:
        if record.labels and record.labels not in known and len(record.labels) == 1:
            name = train_list.classes[0][record.labels[0]]
            raise DatasetError(f"{record.path}: class {name!r} is in val but not in train")
    return train_list, val_list


def validate(
    network: torch.nn.Module, manifest: Manifest, config: Config, accelerator: Accelerator
) -> dict[str, Any]:
    """Accuracy over the configured views of the val list."""
    dataset = VideoDataset(
        manifest, config.data, views=parse_views(config.eval.views), on_error=config.data.on_error
    )
    loader = make_loader(
        dataset, batch_size=config.eval.batch_size, shuffle=False, num_workers=config.data.num_workers
    )
    return evaluate(network, loader, accelerator=accelerator, combine=config.eval.combine).summary()


def seed_step(seed: int, step: int) -> torch.Generator:
    """Seed torch's global generator (dropout) for a step and return a CPU generator for the batch's draws."""
    torch.manual_seed((seed * 1_000_003 + step) % 2**63)
    return torch.Generator().manual_seed((seed * 1_000_033 + step) % 2**63)


class StopSignal:
    """Turns SIGINT and SIGTERM into `requested`, so that the step is finished; the second one interrupts."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
