"""A stream gives what the offline causal model gives on everything so far."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import small_model
from torch import Tensor

from xvit.errors import ConfigError
from xvit.models import XViT
from xvit.models.mixing import SpaceTimeAttention
from xvit.models.streaming import StreamingXViT

CAUSAL: dict[str, Any] = {"causal": True, "layout": "channels"}


def causal_model(frames: int = 4, **config: Any) -> XViT:
    """A causal model whose every parameter says something."""
    config["mixing"] = CAUSAL | config.pop("mixing", {})
    model = small_model(frames=frames, depth=4, **config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def offline(model: XViT, frames: Tensor, upto: int) -> Tensor:
    """The head over the last T features of the offline model on frames 0 to `upto`."""
    with torch.inference_mode():
        return model.forward_head(model.forward_features(frames[:, : upto + 1])[:, -model.clip.num_frames :])


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"mixing": {"window": 2}},
        {"mixing": {"layout": "heads", "window": 2, "fraction": 2 / 3}},
        {"mixing": {"mixed": ("input", "query", "value")}},
        {"mixing": {"gate": "learned"}},
        {"mixing": {"blocks": "every_other"}},
        {"mixing": {"window": 0}},
        {"attention": "spatial"},
        {"head": "mean", "temporal_embedding": "none"},
        {"head_positions": True, "temporal_length": 3},
        {"head": "moments"},
        {"head": "moments", "feature_blocks": 3},
    ],
    ids=str,
)
def test_every_frame_equals_the_offline_model(config: dict[str, Any]) -> None:
    model = causal_model(**config)
    stream = StreamingXViT(model)
    frames = torch.randn(2, 7, 3, 16, 16)
    for t in range(7):
        torch.testing.assert_close(stream(frames[:, t]), offline(model, frames, t), rtol=0, atol=1e-5)
    assert stream.features.shape == (2, 4, model.num_features)
    assert stream.frames_seen == 7


def test_groups_start_anew() -> None:
    model = causal_model(mixing={"group": 3, "window": 2}, frames=6)
    stream = StreamingXViT(model)
    frames = torch.randn(1, 9, 3, 16, 16)
    for t in range(9):
        logits = stream(frames[:, t])
        if t % 3 == 2:
            torch.testing.assert_close(logits, offline(model, frames, t), rtol=0, atol=1e-5)


def test_the_past_matters_and_reset_forgets_it() -> None:
    stream = StreamingXViT(causal_model(), num_frames=1)  # the head sees one frame: the rest is memory
    first, second, other = torch.randn(3, 1, 3, 16, 16)
    stream(first)
    after_first = stream(second)
    stream.reset()
    stream(other)
    assert (stream(second) - after_first).abs().max() > 1e-3
    stream.reset()
    stream(first)
    torch.testing.assert_close(stream(second), after_first, rtol=0, atol=0)


def test_memory_is_constant_and_the_model_untouched() -> None:
    model = causal_model(mixing={"window": 2})
    stream = StreamingXViT(model)
    sizes = []
    for _ in range(8):
        stream(torch.randn(1, 3, 16, 16))
        sizes.append(
            sum(x.untyped_storage().nbytes() for m in stream._memories for d in m.past.values() for x in d)
        )
    assert sizes[2:] == sizes[1:2] * 6
    assert all(a is b for a, b in zip(model.parameters(), stream.model.parameters(), strict=True))
    assert all(m.memory is None for m in model.modules() if isinstance(m, SpaceTimeAttention))


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"mixing": {"window": 1}}, "model.mixing.causal"),
        ({"tubelet": (-1, 2), "mixing": CAUSAL}, "model.tubelet"),
        ({"attention": "joint"}, "model.attention"),
        ({"attention": "divided"}, "model.attention"),
        ({"attention": "spatial", "summary_token": True}, "model.summary_token"),
        ({"temporal_embedding": "interpolate", "mixing": CAUSAL}, "model.temporal_embedding"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_models_that_look_ahead_say_so(config: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        StreamingXViT(small_model(**config))


def test_another_number_of_streams_needs_a_reset() -> None:
    stream = StreamingXViT(causal_model())
    stream(torch.randn(2, 3, 16, 16))
    with pytest.raises(ValueError, match="3 frames for 2 streams"):
        stream(torch.randn(3, 3, 16, 16))


def test_training_draws_the_first_row_of_the_temporal_embedding() -> None:
    model = causal_model().train()
    table = model.temporal_embedding
    assert table is not None
    drawn = {model.temporal_positions(6)[0, 0, 0, 0].item() for _ in range(60)}
    assert drawn == set(table[0, :, 0, 0].tolist())
    rows = model.temporal_positions(6)
    first = int((table[0] == rows[0, 0]).all(-1).nonzero()[0, 0])
    torch.testing.assert_close(rows[0], table[0, [(first + t) % 4 for t in range(6)]], rtol=0, atol=0)
    two_sided = small_model().train()
    assert torch.equal(two_sided.temporal_positions(8), two_sided.temporal_embedding)
