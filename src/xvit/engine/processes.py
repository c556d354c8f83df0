"""The processes of a run: what Accelerate makes of this one, and weights spread over all of them (FSDP)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, DistributedType
from torch import Tensor, nn
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
        cpu=config.device == "cpu",
        mixed_precision=precision,
        # Every process takes its part of each global batch, so their number does not change the losses.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with=choose_trackers(config) or None,
        project_dir=config.output if config.train.trackers else None,
    )
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
    return Accelerator(cpu=device == "cpu")


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

    It is the same however many processes there are, sharded or not. All of them have to call it.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = {"model": get_model_state_dict(model, options=options)}
    if optimizer is not None:
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
    if optimizer is not None:
        set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)
