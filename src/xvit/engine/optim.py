"""What the loop optimises and how: parameter groups, schedule, mixup, losses."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from xvit.config import TrainConfig
from xvit.models import XViT
from xvit.models.backbone import is_video_parameter


class Blend(NamedTuple):
    """Every clip of a batch joined with a partner: mixup (a weighted sum) or CutMix (a box of the partner's).

    weight is the share of a clip's own label; box is (top, bottom, left, right) as shares of the sides, None
    for mixup.
    """

    weight: float
    partner: Tensor
    box: tuple[float, float, float, float] | None = None

    def frames(self, frames: Tensor) -> Tensor:
        """Join clips (B, T, C, H, W) with their partners; the box is the same in all frames."""
        other = frames[self.partner]
        if self.box is None:
            return frames.lerp(other, 1 - self.weight)
        top, bottom, left, right = self.pixels(frames)
        joined = frames.clone()
        joined[..., top:bottom, left:right] = other[..., top:bottom, left:right]
        return joined

    def pixels(self, frames: Tensor) -> tuple[int, int, int, int]:
        """The box in pixels of `frames`."""
        assert self.box is not None
        height, width = frames.shape[-2:]
        top, bottom, left, right = self.box
        return round(top * height), round(bottom * height), round(left * width), round(right * width)


def draw_blend(
    batch_size: int, mixup_alpha: float, cutmix_alpha: float, generator: torch.Generator
) -> Blend | None:
    """One blend for a batch, its weight ~ Beta(α, α); of mixup and CutMix, where both are on, either."""
    alphas = [alpha for alpha in (mixup_alpha, cutmix_alpha) if alpha > 0]
    if not alphas:
        return None
    chosen = int(torch.randint(len(alphas), (), generator=generator))
    # Beta from two gammas: torch.distributions takes no generator.
    gamma = torch._standard_gamma(torch.full((2,), alphas[chosen]), generator=generator)
    weight = float(gamma[0] / gamma.sum())
    partner = torch.randperm(batch_size, generator=generator)
    if cutmix_alpha == 0 or (mixup_alpha > 0 and chosen == 0):
        return Blend(weight, partner)
    side = math.sqrt(1 - weight)
    middle = torch.rand(2, generator=generator).tolist()
    (top, bottom), (left, right) = ((max(m - side / 2, 0.0), min(m + side / 2, 1.0)) for m in middle)
    return Blend(1 - (bottom - top) * (right - left), partner, (top, bottom, left, right))


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    num_classes: tuple[int, ...],
    *,
    label_smoothing: float = 0.0,
    blend: Blend | None = None,
) -> Tensor:
    """Cross entropy, summed over tasks; of a blend, the weighted mean over own and partners' labels.

    logits: (B, sum(num_classes)) float; labels: (B, len(num_classes)) int64. Returns a scalar. With one task
    labels may have more columns, the several labels of a video filled up with -1: then it is binary cross
    entropy, the mean over videos and classes, and smoothing draws targets towards one half.
    """
    if labels.shape[1] > len(num_classes):
        return _several_labels_loss(logits, labels, label_smoothing, blend)
    loss = logits.new_zeros(())
    for task_logits, target in zip(logits.split(list(num_classes), dim=1), labels.unbind(1), strict=True):
        task_loss = F.cross_entropy(task_logits, target, label_smoothing=label_smoothing)
        if blend is not None:
            other = F.cross_entropy(task_logits, target[blend.partner], label_smoothing=label_smoothing)
            task_loss = blend.weight * task_loss + (1 - blend.weight) * other
        loss = loss + task_loss
    return loss


def _several_labels_loss(logits: Tensor, labels: Tensor, smoothing: float, blend: Blend | None) -> Tensor:
    targets = indicators(labels, (logits.shape[1],)).to(logits)
    if blend is not None:
        targets = blend.weight * targets + (1 - blend.weight) * targets[blend.partner]
    return F.binary_cross_entropy_with_logits(logits, targets * (1 - smoothing) + smoothing / 2)


def indicators(labels: Tensor, num_classes: tuple[int, ...]) -> Tensor:
    """(B, sum(num_classes)) float32, 1 for the classes of a clip; labels as in `classification_loss`."""
    total = sum(num_classes)
    if len(num_classes) > 1:
        labels = labels + labels.new_tensor([0, *num_classes[:-1]]).cumsum(0)
    padded = torch.zeros(len(labels), total + 1, device=labels.device)  # -1 lands in the last column
    return padded.scatter(1, labels % (total + 1), 1.0)[:, :-1]


def correct(
    logits: Tensor, labels: Tensor, num_classes: tuple[int, ...], *, blend: Blend | None = None
) -> Tensor:
    """Which clips' labels score highest, in every task: (B,) bool. Of a blend the label of the larger share.

    logits: (B, sum(num_classes)); labels: (B, L) int64, of one task's several labels any counts.
    """
    if blend is not None and blend.weight < 0.5:
        labels = labels[blend.partner]
    found = torch.stack([task.argmax(1) for task in logits.split(list(num_classes), dim=1)], dim=1)
    return (found == labels).all(1) if len(num_classes) > 1 else (found == labels).any(1)


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


def make_optimizer(model: XViT, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or the paper's SGD over the parameters that train (see `freeze`)."""
    groups = parameter_groups(model, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True)


def parameter_groups(model: XViT, config: TrainConfig) -> list[dict[str, Any]]:
    """Groups of equal weight decay and learning-rate scale; each has `lr_scale`, the factor on the schedule.

    SGD decays everything but the biases behind the last transformer layer, as the released recipe does; AdamW
    leaves out vectors and what `no_weight_decay` names. `layer_decay` d scales block i of n by d**(n − i) and
    the embeddings by d**(n + 1); what an image model lacks has scales of its own.
    """
    depth, skip = len(model.backbone.blocks), model.no_weight_decay()
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if config.optimizer == "sgd":
            exempt = name.startswith(("head.mlp.", "head.fc.")) and name.endswith(".bias")
        else:
            exempt = parameter.ndim <= 1 or name in skip
        decay = 0.0 if exempt else config.weight_decay
        scale = config.layer_decay ** (depth + 1 - _layer(name, depth))
        if _layer(name, depth) > depth:
            scale = config.gate_lr_scale if name.endswith(".mix_gate") else config.new_lr_scale
        group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, "lr_scale": scale})
        group["params"].append(parameter)
    return list(groups.values())


def freeze(model: XViT, trained_blocks: int | None) -> None:
    """Stop the gradients of the image model but for its last `trained_blocks` blocks; None trains all of it.

    Head, temporal embedding, adapters and gates always train, and with any block so does the final norm.
    """
    if trained_blocks is None:
        return
    depth = len(model.backbone.blocks)
    for name, parameter in model.named_parameters():
        layer = _layer(name, depth)
        parameter.requires_grad_(layer > depth or layer > depth - trained_blocks)


def _layer(name: str, depth: int) -> int:
    """0 for the image model's embeddings, 1 … depth for its blocks, depth + 1 for what is new."""
    if not name.startswith("backbone.") or is_video_parameter(name):
        return depth + 1
    part = name.split(".")
    if part[1] == "blocks":
        return int(part[2]) + 1
    return depth if part[1] in ("norm", "fc_norm") else 0
