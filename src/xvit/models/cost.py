"""What a model costs: parameters, multiply-adds, weights and the activations a training step keeps.

Counted on tensors without memory (device "meta"), so that a ViT-L at 64 frames takes seconds on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from xvit.config import ClipConfig, ModelConfig
from xvit.models.backbone import embed
from xvit.models.xvit import XViT

FRAMES = (8, 16, 32, 64)
SCHEMES = ("mixing", "spatial", "divided", "joint")


class Cost(NamedTuple):
    """One row of `xvit info`.

    macs: multiply-adds per clip for each number of frames, attention included. exponent: of T in them, fitted
    by least squares of the logarithms. weight_mb: float32 weights. activation_mb: float32 activations that
    autograd keeps in a training step on one clip, without and with gradient checkpointing.
    gate_ops: elementwise multiply-adds of the learned gate per clip, which are no part of `macs`.
    """

    scheme: str
    parameters: int
    macs: dict[int, int]
    exponent: float
    weight_mb: float
    activation_mb: float
    activation_checkpointed_mb: float
    gate_ops: int


def compare_schemes(
    config: ModelConfig,
    clip: ClipConfig,
    num_classes: Sequence[int],
    *,
    frames: Sequence[int] = FRAMES,
    schemes: Sequence[str] = SCHEMES,
) -> list[Cost]:
    """The cost of `config` and of the schemes it is compared with, on the same backbone and head."""
    rows = []
    for scheme in schemes:
        values = config.model_dump() | {"attention": scheme, "backbone_weights": None}
        if scheme in ("divided", "joint"):
            values["summary_token"] = False
        # A clip of any length can be counted, whatever the group.
        values["mixing"]["group"] = None
        with torch.device("meta"):
            model = XViT(ModelConfig.model_validate(values), num_classes=num_classes, clip=clip)
        rows.append(_cost(scheme, model, frames))
    return rows


def _cost(scheme: str, model: XViT, frames: Sequence[int]) -> Cost:
    size, length = model.clip.size, model.num_images
    tubelet = len(model.config.tubelet)
    whole = {count: count + -count % tubelet for count in frames}  # the last one may be wanting frames
    macs = {count: multiply_adds(model, _clip(whole[count], size)) for count in frames}
    parameters = sum(p.numel() for p in model.parameters())
    kept, kept_checkpointed = activations(model)
    return Cost(
        scheme=scheme,
        parameters=parameters,
        macs=macs,
        exponent=_exponent({whole[count]: macs[count] for count in frames}),
        weight_mb=4 * parameters / 1e6,
        activation_mb=kept / 1e6,
        activation_checkpointed_mb=kept_checkpointed / 1e6,
        gate_ops=_gate_ops(model, length, size),
    )


def _clip(frames: int, size: int) -> Tensor:
    return torch.empty(1, frames, 3, size, size, device="meta")


def multiply_adds(model: nn.Module, inputs: Tensor) -> int:
    """Multiply-adds of one forward, attention included, whichever kernel would run it."""
    # The fused kernels of some devices are unknown to the counter; their plain form is two products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(inputs)
    return counter.get_total_flops() // 2


def activations(model: XViT) -> tuple[int, int]:
    """Bytes that a training step on one clip keeps, without and with gradient checkpointing.

    `model` is on the device "meta"; its parameters that need no gradient keep nothing.
    """
    shape = (1, model.clip.num_frames, 3, model.clip.size, model.clip.size)
    # Unlike "meta", pretended CPU tensors take the fused attention, which keeps no T·N² matrix.
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        frames = torch.empty(shape)
        images = model.images(frames)
        tokens = embed(model.backbone, images.flatten(0, 1), "timm").detach().unflatten(0, images.shape[:2])
        block = kept_bytes(model.backbone.blocks[0], tokens)
        plain = kept_bytes(model, frames)
        model.set_grad_checkpointing(True)
        # One block at a time is computed again, with all its activations.
        return plain, kept_bytes(model, frames) + block


def kept_bytes(model: nn.Module, inputs: Tensor) -> int:
    """Bytes of the activations that autograd keeps from a forward until the way back; parameters are not."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    seen: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = tensor
        return tensor

    was_training = model.training
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(inputs).sum()
    model.train(was_training)
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


def _exponent(macs: dict[int, int]) -> float:
    if len(macs) < 2:
        return math.nan
    points = [(math.log(frames), math.log(count)) for frames, count in macs.items()]
    middle_x, middle_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / sum(
        (x - middle_x) ** 2 for x, _ in points
    )


def _gate_ops(model: XViT, frames: int, size: int) -> int:
    """One multiply-add a token, moved channel and mixed tensor, in every gated block."""
    patch = model.backbone.patch_embed.patch_size
    tokens = model.backbone.num_prefix_tokens + (size // patch[0]) * (size // patch[1])
    layers: list[Any] = [m for m in model.modules() if getattr(m, "mix_gate", None) is not None]
    return sum(frames * tokens * layer.mix_gate.numel() * len(layer.mixing.mixed) for layer in layers)
