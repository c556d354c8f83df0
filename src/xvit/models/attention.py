"""The schemes XViT is compared with, on the same backbone and interface: tokens (B, T, N, C) in and out.

Spatial-only attention is `SpaceTimeAttention` with no mixing.
"""

from __future__ import annotations

from typing import Any

from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from xvit.models.mixing import SpaceTimeAttention


class JointAttention(Attention):
    """Every token of the clip attends to all T·N tokens: the cost grows with T²."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """x: (B, T, N, C) -> (B, T, N, C)."""
        return super().forward(x.flatten(1, 2), attn_mask, is_causal).view(x.shape)


class TemporalAttention(SpaceTimeAttention):
    """Every token attends to the tokens at its own place in all frames."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """x: (B, T, N, C) -> (B, T, N, C)."""
        return super().forward(x.transpose(1, 2), attn_mask, is_causal).transpose(1, 2)


class DividedBlock(Block):
    """Divided space-time attention (TimeSformer): over time first, then the image model's block.

    The last layer of the temporal branch starts at zero, so that the block starts as the image model's.
    """

    def __init__(self, dim: int, num_heads: int, **kwargs: Any) -> None:
        super().__init__(dim, num_heads, **kwargs)
        norm_layer = kwargs.get("norm_layer", nn.LayerNorm)
        self.time_norm = norm_layer(dim)
        self.time_attn = TemporalAttention(dim, num_heads, qkv_bias=kwargs.get("qkv_bias", False))
        self.time_fc = nn.Linear(dim, dim)
        self.init_weights()

    def init_weights(self) -> None:
        """Called again by timm's own initialisation, which would otherwise fill `time_fc`."""
        nn.init.zeros_(self.time_fc.weight)
        nn.init.zeros_(self.time_fc.bias)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """x: (B, T, N, C) -> (B, T, N, C)."""
        x = x + self.drop_path1(self.time_fc(self.time_attn(self.time_norm(x))))
        return super().forward(x, attn_mask=attn_mask, is_causal=is_causal)
