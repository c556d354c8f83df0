"""What a training run is made of, built from the configuration."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, set_seed
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from xvit.config import Config, write_yaml
from xvit.data import Manifest, VideoDataset, make_loader
from xvit.engine.checkpoint import save_checkpoint
from xvit.engine.optim import make_optimizer
from xvit.engine.processes import collect_state, make_accelerator, restore_state, shard, whole_weights
from xvit.engine.start import load_lists, make_model, of_another
from xvit.errors import ConfigError, DatasetError, XViTError
from xvit.models import XViT, save_model
from xvit.models.convert import convert_weights, save_torch
from xvit.types import Batch


class Run:
    """Lists, model, optimiser and loader of a training, and what has to survive a restart.

    model is the plain XViT, `network` what Accelerate (and torch.compile) made of it, `average` its moving
    average if one is kept, `evaluated` gives whichever of model and average is validated and saved. With
    `train.shard=fsdp` (`sharded`) model and average hold this process's part of every weight.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = Path(config.output)
        self.accelerator = make_accelerator(config)
        self.is_main = self.accelerator.is_main_process
        set_seed(config.seed)
        self.train_list, self.val_list = load_lists(config)
        self.model = make_model(config, self.train_list)
        self.average: AveragedModel | None = None
        if config.train.ema_decay is not None:
            self.average = AveragedModel(
                self.model, multi_avg_fn=get_ema_multi_avg_fn(config.train.ema_decay)
            )
            self.average.to(self.accelerator.device)
        self.sharded = config.train.shard == "fsdp"
        if self.sharded and config.train.head_first:
            raise ConfigError(
                "train.head_first needs the whole model in each process: train.shard must be none"
            )
        if self.sharded:
            shard(self.model, self.accelerator)
            if self.average is not None:
                shard(_averaged(self.average), self.accelerator)
        self.dataset = VideoDataset(
            self.train_list,
            config.data,
            augment=config.data.augment,
            seed=config.seed,
            on_error=config.data.on_error,
        )
        passes = config.train.accumulate * self.accelerator.num_processes
        self.batch_size = min(config.train.batch_size, len(self.dataset) // passes * passes)
        if not self.batch_size or self.batch_size % passes:
            raise ConfigError(
                f"train.batch_size: {self.batch_size or len(self.dataset)} videos a step do not divide over "
                f"{passes} passes (train.accumulate × processes)"
            )
        loader = make_loader(
            self.dataset,
            batch_size=self.batch_size // config.train.accumulate,
            shuffle=True,
            num_workers=config.data.num_workers,
            drop_last=True,
            class_balanced=config.train.class_balanced,
        )
        self.steps_per_epoch = len(loader) // config.train.accumulate
        network: Any = torch.compile(self.model) if config.train.compile else self.model
        optimizer = make_optimizer(self.model, config.train)
        self.network: nn.Module = network if self.sharded else self.accelerator.prepare(network)
        self.optimizer, self.loader = self.accelerator.prepare(optimizer, loader)
        self.metrics: dict[str, Any] = {}
        self.best: dict[str, Any] = {}
        self.step = 0
        self.changing = threading.RLock()  # held while weights change or are written
        self.finished = False
        self.alone = False  # the other processes no longer answer
        self.worse = 0
        self.validated = 0
        self.nonfinite = 0
        self.unreadable: dict[str, str] = {}

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def lr_scale(self) -> float:
        """The factor on all rates; 1 unless they are to follow the batch."""
        return self.batch_size / (self.config.train.lr_batch or self.batch_size)

    def evaluated(self) -> XViT:
        """The model to validate and to save, whole in every process. All of them have to call it."""
        chosen = self.model if self.average is None else _averaged(self.average)
        if not self.sharded:
            return chosen
        whole = XViT(
            chosen.config,
            num_classes=chosen.num_classes,
            clip=chosen.clip,
            classes=chosen.classes,
            several_labels=chosen.several_labels,
        )
        whole.load_state_dict(whole_weights(chosen))
        return whole.to(self.accelerator.device)

    @property
    def out_of_patience(self) -> bool:
        return self.config.train.patience is not None and self.worse >= self.config.train.patience

    def batches(self, loader: Iterable[Batch]) -> Iterator[list[Batch]]:
        """The accumulated passes of each step, on the device.

        A batch without a readable video (`data.on_error=skip`) takes part as one with no clips.
        """
        passes: list[Batch] = []
        for batch in self.watched(loader, self.train_list):
            passes.append(batch.to(self.accelerator.device))
            if len(passes) == self.config.train.accumulate:
                yield passes
                passes = []

    def watched(self, loader: Iterable[Batch], manifest: Manifest) -> Iterator[Batch]:
        """The batches of `manifest`, while it is kept which videos could not be read."""
        for batch in loader:
            self.unreadable |= {manifest.records[row].path: reason for row, reason in batch.failures}
            yield batch

    def gradients_held(self, held: bool) -> contextlib.AbstractContextManager[None]:
        """Where `held`, processes do not exchange gradients yet."""
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(not held)
            return contextlib.nullcontext()
        return self.accelerator.no_sync(self.network) if held else contextlib.nullcontext()

    def over_processes(self, values: torch.Tensor) -> list[float]:
        """The sums of every process's `values` (n,)."""
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, "sum")
        return values.tolist()

    def anywhere(self, flag: bool) -> bool:
        """Whether any process says so: a signal may reach one of them only, or at another step."""
        if self.accelerator.num_processes == 1:
            return flag
        return self.over_processes(torch.tensor([float(flag)], device=self.accelerator.device))[0] > 0

    def count_clips(self, passes: list[Batch]) -> int:
        """The clips of this step over all processes, of which only unreadable videos may be missing."""
        own = sum(len(batch.index) for batch in passes)
        if self.config.data.on_error == "raise" or self.accelerator.num_processes == 1:
            return own * self.accelerator.num_processes
        return int(self.over_processes(torch.tensor([float(own)], device=self.accelerator.device))[0])

    def track(self, group: str, values: dict[str, Any], step: int) -> None:
        """Hand numbers to the configured trackers, as `train/loss`."""
        if self.accelerator.trackers:
            self.accelerator.log({f"{group}/{name}": value for name, value in values.items()}, step=step)

    def check_alike(self, step: int) -> None:
        """Raise XViTError unless all processes are about to go on from the same step."""
        steps = gather_object([step])
        if len(set(steps)) > 1:
            raise XViTError(
                f"{self.folder}: the processes found checkpoints of different steps ({min(steps)} and "
                f"{max(steps)}); output must be a folder that all machines share"
            )

    def all_unreadable(self) -> dict[str, str]:
        """Path and reason of the videos that some process could not read."""
        parts = [self.unreadable] if self.alone else gather_object([self.unreadable])
        return {path: reason for part in parts for path, reason in part.items()}

    def nothing_readable(self) -> DatasetError:
        """What to say where no video could be trained on. Every process has to call it."""
        found = self.all_unreadable()
        path, reason = next(iter(found.items()))
        return DatasetError(
            f"{self.config.data.root}: none of the last {len(found)} videos can be read: {path}: {reason}"
        )

    def validation_due(self, step: int, steps: int) -> bool:
        """Whether the val list is to be scored now."""
        return (step >= steps or self._validation_planned(step)) and step > self.validated

    def _validation_planned(self, step: int) -> bool:
        epochs, within = divmod(step, self.steps_per_epoch)
        return within == 0 and epochs % self.config.train.eval_every == 0

    def note(self, metrics: dict[str, Any], step: int, model: XViT) -> None:
        """Remember the newest validation, of `model`, and the best one, with its model in `best/`."""
        name = self.config.train.best_metric
        with self.changing:
            self.metrics, self.validated = metrics, step
            if metrics.get(name, 0.0) <= self.best.get(f"best_{name}", -1.0):
                # A stop at train.max_steps validates once more than a run that goes on.
                self.worse += self._validation_planned(step)
                return
            self.best, self.worse = {f"best_{name}": metrics.get(name, 0.0), "best_step": step}, 0
            if self.is_main:
                save_model(model, self.folder / "best")
                write_yaml(self.config, self.folder / "best" / "config.yaml")

    def save(self, step: int) -> None:
        """Write a checkpoint. Every process has to call it, one writes."""
        with self.changing:
            state = {
                "step": step,
                "classes": self.train_list.classes,
                "list_sha256": self.train_list.digest,
                **collect_state(self.model, self.optimizer.optimizer),
                "average": None if self.average is None else collect_state(self.average),
                "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
                "metrics": self.metrics,
                "best": self.best,
                "worse": self.worse,
                "validated": self.validated,
                "nonfinite": self.nonfinite,
                "unreadable": self.all_unreadable(),
            }
            if self.is_main:
                save_checkpoint(self.folder, step, state, keep_last=self.config.train.keep_last)

    def save_released(self, epoch: int) -> None:
        """Write `checkpoints/checkpoint_epoch_00012.pyth` after epoch 12, in the released code's layout.

        Every process has to call it. A sharded optimiser's state goes by the weights' names.
        """
        with self.changing:
            model, optimizer = self.evaluated(), self.optimizer.state_dict()
            if self.sharded:
                optimizer = collect_state(self.model, self.optimizer.optimizer).get("optimizer")
            if self.is_main:
                target = self.folder / "checkpoints" / f"checkpoint_epoch_{epoch:05}.pyth"
                draft = target.with_suffix(".unfinished")
                save_model(model, self.folder)
                convert_weights(self.folder, draft)
                content = torch.load(draft, weights_only=True)
                save_torch(content | {"epoch": epoch - 1, "optimizer_state": optimizer}, draft)
                draft.replace(target)

    def load_state(self, state: dict[str, Any]) -> int:
        """Take over a checkpoint's state and return its step. Raises WeightsError on another run's."""
        if state.get("classes", self.train_list.classes) != self.train_list.classes:
            raise of_another("list of classes", self.folder, self.config)
        try:
            restore_state(state, self.model, self.optimizer.optimizer)
            if self.average is not None:
                restore_state(state["average"], self.average)
            if self.accelerator.scaler is not None and state["scaler"] is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, TypeError, KeyError) as err:
            raise of_another("model or optimiser", self.folder, self.config) from err
        self.metrics, self.best = state["metrics"], state["best"]
        self.worse, self.nonfinite = state["worse"], state["nonfinite"]
        self.validated, self.unreadable = state["validated"], state["unreadable"]
        self.step = int(state["step"])
        return self.step


def _averaged(average: AveragedModel) -> XViT:
    assert isinstance(average.module, XViT)
    return average.module


def build_run(config: Config) -> Run:
    """Everything a training needs. Raises ConfigError, DatasetError or WeightsError."""
    return Run(config)
