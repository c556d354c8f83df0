"""Space-time mixing: Eq. 9 written plainly, and what frames see of each other."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import small_model
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from xvit.config import Mixing
from xvit.models import XViT
from xvit.models.mixing import SpaceTimeAttention, mix_frames


def plain_mixing(x: torch.Tensor, mixing: Mixing, heads: int) -> torch.Tensor:
    """Eq. 9, one channel of one frame at a time."""
    batch, frames, _, channels = x.shape
    per_head = channels // heads
    span = per_head if mixing.layout == "channels" else channels
    group = mixing.group or frames
    order = {(1, False): [1, -1], (2, False): [1, -1, 2, -2], (1, True): [-1], (2, True): [-1, -2]}
    offsets = order.get((mixing.window, mixing.causal), [])
    each = int(span * mixing.fraction / max(len(offsets), 1))
    y = torch.zeros_like(x)
    for b, t, c in itertools.product(range(batch), range(frames), range(channels)):
        turn = (c % span) // each if each else len(offsets)
        source = t + (offsets[turn] if turn < len(offsets) else 0)
        if 0 <= source < frames and source // group == t // group:
            y[b, t, :, c] = x[b, source, :, c]
    return y


def plain_attention(layer: SpaceTimeAttention, x: torch.Tensor) -> torch.Tensor:
    """Space-time mixing attention frame by frame and head by head."""
    mixing, heads, dim = layer.mixing, layer.num_heads, layer.head_dim
    means = x[:, :, layer.summary_from :].mean(2) if layer.summary_from is not None else None
    summaries = layer.qkv(means).chunk(3, dim=-1) if means is not None else None
    if "input" in mixing.mixed:
        x = plain_mixing(x, mixing, heads)
    parts = dict(zip(("query", "key", "value"), layer.qkv(x).chunk(3, dim=-1), strict=True))
    for name in parts:
        if name in mixing.mixed:
            parts[name] = plain_mixing(parts[name], mixing, heads)
    out = torch.zeros_like(x)
    for b, t, h in itertools.product(range(len(x)), range(x.shape[1]), range(heads)):
        one = slice(h * dim, (h + 1) * dim)
        q, k, v = (part[b, t, :, one] for part in parts.values())
        if summaries is not None:
            k, v = torch.cat([k, summaries[1][b, :, one]]), torch.cat([v, summaries[2][b, :, one]])
        out[b, t, :, one] = torch.softmax(q @ k.T / dim**0.5, dim=-1) @ v
    return layer.proj(out)


MIXINGS = [
    Mixing(),
    Mixing(window=0),
    Mixing(window=2, fraction=0.75),
    Mixing(window=2, fraction=1.0, layout="channels"),
    Mixing(layout="channels", fraction=0.25),
    Mixing(layout="channels", group=3, mixed=("value",)),
    Mixing(group=2, fraction=1.0, mixed=("key",)),
    Mixing(mixed=("input",)),
    Mixing(mixed=("query", "key", "value"), layout="channels"),
    Mixing(causal=True),
    Mixing(causal=True, window=2, fraction=0.7),
    Mixing(fraction=0.01),
]


@pytest.mark.parametrize("summary", [None, 1])
@pytest.mark.parametrize("mixing", MIXINGS, ids=str)
def test_fast_attention_is_equation_9(mixing: Mixing, summary: int | None) -> None:
    layer = SpaceTimeAttention(24, num_heads=3, qkv_bias=True).double()
    layer.mixing, layer.summary_from = mixing, summary
    x = torch.randn(1, 6, 4, 24, dtype=torch.float64, requires_grad=True)
    target = torch.randn(1, 6, 4, 24, dtype=torch.float64)
    ours, plain = layer(x), plain_attention(layer, x)
    assert (ours - plain).abs().max() < 1e-9
    gradients = [torch.autograd.grad((y * target).sum(), [x, *layer.parameters()]) for y in (ours, plain)]
    for one, other in zip(*gradients, strict=True):
        assert (one - other).abs().max() < 1e-9


@pytest.mark.parametrize("mixing", MIXINGS, ids=str)
def test_mix_frames_is_equation_9(mixing: Mixing) -> None:
    x = torch.randn(1, 6, 4, 24)
    assert torch.equal(mix_frames(x, mixing, 3), plain_mixing(x, mixing, 3))


MIXED = st.lists(st.sampled_from(["input", "query", "key", "value"]), unique=True, max_size=4).map(tuple)
ANY_MIXING = st.builds(
    Mixing,
    window=st.integers(0, 2),
    fraction=st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0]),
    layout=st.sampled_from(["heads", "channels"]),
    group=st.none() | st.integers(1, 4),
    causal=st.booleans(),
    mixed=MIXED,
)


@settings(max_examples=25, deadline=None)
@given(mixing=ANY_MIXING, groups=st.integers(1, 3), heads=st.integers(1, 3), seed=st.integers(0, 9))
def test_any_mixing_of_any_clip(mixing: Mixing, groups: int, heads: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(2, groups * (mixing.group or 2), 2, heads * 8, dtype=torch.float64)
    assert torch.equal(mix_frames(x, mixing, heads), plain_mixing(x, mixing, heads))
    layer = SpaceTimeAttention(heads * 8, num_heads=heads, qkv_bias=True).double()
    layer.mixing = mixing
    with torch.no_grad():
        assert (layer(x) - plain_attention(layer, x)).abs().max() < 1e-9


@pytest.mark.parametrize("gate", ["fixed", "learned"])
@pytest.mark.parametrize("layout", ["heads", "channels"])
def test_gradients_to_the_second_order_and_under_vmap(gate: str, layout: str) -> None:
    """The attention moves channels in place with a backward of its own; torch.func takes the pure path."""
    layer = SpaceTimeAttention(8, num_heads=2).double()
    layer.mixing = Mixing(gate=gate, layout=layout, window=2, fraction=1.0, group=2)
    values = {name: value.detach() for name, value in layer.named_parameters()}
    if layer.mix_gate is not None:
        values["mix_gate"] = torch.rand_like(layer.mix_gate)
    values = {name: value.requires_grad_() for name, value in values.items()}
    x = torch.randn(1, 4, 2, 8, dtype=torch.float64, requires_grad=True)

    def attend(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        return functional_call(layer, dict(zip(values, weights, strict=True)), (x,))

    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        assert torch.autograd.gradcheck(attend, (x, *values.values()), fast_mode=True)
        assert torch.autograd.gradgradcheck(attend, (x, *values.values()), fast_mode=True)
        clips = torch.randn(3, 1, 4, 2, 8, dtype=torch.float64)
        weights = tuple(values.values())
        each = vmap(grad(lambda x: attend(x, *weights).square().sum()))(clips)
        clips.requires_grad_()
        (whole,) = torch.autograd.grad(attend(clips[:, 0], *weights).square().sum(), clips)
    torch.testing.assert_close(each, whole)


def test_clip_of_one_frame() -> None:
    x = torch.randn(1, 1, 2, 8)
    assert torch.equal(mix_frames(x, Mixing(window=2), 2), plain_mixing(x, Mixing(window=2), 2))


def moved_frames(model: XViT, frame: int, frames: int = 8) -> set[int]:
    """The frames whose features change when the pixels of one frame do."""
    clip = torch.randn(1, frames, 3, 16, 16)
    other = clip.clone()
    other[:, frame] += torch.randn(3, 16, 16)
    with torch.no_grad():
        change = (model.forward_features(clip) - model.forward_features(other)).abs().amax((0, 2))
    return set(change.nonzero().flatten().tolist())


@pytest.mark.parametrize("layout", ["heads", "channels"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("window", [0, 1, 2])
def test_receptive_field(layout: str, depth: int, window: int) -> None:
    model = small_model(depth=depth, mixing=Mixing(window=window, layout=layout))
    for frame in (0, 4, 7):
        reach = range(frame - depth * window, frame + depth * window + 1)
        assert moved_frames(model, frame) == {t for t in reach if 0 <= t < 8}


def test_receptive_field_within_groups() -> None:
    model = small_model(mixing=Mixing(group=4))
    assert moved_frames(model, 3) == {0, 1, 2, 3}
    assert moved_frames(model, 4) == {4, 5, 6, 7}


def test_receptive_field_of_causal_mixing() -> None:
    model = small_model(depth=2, mixing=Mixing(causal=True))
    assert moved_frames(model, 4) == {4, 5, 6}


def test_summary_token_sees_the_whole_clip() -> None:
    assert moved_frames(small_model(depth=2, summary_token=True, mixing=Mixing(window=0)), 0) == set(range(8))


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ("all", [0, 1, 2, 3, 4]),
        ("first_half", [0, 1]),
        ("second_half", [2, 3, 4]),
        ("every_other", [0, 2, 4]),
        ((1, 3), [1, 3]),
    ],
)
def test_blocks_that_mix(blocks: str | tuple[int, ...], expected: list[int]) -> None:
    model = small_model(depth=5, mixing=Mixing(blocks=blocks))
    assert [i for i, block in enumerate(model.backbone.blocks) if block.attn.mixing] == expected


def test_group_that_does_not_divide_the_clip() -> None:
    model = small_model(mixing=Mixing(group=4))
    with pytest.raises(ValueError, match="6 frames cannot be mixed in groups of 4"):
        model(torch.zeros(1, 6, 3, 16, 16))


def test_mixing_has_no_parameters_and_the_gate_one_a_moved_channel() -> None:
    count = {
        gate: sum(p.numel() for p in small_model(mixing=Mixing(gate=gate)).parameters())
        for gate in ("fixed", "learned")
    }
    spatial = sum(p.numel() for p in small_model(attention="spatial").parameters())
    assert count == {"fixed": spatial, "learned": spatial + 3 * 24}


@pytest.mark.parametrize("layout", ["heads", "channels"])
def test_gate_between_the_image_model_and_the_paper(layout: str) -> None:
    frames = torch.randn(1, 8, 3, 16, 16)
    spatial, fixed, gated = (
        small_model(mixing=Mixing(layout=layout, window=window, gate=gate))
        for window, gate in ((0, "fixed"), (1, "fixed"), (1, "learned"))
    )
    weights = spatial.state_dict()
    fixed.load_state_dict(weights)
    gates = {name: value for name, value in gated.state_dict().items() if name.endswith("mix_gate")}
    gated.load_state_dict(weights | gates)
    with torch.no_grad():
        assert torch.equal(gated(frames), spatial(frames))
        for name, value in gated.named_parameters():
            if name.endswith("mix_gate"):
                value.fill_(1.0)
        torch.testing.assert_close(gated(frames), fixed(frames))
        assert not torch.allclose(spatial(frames), fixed(frames))
