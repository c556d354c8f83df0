"""The processes of a run: what Accelerate makes of this one, and weights spread over all of them (FSDP)."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, DistributedType
from torch import Tensor, nn
from torch.distributed import TCPStore
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from xvit.config import Config
from xvit.engine.trackers import choose_trackers
from xvit.errors import ConfigError
from xvit.models import XViT


def make_accelerator(config: Config) -> Accelerator:
    """Accelerate's view of this process: device, precision, and the other processes there are."""
    AcceleratorState._reset_state()  # a second training in this process may want another precision
    precision = {"fp32": "no"}.get(config.train.precision, config.train.precision)
    if precision == "fp16" and (config.device == "cpu" or not torch.cuda.is_available()):
        raise ConfigError("train.precision=fp16 needs a GPU; use train.precision=bf16")
    accelerator = Accelerator(
        cpu=_on_cpu(config.device),
        mixed_precision=precision,
        # Every process takes its part of each global batch, so their number does not change the losses.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with=choose_trackers(config) or None,
        project_dir=config.output if config.train.trackers else None,
    )
    found = accelerator.device
    if config.device not in ("auto", found.type, str(found)):
        raise ConfigError(
            f"device: cannot train on {config.device!r} here, but on {str(found)!r}; say device=auto "
            "(CUDA_VISIBLE_DEVICES chooses among GPUs)"
        )
    _check_all_joined(accelerator)
    kind = accelerator.distributed_type
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ConfigError(
            f"the launcher asks for {kind.value}: launch without it; train.shard=fsdp spreads weights, "
            "gradients and the optimiser's state over the processes"
        )
    if config.train.shard == "fsdp":
        if config.train.head_first:
            raise ConfigError("train.head_first needs the whole model in each process: train.shard=none")
        if accelerator.num_processes == 1:
            raise ConfigError("train.shard=fsdp needs several processes; start them with torchrun")
        if precision == "fp16":
            raise ConfigError("train.shard=fsdp is for fp32 and bf16; use train.precision=bf16")
    return accelerator


def meet(device: str) -> Accelerator | None:
    """The processes that torchrun started, for an evaluation they share; None where this one is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=_on_cpu(device))
    _check_all_joined(accelerator)
    return accelerator


def _on_cpu(device: str) -> bool:
    """Accelerate joins processes without a GPU only where it is told that they compute on the CPU."""
    return device == "cpu" or (device == "auto" and not torch.accelerator.is_available())


def _check_all_joined(accelerator: Accelerator) -> None:
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:  # each would train, or evaluate, by itself
        raise ConfigError(
            f"{launched} processes were launched, and cannot work together on {str(accelerator.device)!r}"
        )


class Words:
    """What processes tell each other without meeting: words in the store that they once met at.

    A word stays for the training it was said in. `lost` tells that the store has gone.
    """

    _trainings = itertools.count()

    def __init__(self) -> None:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        patience = timedelta(seconds=5)
        self._store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=patience)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._prefix = f"xvit/{attempt}/{next(self._trainings)}/"
        self.lost = False

    def put(self, word: str) -> None:
        """Say it to all processes."""
        try:
            self._store.set(self._prefix + word, "")
        except RuntimeError:
            self.lost = True

    def has(self, word: str) -> bool:
        """Whether some process has said it."""
        try:
            return not self.lost and self._store.check([self._prefix + word])
        except RuntimeError:
            self.lost = True
            return False


def share_words(accelerator: Accelerator) -> Words | None:
    """Words for the processes of this training; None where this one is alone, or has no way to them."""
    if accelerator.num_processes > 1:
        with contextlib.suppress(KeyError, ValueError, RuntimeError):
            return Words()
    return None


def part() -> None:
    """Leave the other processes, at the very end: having met once, they cannot meet again safely."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def shard(model: XViT, accelerator: Accelerator) -> None:
    """Leave each process its part of every weight (FSDP); a block's weights meet while the block computes.

    Accelerate's own FSDP leaves out processes without a GPU, torch's does not; so it is called directly, and
    a run on CPUs tests what a run on GPUs does.
    """
    model.to(accelerator.device)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in model.backbone.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Every weight in full, on every process. Of a sharded model every process has to call it."""
    weights: dict[str, Any] = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    return weights


def collect_state(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Weights, and the optimiser's state by the weights' names, in full on the CPU of the first process.

    It is the same however many processes there are, sharded or not. Of a sharded model all have to call it.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = {"model": get_model_state_dict(model, options=options)}
    if optimizer is not None and optimizer.state:  # for one that never stepped torch would take a step
        state["optimizer"] = get_optimizer_state_dict(model, optimizer, options=options)
    return state


def restore_state(
    state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Take over what `collect_state` gave.

    Raises RuntimeError, ValueError or KeyError where it is of another model or optimiser.
    """
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, state["model"], options=options)
    if optimizer is not None and "optimizer" in state:
        set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)
