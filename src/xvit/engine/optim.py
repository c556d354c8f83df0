"""What the loop optimises and how: parameter groups, schedule, mixup, losses."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xvit.config import TrainConfig


class Mixup(NamedTuple):
    """Every clip blended with a partner: frames·weight + frames[partner]·(1 − weight)."""

    weight: float
    partner: Tensor

    def frames(self, frames: Tensor) -> Tensor:
        """Blend clips (B, ...) with their partners."""
        return frames.lerp(frames[self.partner], 1 - self.weight)


def draw_mixup(batch_size: int, alpha: float, generator: torch.Generator) -> Mixup | None:
    """One blend for a batch, weight ~ Beta(α, α); None where α is 0. Indices are on the CPU."""
    if alpha == 0:
        return None
    # Beta from two gammas: torch.distributions.Beta takes no generator.
    gamma = torch._standard_gamma(torch.full((2,), alpha), generator=generator)
    return Mixup(float(gamma[0] / gamma.sum()), torch.randperm(batch_size, generator=generator))


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    num_classes: tuple[int, ...],
    *,
    label_smoothing: float = 0.0,
    mixup: Mixup | None = None,
) -> Tensor:
    """Cross entropy, summed over tasks.

    logits: (B, sum(num_classes)) float; labels: (B, len(num_classes)) int64. Returns a scalar.
    """
    loss = logits.new_zeros(())
    for task_logits, target in zip(logits.split(list(num_classes), dim=1), labels.unbind(1), strict=True):
        task_loss = F.cross_entropy(task_logits, target, label_smoothing=label_smoothing)
        if mixup is not None:
            other = F.cross_entropy(task_logits, target[mixup.partner], label_smoothing=label_smoothing)
            task_loss = mixup.weight * task_loss + (1 - mixup.weight) * other
        loss = loss + task_loss
    return loss


def learning_rate(epoch: float, config: TrainConfig) -> float:
    """The rate at a fractional epoch: linear warm-up to where the cosine then is, then the cosine.

    As in the released code, the cosine counts from epoch 0, so warm-up meets it slightly below `lr`.
    """
    if epoch < config.warmup_epochs:
        target = _cosine(config.warmup_epochs, config)
        return config.warmup_start_lr + (target - config.warmup_start_lr) * epoch / config.warmup_epochs
    return _cosine(epoch, config)


def _cosine(epoch: float, config: TrainConfig) -> float:
    share = (1 + math.cos(math.pi * min(epoch / config.epochs, 1.0))) / 2
    return config.end_lr + (config.lr - config.end_lr) * share


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or the paper's SGD, each with the parameters it does not decay."""
    decayed, plain = [], []
    skip = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if (
            config.optimizer == "sgd"
        ):  # the released recipe, see FACTS of the configs: all but the head's biases
            exempt = name.startswith("head.") and name.endswith(".bias")
        else:
            exempt = parameter.ndim <= 1 or name in skip
        (plain if exempt else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
