"""Space-time mixing attention: the paper, in one file.

A clip's tokens are (B, T, N, C): T frames of N tokens each. The key and the value of frame t take some of
their channels from frames t+1 and t-1, the rest from frame t (paper, Eq. 8 and 9); then every frame attends
within itself. The multiplications and parameters are those of the image model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn

from xvit.config import Mixing

_PARTS = ("query", "key", "value")


class Move(NamedTuple):
    """Channels `start:stop` of frame t come from frame `t + offset`."""

    start: int
    stop: int
    offset: int


def plan_moves(mixing: Mixing, channels: int) -> tuple[Move, ...]:
    """Which of `channels` channels come from which neighbouring frame.

    The share `fraction` is divided equally among the neighbours, in the released code's order: first the
    channels of frame t+1, then those of t-1, then t+2 and t-2.
    """
    reach = range(1, mixing.window + 1)
    offsets = [-w for w in reach] if mixing.causal else [sign * w for w in reach for sign in (1, -1)]
    if not offsets:
        return ()
    # 2/3 of 48 is 32, whatever the floating-point product says.
    each = int(channels * mixing.fraction / len(offsets) + 1e-6)
    return tuple(Move(i * each, (i + 1) * each, offset) for i, offset in enumerate(offsets) if each)


def shift_frames(x: Tensor, offset: int) -> Tensor:
    """Frame `t + offset` of x (B, T, ...) in the place of frame t; zeros past the clip's ends."""
    frames = x.shape[1]
    past = x.new_zeros((x.shape[0], min(abs(offset), frames), *x.shape[2:]))
    return torch.cat([x[:, offset:], past] if offset > 0 else [past, x[:, :offset]], dim=1)


def mix_frames(x: Tensor, mixing: Mixing, num_heads: int) -> Tensor:
    """The mixing of Eq. 9 as a pure function.

    x: (B, T, N, C), the concatenated heads of a key, value or query. Returns the same shape.
    Raises ValueError where T is not a multiple of `mixing.group`.
    """
    frames = x.shape[1]
    _check_group(frames, mixing.group)
    groups = x.reshape(-1, mixing.group or frames, *x.shape[2:])
    if mixing.layout == "channels":
        groups = groups.unflatten(-1, (num_heads, -1))
    moves = plan_moves(mixing, groups.shape[-1])
    return _mix(groups, moves).reshape(x.shape)


def _mix(x: Tensor, moves: tuple[Move, ...]) -> Tensor:
    if not moves:
        return x
    moved = [shift_frames(x[..., m.start : m.stop], m.offset) for m in moves]
    return torch.cat([*moved, x[..., moves[-1].stop :]], dim=-1)


def _check_group(frames: int, group: int | None) -> None:
    if group is not None and frames % group:
        raise ValueError(
            f"a clip of {frames} frames cannot be mixed in groups of {group}: "
            f"give a multiple of {group} frames or another mixing.group"
        )


def _move_(x: Tensor, offset: int, share: Tensor | None = None) -> Tensor:
    """Frame `t + offset` of x (B, T, ...) in the place of frame t, in the memory of x; what x was before.

    share: how far each channel goes from its own frame's value to the neighbour's; None is all the way.
    """
    own = x.clone()
    to, source, past = _frames(offset)
    if share is None:
        x[:, to] = own[:, source]
        x[:, past] = 0
    else:
        x[:, to] = torch.lerp(own[:, to], own[:, source], share)
        x[:, past] = own[:, past] * (1 - share)
    return own


def _frames(offset: int) -> tuple[slice, slice, slice]:
    """The frames that take from a neighbour, those they take from, and those with none."""
    if offset > 0:
        return slice(None, -offset), slice(offset, None), slice(-offset, None)
    return slice(-offset, None), slice(None, offset), slice(None, -offset)


class _Moving(NamedTuple):
    """How the rows of a projection are read, (B, T, N, 3, heads, d), and what moves in them."""

    shape: tuple[int, ...]
    parts: tuple[int, ...]
    group: int
    per_head: bool
    moves: tuple[Move, ...]

    def channels(self, rows: Tensor) -> Iterator[tuple[Tensor, Move]]:
        """The memory of every mixed part's every move in rows (B·T·N, 3·C), clips cut into their groups."""
        for i in self.parts:
            part = rows.view(self.shape)[:, :, :, i].unflatten(1, (-1, self.group)).flatten(0, 1)
            part = part if self.per_head else part.flatten(-2)
            for move in self.moves:
                yield part[..., move.start : move.stop], move


