"""Where an attention layer's output comes from, in space and in time: one step of rollout.

The value that frame t attends to at place j holds channels of place j in the frames around t. With
A_h[t][i, j] the attention of head h, as computed from the mixed keys, and s_h(o) the share of that head's
value channels that come from frame t + o, what token (t, i) takes comes from token (t + o, j) by

    mean over h of  A_h[t][i, j] · s_h(o).

Where whole heads move (layout "heads") s_h is 1 for one o, but for the head at a border; where a fraction
of every head does ("channels") it is ρ/2 for either neighbour and 1 − ρ for t itself. A learned gate g
counts |g| for the neighbour and |1 − g| for t, channel by channel. Mixing of the input moves content once
more, before the projection; each of its output channels draws on all input channels, so all heads have the
shares of the whole width. Mixed keys and queries decide where a frame looks, and carry nothing. Past the
ends of the clip, or of a group, channels are zero: what would come from there is lost. A frame's summary is
the mean of its patches, and is taken apart again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xvit.models.attention import TemporalAttention
from xvit.models.mixing import SpaceTimeAttention, shift_frames


def attended(attention: Any, x: Tensor, row: Tensor) -> Tensor:
    """What a row of shares (T, N) becomes one attention layer earlier, its residual connection apart: (T, N).

    x: the layer's input, (1, T, N, C) for the layers of the backbone. Shares only ever get lost.
    """
    if isinstance(attention, TemporalAttention):
        return _within_frames(attention, x.transpose(1, 2), row.T).T
    if isinstance(attention, SpaceTimeAttention):
        return _within_frames(attention, x, row)
    shape = (3, attention.num_heads, attention.head_dim)
    query, key, _ = attention.qkv(x.reshape(-1, x.shape[-1])).unflatten(-1, shape).unbind(1)
    query, key = attention.q_norm(query), attention.k_norm(key)
    found = torch.zeros_like(row.flatten())
    for head in range(attention.num_heads):
        found += row.flatten() @ attention_weights(query[:, head], key[:, head])
    return found.view(row.shape) / attention.num_heads


def attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """query (..., N, d), key (..., M, d) -> (..., N, M), rows that add up to 1."""
    return (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)


def _within_frames(attention: SpaceTimeAttention, x: Tensor, row: Tensor) -> Tensor:
    query, key, _ = attention.attention_inputs(x)
    heads, tokens = attention.num_heads, x.shape[2]
    value_shares = channel_shares(attention, "value").unflatten(-1, (heads, -1)).mean(-1)
    input_shares = channel_shares(attention, "input").mean(-1)
    mixed = torch.zeros_like(row)
    summaries = row.new_zeros(key.shape[2] - tokens)
    for head in range(heads):
        weights = attention_weights(query[0, :, :, head], key[0, :, :, head])
        taken = torch.einsum("tn,tnm->tm", row, weights)
        mixed += _send(attention, taken[:, :tokens], value_shares[:, head])
        summaries += taken[:, tokens:].sum(0)
    found = _send(attention, mixed, input_shares)
    if attention.summary_from is not None:  # of the unmixed input
        found[:, attention.summary_from :] += summaries[:, None] / (tokens - attention.summary_from)
    return found / heads


def channel_shares(attention: SpaceTimeAttention, part: str) -> Tensor:
    """(1 + moves, C): how much of each channel of `part` is frame t's own, then how much each move brings.

    part: "value" or "input". Every channel adds up to 1.
    """
    mixing, moves = attention.mixing, attention.moves
    width = attention.attn_dim
    shares = attention.qkv.weight.new_zeros(1 + len(moves), width)
    shares[0] = 1
    if mixing is None or part not in mixing.mixed:
        return shares
    per_head = mixing.layout == "channels"
    table = shares.unflatten(-1, (attention.num_heads, -1)) if per_head else shares[:, None]
    gate = None if attention.mix_gate is None else attention.mix_gate.detach().reshape(table.shape[1], -1)
    for i, (start, stop, _) in enumerate(moves, 1):
        brought = 1.0 if gate is None else gate[:, start:stop]
        table[i, :, start:stop] = brought
        table[0, :, start:stop] -= brought
    shares = shares.abs()
    return shares / shares.sum(0)


def _send(attention: SpaceTimeAttention, row: Tensor, shares: Tensor) -> Tensor:
    """Shares (T, N) to the frames their channels came from; shares: (1 + moves,)."""
    if attention.mixing is None or not attention.moves:
        return row
    groups = row.unflatten(0, (-1, attention.mixing.group or row.shape[0]))
    found = shares[0] * groups
    for move, share in zip(attention.moves, shares[1:], strict=True):
        found = found + share * shift_frames(groups, -move.offset)
    return found.flatten(0, 1)
