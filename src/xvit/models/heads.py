"""From frame features (B, T, D) to logits (B, K); K is the sum over the tasks that share the head."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn


class MeanHead(nn.Module):
    """A linear classifier on the mean of the frame features."""

    def __init__(self, dim: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = _classifier(dim, num_classes)

    def forward(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """features: (B, T, D) -> logits (B, K), or the mean (B, D) before the classifier."""
        mean = self.dropout(features).mean(dim=1)
        return mean if pre_logits else self.fc(mean)


class TemporalHead(nn.Module):
    """Temporal attention (paper, Sec. 3): a token attends to the frame features through `depth` layers.

    positions: the number of learned temporal positions added to the frame features; None for none, as in the
        released weights, which then cannot tell the order of frames here.
    from_mean: the token starts from the mean of the frame features, the layers' output projections start at
        zero and the classifier is linear: the head starts exactly as `MeanHead`.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        depth: int = 1,
        num_heads: int = 12,
        dropout: float = 0.0,
        positions: int | None = None,
        from_mean: bool = False,
    ) -> None:
        super().__init__()
        self.from_mean = from_mean
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, positions, dim)) if positions else None
        self.dropout = nn.Dropout(dropout)
        # NOTE(parity): eps 1e-5 and no qkv bias, unlike the backbone's blocks.
        self.blocks = nn.Sequential(*[Block(dim, num_heads, norm_layer=nn.LayerNorm) for _ in range(depth)])
        hidden = [] if from_mean else [nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Dropout(dropout)]
        self.mlp = nn.Sequential(*hidden)
        self.fc = _classifier(dim, num_classes)
        self._init_weights()

    def _init_weights(self) -> None:
        for layer in [*self.blocks.modules(), *self.mlp]:
            if isinstance(layer, nn.Linear):
                trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if self.positions is not None:
            nn.init.normal_(self.positions)  # as large as the layer-normalised features they join
        if not self.from_mean:
            trunc_normal_(self.cls_token, std=0.02)
            return
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.fc2.weight)

    def forward(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """features: (B, T, D) -> logits (B, K), or what the classifier sees (B, D)."""
        # NOTE(parity): dropout acts on every frame's feature here and again before the classifier.
        frames = self.dropout(features)
        token = self.cls_token.expand(frames.shape[0], -1, -1)
        if self.from_mean:
            token = token + frames.mean(dim=1, keepdim=True)
        if self.positions is not None:
            frames = frames + stretch(self.positions, frames.shape[1])
        y = self.mlp(self.blocks(torch.cat([token, frames], dim=1))[:, 0])
        return y if pre_logits else self.fc(y)


class MomentsHead(nn.Module):
    """A linear classifier on the first cosine moments over time of the frame features.

    Moment 0 is the mean, moment 1 sets early frames against late ones, and so on: order in as few numbers as
    a few dozen videos can teach. The classifier starts on the mean alone; `standardise` lets each moment
    count for as much as it says about the classes.
    """

    # The width of features that the learning rates of configs/finetune/ are for: wider ones are scaled down,
    # so that a step of Adam moves the logits as far.
    WIDTH = 384
    # No moment is shut out for good: tuning may teach one what it does not say yet.
    LEAST = 0.05

    centre: Tensor
    scale: Tensor

    def __init__(self, dim: int, num_classes: int, *, moments: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.moments = moments
        self.register_buffer("centre", torch.zeros(moments * dim))
        self.register_buffer("scale", torch.ones(moments * dim))
        self.dropout = nn.Dropout(dropout)
        self.fc = _classifier(moments * dim, num_classes)
        with torch.no_grad():
            self.fc.weight[:, dim:] = 0

    def forward(self, features: Tensor, pre_logits: bool = False, basis: Tensor | None = None) -> Tensor:
        """features: (B, T, D) -> logits (B, K), or the moments (B, moments·D) before the classifier.

        basis: (moments, T), by default that of T frames.
        """
        y = self.dropout((self._moments(features, basis) - self.centre) * self.scale)
        return y if pre_logits else self.fc(y)

    def basis(self, frames: int) -> Tensor:
        """The moments of `frames` features as a matrix (moments, frames) float32, that multiplies them."""
        device = self.centre.device
        time = (torch.arange(frames, device=device) + 0.5) / frames
        order = torch.arange(self.moments, device=device)
        weight = torch.where(order > 0, math.sqrt(2), 1.0) / frames
        return torch.cos(math.pi * order[:, None] * time) * weight[:, None]

    @torch.no_grad()
    def standardise(self, features: Tensor, targets: Tensor, *, draws: int = 1) -> None:
        """Fit mean and deviation of every moment to features (n, T, D) whose classes are 1 in targets (n, K).

        From now on the mean is 0, and a moment's deviation is the share of its variance that the classes
        explain, relative to the moment of which they explain most: order counts for little where any frame
        shows the class, and the frames' content where only order does. Features wider than WIDTH deviate by
        as much less. draws: how many of the n are of one video.
        """
        values = self._moments(features)
        deviation, mean = torch.std_mean(values, dim=0)
        share = explained_variance(values, targets, draws).unflatten(0, (self.moments, -1)).mean(dim=1)
        share = share / share.max() if share.max() > 0 else torch.ones_like(share)
        width = features.shape[2]
        relative = share.clamp(min=self.LEAST) * min(1.0, self.WIDTH / width)
        self.centre.copy_(mean)
        self.scale.copy_(relative.repeat_interleave(width) / (deviation + 1e-5))

    def _moments(self, features: Tensor, basis: Tensor | None = None) -> Tensor:
        matrix = self.basis(features.shape[1]) if basis is None else basis
        return (matrix.to(features.dtype) @ features).flatten(1)


def explained_variance(values: Tensor, targets: Tensor, draws: int = 1) -> Tensor:
    """(D,): the share of the variance of values (n, D) that a linear model of targets (n, K) explains beyond
    chance (R², adjusted for the number of classes); 0 where there is too little to tell.

    draws: how many rows are of one video, and so no more than one observation.
    """
    values, targets = values - values.mean(dim=0), targets - targets.mean(dim=0)
    directions, size, _ = torch.linalg.svd(targets, full_matrices=False)
    directions = directions[:, size > 1e-4 * size.max()]
    seen, rank = len(values) // draws, directions.shape[1]
    if rank >= seen - 1:
        return values.new_zeros(values.shape[1])
    total = values.square().sum(dim=0)
    rest = 1 - (directions.T @ values).square().sum(dim=0) / total.clamp(min=1e-12)
    return 1 - rest * (seen - 1) / (seen - 1 - rank)


def stretch(table: Tensor, length: int) -> Tensor:
    """Linear interpolation of a table of rows (1, L, D) to (1, length, D)."""
    if table.shape[1] == length:
        return table
    return F.interpolate(table.transpose(1, 2), size=length, mode="linear").transpose(1, 2)


def _classifier(dim: int, num_classes: int) -> nn.Linear:
    fc = nn.Linear(dim, num_classes)
    trunc_normal_(fc.weight, std=0.02)
    nn.init.zeros_(fc.bias)
    return fc
