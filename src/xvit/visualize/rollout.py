"""Attention rollout through space and time: from which patches of which frames a clip's feature came.

Rollout (Abnar and Zuidema 2020) takes the mean over heads of a layer's attention for where its tokens'
content comes from, one half of it, the other half being the residual connection; the layers' product is the
clip's. How attention carries content from frame to frame is in flow.py.

The product is never formed: one row, the decision's, is multiplied through the layers from the last to the
first. A layer's weights are computed from its recorded input when the row arrives, head by head.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import ParallelThingsBlock
from torch import Tensor, nn

from xvit.models import XViT
from xvit.models.heads import TemporalHead
from xvit.visualize.flow import attended, attention_weights


class _Layer(NamedTuple):
    """An attention layer, the block it is in, and the input it had."""

    attention: Any
    block: nn.Module
    x: Tensor


class Recording(NamedTuple):
    """One pass of a clip: logits (K,), tokens (T, N, D) after each block that the features are read
    from, and the layers in running order.
    """

    logits: Tensor
    tokens: list[Tensor]
    blocks: list[_Layer]
    head: list[_Layer]


@torch.no_grad()
def rollout(model: XViT, clip: Tensor) -> tuple[Tensor, Tensor]:
    """clip (T, 3, H, W) on the model's device -> logits (K,), shares (T, patches) that add up to 1.

    The frames of a tubelet share alike.
    """
    recording = record(model, clip)
    frames = head_shares(model.head, recording.head, len(recording.tokens[0]))
    weight = frames[:, None] / len(recording.tokens)
    read = [weight * pooling_shares(model.backbone, tokens) for tokens in recording.tokens]
    row, block = torch.zeros_like(read[0]), None
    for step in _steps(recording.blocks):
        if read and step[0].block is not block:  # a block whose output the feature has a part of
            row, block = row + read.pop(), step[0].block
        row = (row + sum(attended(layer.attention, layer.x, row) for layer in step)) / (1 + len(step))
    patches = row[:, model.backbone.num_prefix_tokens :].repeat_interleave(len(model.config.tubelet), dim=0)
    return recording.logits, patches / patches.sum()


def record(model: XViT, clip: Tensor) -> Recording:
    """Run a clip (T, 3, H, W) through a copy of the model that shares its weights, so that no other thread
    that uses the model meets the hooks.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    watched = copy.deepcopy(model, shared).eval()
    watched.grad_checkpointing = False
    blocks: list[_Layer] = []
    head: list[_Layer] = []
    tokens: list[Tensor] = []
    for block in watched.backbone.blocks:
        _watch(block, blocks)
    for block in watched.head.blocks if isinstance(watched.head, TemporalHead) else ():
        _watch(block, head)
    for block in watched.backbone.blocks[-model.config.feature_blocks :]:
        block.register_forward_hook(lambda module, args, out: tokens.append(out[0]))
    logits = watched(clip[None])[0].float()
    return Recording(logits, tokens, blocks, head)


def _watch(block: nn.Module, records: list[_Layer]) -> None:
    for layer in block.modules():
        if hasattr(layer, "qkv"):
            layer.register_forward_pre_hook(lambda layer, args: records.append(_Layer(layer, block, args[0])))


def _steps(layers: list[_Layer]) -> list[list[_Layer]]:
    """From the last layer to the first; parallel branches of a block are one step."""
    steps: list[list[_Layer]] = []
    for layer in reversed(layers):
        if isinstance(layer.block, ParallelThingsBlock) and steps and steps[-1][0].block is layer.block:
            steps[-1].append(layer)
        else:
            steps.append([layer])
    return steps


def head_shares(head: nn.Module, layers: list[_Layer], frames: int) -> Tensor:
    """(T,), adding up to 1: through the temporal head's attention, or the mean."""
    if not isinstance(head, TemporalHead):
        return torch.full((frames,), 1 / frames, device=next(head.parameters()).device)
    row = torch.zeros(1 + frames, device=head.cls_token.device)
    row[0] = 1
    for layer in reversed(layers):
        row = (row + attended(layer.attention, layer.x[None], row[None])[0]) / 2
    shares = row[1:]
    if head.from_mean:  # the token began as the mean of the frames
        shares = shares + row[0] / frames
    return shares / shares.sum()


def pooling_shares(backbone: Any, tokens: Tensor) -> Tensor:
    """tokens (T, N, D) after the blocks -> (T, N): each token's share in the feature of its frame."""
    tokens = backbone.norm(tokens)
    pool = getattr(backbone, "attn_pool", None)
    if isinstance(pool, AttentionPoolLatent):
        prefix = 0 if getattr(backbone, "pool_include_prefix", False) else backbone.num_prefix_tokens
        weights = _latent_weights(pool, tokens[:, prefix:])
        return nn.functional.pad(weights, (prefix, 0))
    # How far the feature moves with each token: exact for class tokens, means and maxima.
    with torch.enable_grad():
        tokens = tokens.detach().requires_grad_()
        if getattr(backbone, "dist_token", None) is not None:
            pooled = backbone.forward_head(tokens, pre_logits=True)
        else:
            pooled = backbone.pool(tokens)
        (moved,) = torch.autograd.grad(pooled.sum(), tokens)
    weights = moved.abs().sum(-1)
    return weights / weights.sum(-1, keepdim=True)


def _latent_weights(pool: AttentionPoolLatent, x: Tensor) -> Tensor:
    """The attention of a pooling token: x (T, N, D) -> (T, N), the mean over heads."""
    if pool.pos_embed is not None:
        x = x + pool.pos_embed
    shape = (pool.num_heads, pool.head_dim)
    key = pool.k_norm(pool.kv(x).unflatten(-1, (2, *shape))[:, :, 0].transpose(1, 2))
    query = pool.q_norm(pool.q(pool.latent).unflatten(-1, shape).transpose(1, 2))
    latents = attention_weights(query, key).mean(1)
    return latents[:, 0] if pool.pool == "token" else latents.mean(1)
