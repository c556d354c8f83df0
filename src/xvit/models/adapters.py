"""Small bottlenecks between the blocks of an image model that stays as it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


class Adapter(nn.Sequential):
    """What is added to tokens (…, width): norm, down to `bottleneck`, GELU, and up again; at first 0."""

    def __init__(self, width: int, bottleneck: int) -> None:
        up = nn.Linear(bottleneck, width)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        super().__init__(nn.LayerNorm(width), nn.Linear(width, bottleneck), nn.GELU(), up)


def add_adapters(blocks: Iterable[nn.Module], width: int, bottleneck: int) -> None:
    """Give every block an `adapter`, whose output joins the block's."""
    for block in blocks:
        block.adapter = Adapter(width, bottleneck)
        # A hook leaves the names of the image model's weights as they are.
        block.register_forward_hook(_adapt)


def _adapt(block: Any, inputs: Any, tokens: Tensor) -> Tensor:
    return tokens + block.adapter(tokens)
