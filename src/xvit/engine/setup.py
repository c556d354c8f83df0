"""What a training run is made of, built from the configuration."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, DistributedType, gather_object, set_seed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from xvit.config import Config, write_yaml
from xvit.data import Manifest, VideoDataset, load_manifest, make_loader
from xvit.engine.checkpoint import save_checkpoint
from xvit.engine.optim import freeze, make_optimizer
from xvit.errors import ConfigError, DatasetError, WeightsError, XViTError
from xvit.models import XViT, build_model, load_model, save_model
from xvit.models.convert import convert_weights
from xvit.models.cost import activations, multiply_adds
from xvit.types import Batch


class Run:
    """Lists, model, optimiser and loader of a training, and what has to survive a restart.

    model is the plain XViT, `network` what Accelerate (and torch.compile) made of it, `average` its moving
    average if one is kept, `evaluated` whichever of model and average is validated and saved.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = Path(config.output)
        self.accelerator = make_accelerator(config)
        self.trackers = self.accelerator
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
        network = torch.compile(self.model) if config.train.compile else self.model
        optimizer = make_optimizer(self.model, config.train)
        self.network, self.optimizer, self.loader = self.accelerator.prepare(network, optimizer, loader)
        self.metrics: dict[str, Any] = {}
        self.best: dict[str, Any] = {}
        self.worse = 0
        self.validated = 0
        self.nonfinite = 0
        self.unreadable: dict[str, str] = {}
        if config.train.trackers:
            self.accelerator.init_trackers("xvit", config={"output": config.output})

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def evaluated(self) -> XViT:
        if self.average is None:
            return self.model
        assert isinstance(self.average.module, XViT)
        return self.average.module

    @property
    def out_of_patience(self) -> bool:
        return self.config.train.patience is not None and self.worse >= self.config.train.patience

    def describe(self, steps: int) -> str:
        """What is about to happen, for a person."""
        clip = self.model.clip
        macs, memory = expected_cost(self)
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return "\n".join(
            [
                f"data   {len(self.train_list.records)} train and {len(self.val_list.records)} val videos, "
                f"{sum(self.train_list.num_classes)} classes, {self.train_list.format}",
                f"model  {self.model.config.name}, {self.num_parameters / 1e6:.2f} M parameters "
                f"({trained / 1e6:.2f} M trained), {macs / 1e9:.3g} G "
                f"multiply-adds a clip of {clip.num_frames} frames at {clip.size} px",
                f"steps  {steps} of {self.batch_size} clips, {self.steps_per_epoch} an epoch, "
                f"on {self.accelerator.num_processes} × {self.accelerator.device}",
                f"memory about {memory / 1e9:.2g} GB a process, beside decoded videos and libraries",
                f"output {self.folder}",
            ]
        )

    def batches(self, loader: Iterable[Batch]) -> Iterator[list[Batch]]:
        """The accumulated passes of each step, on the device.

        A batch without a readable video (`data.on_error=skip`) takes part as one with no clips.
        """
        passes: list[Batch] = []
        for batch in loader:
            self.unreadable |= {self.train_list.records[row].path: reason for row, reason in batch.failures}
            passes.append(batch.to(self.accelerator.device))
            if len(passes) == self.config.train.accumulate:
                yield passes
                passes = []

    def gradients_held(self, held: bool) -> contextlib.AbstractContextManager[None]:
        """Where `held`, processes do not exchange gradients yet."""
        return self.accelerator.no_sync(self.network) if held else contextlib.nullcontext()

    def over_processes(self, value: float) -> float:
        """The sum of every process's `value`."""
        if self.accelerator.num_processes == 1:
            return value
        own = torch.tensor(value, dtype=torch.float32, device=self.accelerator.device)
        return float(self.accelerator.reduce(own, "sum"))

    def anywhere(self, flag: bool) -> bool:
        """Whether any process says so: a signal may reach one of them only, or at another step."""
        return self.over_processes(float(flag)) > 0

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
        return {path: reason for part in gather_object([self.unreadable]) for path, reason in part.items()}

    def validation_due(self, step: int, steps: int) -> bool:
        """Whether the val list is to be scored now."""
        epochs, within = divmod(step, self.steps_per_epoch)
        due = step >= steps or (within == 0 and epochs % self.config.train.eval_every == 0)
        return due and step > self.validated

    def note(self, metrics: dict[str, Any], step: int) -> None:
        """Remember the newest validation and the best one, with the model of the best in `best/`."""
        self.metrics, self.validated = metrics, step
        name = self.config.train.best_metric
        if metrics.get(name, 0.0) > self.best.get(f"best_{name}", -1.0):
            self.best = {f"best_{name}": metrics.get(name, 0.0), "best_step": step}
            self.worse = 0
            if self.is_main:
                save_model(self.evaluated, self.folder / "best")
                write_yaml(self.config, self.folder / "best" / "config.yaml")
        else:
            self.worse += 1

    def save(self, step: int) -> None:
        """Write a checkpoint. Every process has to call it, one writes."""
        unreadable = self.all_unreadable()
        if self.is_main:
            average = None if self.average is None else self.average.state_dict()
            state = {
                "step": step,
                "model": self.model.state_dict(),
                "average": average,
                "optimizer": self.optimizer.state_dict(),
                "metrics": self.metrics,
                "best": self.best,
                "worse": self.worse,
                "validated": self.validated,
                "nonfinite": self.nonfinite,
                "unreadable": unreadable,
            }
            save_checkpoint(self.folder, step, state, keep_last=self.config.train.keep_last)

    def save_released(self, epoch: int) -> None:
        """Write `checkpoints/checkpoint_epoch_00012.pyth` after epoch 12, in the released code's layout."""
        if self.is_main:
            target = self.folder / "checkpoints" / f"checkpoint_epoch_{epoch:05}.pyth"
            save_model(self.evaluated, self.folder)
            draft = target.with_suffix(".unfinished")
            convert_weights(self.folder, draft)
            content = torch.load(draft, weights_only=True)
            content |= {"epoch": epoch - 1, "optimizer_state": self.optimizer.state_dict()}
            torch.save(content, draft)
            draft.replace(target)

    def load_state(self, state: dict[str, Any]) -> int:
        """Take over a checkpoint's state and return its step."""
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
        except (RuntimeError, ValueError, TypeError, KeyError) as err:
            reason = "its checkpoint is of another model; choose another output or train.resume=never"
            raise WeightsError(self.folder, reason) from err
        self.metrics, self.best = state["metrics"], state["best"]
        self.worse, self.nonfinite = state["worse"], state["nonfinite"]
        self.validated, self.unreadable = state["validated"], state["unreadable"]
        return int(state["step"])


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
    clips = run.batch_size // (config.train.accumulate * run.accelerator.num_processes)
    kept = activations(twin)[config.train.grad_checkpointing]
    return macs, 4 * (copies + trained + state) + clips * kept