class _MoveFrames(torch.autograd.Function):
    """`_mix` in place on the fresh output of the projection: only the moved channels are touched.

    Autograd's own in-place slices would copy the whole projection once a slice on the way back. The gradient
    of a move is the move in the other direction, through a gate or not. Returns the rows and, with a gate,
    the moved channels as they were, which its gradient needs.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, gate: Tensor | None, moving: _Moving) -> tuple[Tensor, ...]:
        ctx.moving = moving
        ctx.mark_dirty(rows)
        ctx.set_materialize_grads(False)
        before = [_move_(x, move.offset, _share(gate, move)) for x, move in moving.channels(rows)]
        if gate is None:
            return (rows,)
        ctx.save_for_backward(gate, *before)
        return rows, *before

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        """The gradients of the rows, in the memory of the one that is given, and of the gate."""
        given = next((grad for grad in grads if grad is not None), None)
        if given is None:
            return None, None, None
        gate, *before = ctx.saved_tensors or (None,)
        gate_grad = None if gate is None else torch.zeros_like(gate)
        # In place as well: this gradient comes fresh from `unbind`, and nobody else holds it.
        grad = given.new_zeros(ctx.moving.shape).flatten(3).flatten(0, 2) if grads[0] is None else grads[0]
        for i, (x, move) in enumerate(ctx.moving.channels(grad)):
            change = _move_(x, -move.offset, _share(gate, move))
            if gate_grad is None:
                continue
            to, source, _ = _frames(move.offset)
            towards = (change[:, to] * before[i][:, source]).sum((0, 1, 2))
            gate_grad[..., move.start : move.stop] += towards - (change * before[i]).sum((0, 1, 2))
            also = grads[i + 1]  # only where the gradient itself is differentiated
            if also is not None:
                x += also
        return grad, gate_grad, None


def _share(gate: Tensor | None, move: Move) -> Tensor | None:
    return None if gate is None else gate[..., move.start : move.stop]


class SpaceTimeAttention(Attention):
    """timm's attention over tokens (B, T, N, C), whose keys and values may take channels of other frames.

    Parameters and their names are timm's, so that any image model's weights fit. `mixing` is set by the model
    that owns the block; None is spatial-only attention. `summary_from` is the number of class and register
    tokens before the patches whose mean is the frame's summary; None is no summary. `memory` holds a
    stream's channels of earlier calls, which replace those within the clip; None is the clip alone.
    """

    def __init__(self, dim: int, num_heads: int = 8, **kwargs: Any) -> None:
        super().__init__(dim, num_heads, **kwargs)
        self.mix_gate: nn.Parameter | None
        self.register_parameter("mix_gate", None)
        self.mixing = None
        self.summary_from: int | None = None
        self.memory: Callable[[str, Tensor], Tensor] | None = None

    @property
    def mixing(self) -> Mixing | None:
        """What is mixed; assigning it creates or removes the learned gate."""
        return self._mixing

    @mixing.setter
    def mixing(self, mixing: Mixing | None) -> None:
        """Resolve the choice to plain integers, so that a compiler can trace forward."""
        self._mixing = mixing
        self._per_head = mixing is not None and mixing.layout == "channels"
        self._moves = () if mixing is None else plan_moves(mixing, self._channels)
        self._group = None if mixing is None or not self._moves else mixing.group
        mixed = () if mixing is None or not self._moves else mixing.mixed
        self._mix_input = "input" in mixed
        self._parts = tuple(i for i, part in enumerate(_PARTS) if part in mixed)
        self.mix_gate = None
        if mixing is not None and mixing.gate == "learned" and mixed:
            width = self._moves[-1].stop * (self.num_heads if self._per_head else 1)
            self.mix_gate = nn.Parameter(self.qkv.weight.new_zeros(width))

    @property
    def moves(self) -> tuple[Move, ...]:
        """Which channels come from which frame; empty where nothing is mixed."""
        return self._moves

    @property
    def _channels(self) -> int:
        return self.head_dim if self._per_head else self.attn_dim

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """x: (B, T, N, C) -> (B, T, N, C). Raises ValueError where T is not a multiple of the group."""
        batch, frames, tokens, _ = x.shape
        if self.memory is None:
            _check_group(frames, self._group)
        query, key, value = self.attention_inputs(x)
        y = self._attend(query, key, value, attn_mask, is_causal)
        y = self.norm(y.reshape(batch, frames, tokens, self.attn_dim))
        return self.proj_drop(self.proj(y))

    def attention_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mixed query, key and value of x (B, T, N, C) that attention is computed from.

        Each (B, T, N, heads, d); key and value are longer by T where there are summaries.
        """
        query, key, value = self._project(x)
        if self.summary_from is not None:
            key, value = self._add_summaries(x, key, value)
        return self.q_norm(query), self.k_norm(key), value

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """The mixed query, key and value of x (B, T, N, C), each (B, T, N, heads, d)."""
        shape = (*x.shape[:3], 3, self.num_heads, self.head_dim)
        # As a matrix, so that autograd sees no view of the output that is moved in place.
        rows = self.qkv((self._mix_tokens(x, "input") if self._mix_input else x).flatten(0, 2))
        # Compilers and torch.func take the mixing as a pure function.
        traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        in_place = self._parts and self.memory is None and not traced
        if in_place:
            moving = _Moving(shape, self._parts, self._group or x.shape[1], self._per_head, self._moves)
            rows, *_ = _MoveFrames.apply(rows, self._gate(rows), moving)
        parts = rows.view(shape).unbind(3)
        if in_place or not self._parts:
            return parts
        return tuple(
            self._mix_tokens(part.flatten(-2), _PARTS[i]).view(part.shape) if i in self._parts else part
            for i, part in enumerate(parts)
        )

    def _add_summaries(self, x: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The summary token: every frame's keys and values are followed by those of all T frames' means.

        x: (B, T, N, C), the block's normed and unmixed input. key, value: (B, T, N, heads, d), longer by T.
        """
        means = x[:, :, self.summary_from :].mean(dim=2)
        bias = None if self.qkv.bias is None else self.qkv.bias[self.attn_dim :]
        summary = F.linear(means, self.qkv.weight[self.attn_dim :], bias)
        batch, frames = summary.shape[:2]
        shape = (batch, 1, frames, 2, self.num_heads, self.head_dim)
        summary = summary.view(shape).expand(-1, frames, -1, -1, -1, -1)
        keys, values = summary.unbind(3)
        return torch.cat([key, keys], dim=2), torch.cat([value, values], dim=2)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool
    ) -> Tensor:
        """Attention within every frame: (B, T, N, heads, d) -> (B·T, N, heads, d)."""
        query, key, value = (x.flatten(0, 1).transpose(1, 2) for x in (query, key, value))
        dropout = self.attn_drop.p if self.training else 0.0
        y = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attn_mask, dropout_p=dropout, is_causal=is_causal
        )
        return y.transpose(1, 2)

    def _mix_tokens(self, x: Tensor, name: str) -> Tensor:
        """Eq. 9 on (B, T, N, C) out of place, through the learned gate where there is one."""
        groups = x
        if self.memory is None:
            groups = x.reshape(-1, self._group or x.shape[1], *x.shape[2:])
        if self._per_head:
            groups = groups.unflatten(-1, (self.num_heads, -1))
        mixed = _mix(groups, self._moves) if self.memory is None else self.memory(name, groups)
        gate, stop = self._gate(x), self._moves[-1].stop
        if gate is not None:
            moved = torch.lerp(groups[..., :stop], mixed[..., :stop], gate)
            mixed = torch.cat([moved, groups[..., stop:]], dim=-1)
        return mixed.reshape(x.shape)

    def _gate(self, x: Tensor) -> Tensor | None:
        """The learned gate as it multiplies moved channels of x's dtype: (heads, moved) or (moved,)."""
        if self.mix_gate is None:
            return None
        return self.mix_gate.to(x.dtype).view((-1, self._moves[-1].stop) if self._per_head else (-1,))