def build_run(config: Config) -> Run:
    """Everything a training needs. Raises ConfigError, DatasetError or WeightsError."""
    return Run(config)


def make_accelerator(config: Config) -> Accelerator:
    """Accelerate's view of this process: device, precision, and the other processes there are."""
    AcceleratorState._reset_state()  # a second training in this process may want another precision
    precision = {"fp32": "no"}.get(config.train.precision, config.train.precision)
    accelerator = Accelerator(
        cpu=config.device == "cpu",
        mixed_precision=precision,
        # Every process takes its part of each global batch, so their number does not change the losses.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with=list(config.train.trackers) or None,
        project_dir=config.output if config.train.trackers else None,
    )
    kind = accelerator.distributed_type
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ConfigError(
            f"the launcher asks for {kind.value}: every process here holds the whole model; launch without "
            "it, and where memory is short use train.grad_checkpointing=true and train.accumulate"
        )
    return accelerator


def make_model(config: Config, train_list: Manifest) -> XViT:
    """The model of `config`, warm-started and frozen as it says."""
    model = build_model(
        config.model, num_classes=train_list.num_classes, clip=config.data, classes=train_list.classes
    )
    if config.train.init_from is not None:
        warm_start(model, config.train.init_from, new_head=config.train.new_head)
    model.set_grad_checkpointing(config.train.grad_checkpointing)
    freeze(model, config.train.trained_blocks)
    return model


def warm_start(model: XViT, path: str, *, new_head: bool) -> None:
    """Take the weights of another of our or the authors' models; with `new_head` all but its classifier.

    Raises WeightsError listing what does not fit.
    """
    source = load_model(path).state_dict()
    if new_head:
        source = {name: tensor for name, tensor in source.items() if not name.startswith("head.fc.")}
        source |= {f"head.fc.{name}": tensor for name, tensor in model.head.fc.state_dict().items()}
    own = model.state_dict()
    wrong = sorted(own.keys() ^ source.keys())
    wrong += sorted(n for n in own.keys() & source.keys() if own[n].shape != source[n].shape)
    if wrong:
        hint = "; add train.new_head=true for other classes" if any("head.fc" in n for n in wrong) else ""
        raise WeightsError(path, f"does not fit the model of this run: {', '.join(wrong[:6])}{hint}")
    model.load_state_dict(source)


def load_lists(config: Config) -> tuple[Manifest, Manifest]:
    """The train and val lists of `data.root`. Raises DatasetError on empty or contradicting ones."""
    if config.data.root is None:
        raise ConfigError("data.root is not set; add data.root=FOLDER, the folder that holds your videos")
    train_list = load_manifest(config.data, "train")
    val_list = load_manifest(config.data, "val", classes=train_list.classes)
    for manifest in (train_list, val_list):
        if not manifest.records:
            raise DatasetError(f"{config.data.root}: no videos in the {manifest.split} split")
    if len(train_list.classes) == 1 and len(train_list.classes[0]) == 1:
        name = train_list.classes[0][0]
        raise DatasetError(
            f"{config.data.root}: only one class, {name!r}: is this the folder above the classes?"
        )
    for task, names in enumerate(train_list.classes):
        columns = slice(task, task + 1) if len(train_list.classes) > 1 else slice(None)
        known = {label for record in train_list.records for label in record.labels[columns]}
        unseen = {label for record in val_list.records for label in record.labels[columns]} - known - {-1}
        if unseen:
            raise DatasetError(
                f"{config.data.root}: the class {names[min(unseen)]!r} is in val but not in train"
            )
    return train_list, val_list
