"""Explanations: on clips whose one informative place is known, and of every kind of model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import ParallelThingsBlock
from torch import Tensor

from xvit.config import ClipConfig, Mixing, ModelConfig
from xvit.errors import ConfigError
from xvit.models import XViT, build_model
from xvit.models.mixing import SpaceTimeAttention, mix_frames
from xvit.predict import Predictor
from xvit.visualize import METHODS, explain
from xvit.visualize.flow import attended, attention_weights
from xvit.visualize.gradient import integrated_gradients
from xvit.visualize.rollout import record, rollout

SIZE, FRAMES, PATCH = 32, 4, 8


def make_model(num_classes: Any = 3, args: dict[str, Any] | None = None, **config: Any) -> XViT:
    args = {"patch_size": PATCH, "embed_dim": 32, "depth": 2, "num_heads": 4} | (args or {})
    settings = {"name": "vit_tiny_patch16_224", "backbone_args": args, "head_num_heads": 2} | config
    clip = ClipConfig(num_frames=FRAMES, size=SIZE)
    return build_model(ModelConfig.model_validate(settings), num_classes=num_classes, clip=clip).eval()


def perturb(model: XViT) -> XViT:
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model


@pytest.fixture(scope="module")
def video() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (FRAMES, SIZE, SIZE, 3), np.uint8)


MIXINGS = [
    Mixing(),
    Mixing(fraction=0.25, layout="channels"),
    Mixing(window=2, fraction=0.6),
    Mixing(causal=True, layout="channels", window=2),
    Mixing(group=2),
    Mixing(gate="learned"),
    Mixing(gate="learned", layout="channels", causal=True),
    Mixing(mixed=("key",)),
    Mixing(mixed=("input",), layout="channels"),
    Mixing(mixed=("input", "value"), group=2),
    Mixing(fraction=0, group=3),
    None,
]


@pytest.mark.parametrize("summary", [False, True])
@pytest.mark.parametrize("mixing", MIXINGS, ids=str)
def test_a_step_of_rollout_follows_the_channels(mixing: Mixing | None, summary: bool) -> None:
    """Every value is replaced by a mark of its token, mixed and attended to as the model would."""
    layer = SpaceTimeAttention(16, 4, qkv_bias=True)
    layer.mixing = mixing
    layer.summary_from = 1 if summary else None
    if layer.mix_gate is not None:
        torch.nn.init.uniform_(layer.mix_gate)
    x = torch.randn(1, 4, 5, 16)
    row = torch.rand(4, 5)
    found = attended(layer, x, row)
    marks = torch.eye(20).view(20, 4, 5, 1).expand(-1, -1, -1, 16)  # each token in turn
    expected = torch.stack([(row * _take(layer, x, mark[None])).sum() for mark in marks])
    torch.testing.assert_close(found.flatten(), expected)


def _take(layer: SpaceTimeAttention, x: Tensor, marks: Tensor) -> Tensor:
    """What tokens take of marks (1, T, N, C) in the place of values: (T, N), the mean over channels."""

    def mix(values: Tensor, part: str) -> Tensor:
        if layer.mixing is None or part not in layer.mixing.mixed or not layer.moves:
            return values
        mixed = mix_frames(values, layer.mixing, 4)
        if layer.mix_gate is None:
            return mixed
        parts = 4 if layer.mixing.layout == "channels" else 1
        gate = layer.mix_gate.detach().view(parts, -1)
        gates = torch.nn.functional.pad(gate, (0, 16 // parts - gate.shape[1]))
        return values + gates.flatten() * (mixed - values)

    query, key, _ = layer.attention_inputs(x)
    values = mix(mix(marks, "input").mean(-1, keepdim=True).expand(-1, -1, -1, 16), "value")
    if layer.summary_from is not None:
        means = marks[:, :, layer.summary_from :].mean(2)
        values = torch.cat([values, means[:, None].expand(-1, 4, -1, -1)], 2)
    values = values.unflatten(-1, (4, 4)).transpose(2, 3)
    weights = attention_weights(query.transpose(2, 3), key.transpose(2, 3))
    return (weights @ values).mean((2, 4))[0]


BACKBONES: list[tuple[str, dict[str, Any]]] = [
    ("vit_tiny_patch16_224", {}),
    ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}),
    ("vit_tiny_patch16_224", {"global_pool": "max"}),
    ("vit_tiny_patch16_224", {"reg_tokens": 3, "init_values": 0.1}),
    ("vit_base_patch16_siglip_224", {}),
    ("vit_tiny_patch16_224", {"block_fn": ParallelThingsBlock}),
    ("deit_tiny_distilled_patch16_224", {}),
]


@pytest.mark.parametrize(("name", "args"), BACKBONES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_every_backbone(method: str, name: str, args: dict[str, Any], video: NDArray[np.uint8]) -> None:
    _check(perturb(make_model(name=name, args=args)), method, video)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "config",
    [
        {"attention": "spatial", "head": "mean"},
        {"attention": "divided"},
        {"attention": "joint", "head_positions": True},
        {"summary_token": True, "head_init": "mean"},
        {"mixing": Mixing(causal=True, blocks="every_other"), "head_depth": 2},
        {"adapters": 4, "mixing": Mixing(gate="learned")},
        {"tubelet": (-1, 2), "head": "moments"},
        {"attention": "divided", "feature_blocks": 2},
    ],
    ids=str,
)
def test_every_scheme(method: str, config: dict[str, Any], video: NDArray[np.uint8]) -> None:
    _check(perturb(make_model(**config)), method, video)


def _check(model: XViT, method: str, video: NDArray[np.uint8]) -> None:
    clf = Predictor(model, "cpu")
    found = explain(clf, video, method)
    assert np.array_equal(found.frames, np.moveaxis(video, -1, 1))
    assert found.maps.shape == (FRAMES, SIZE, SIZE)
    assert found.maps.dtype == np.float32
    assert found.maps.min() >= 0
    assert found.maps.max() == 1
    assert found.shares.min() >= 0
    assert found.shares.sum() == pytest.approx(1, abs=1e-5)
    (best,) = clf(video, top_k=1)
    assert (found.label, found.score) == (best["label"], pytest.approx(best["score"], abs=1e-5))


def test_integrated_gradients_add_up_to_the_decision(video: NDArray[np.uint8]) -> None:
    model = perturb(make_model())
    clip = Predictor(model, "cpu").read(video)[0]
    grey = clip.mean((0, 2, 3), keepdim=True).expand_as(clip)
    with torch.no_grad():
        scores = model(torch.stack([clip, grey])).log_softmax(-1)[:, 2]
    _, found = integrated_gradients(model, clip, 0, 2, steps=64)
    assert float(found.sum()) == pytest.approx(float(scores[0] - scores[1]), rel=0.02)


def test_rollout_loses_nothing_but_what_is_past_the_ends() -> None:
    for mixing, kept in ((Mixing(fraction=0), True), (Mixing(), False)):
        model = perturb(make_model(mixing=mixing))
        layer = record(model, torch.randn(FRAMES, 3, SIZE, SIZE)).blocks[1]
        total = float(
            attended(layer.attention, layer.x, torch.full((FRAMES, 17), 1 / (17 * FRAMES))).sum().detach()
        )
        assert total == pytest.approx(1 if kept else 1 - 0.5 / FRAMES, abs=1e-5)


def test_rollout_shares_a_tubelets_part_among_its_frames() -> None:
    model = perturb(make_model(tubelet=(-1, 2), head_positions=True))
    shares = rollout(model, torch.randn(FRAMES, 3, SIZE, SIZE))[1]
    assert torch.equal(shares[0::2], shares[1::2])
    assert not torch.allclose(shares[0], shares[2])


def test_rollout_begins_at_every_block_that_the_feature_is_read_from() -> None:
    """The share of each is what the model that ends there would have had."""
    clip = torch.randn(FRAMES, 3, SIZE, SIZE)
    # Without class tokens and mixing no share is lost on the way.
    settings = {"head": "mean", "attention": "spatial", "temporal_embedding": "none"}
    args = {"class_token": False, "global_pool": "avg"}
    model = perturb(make_model(args=args, feature_blocks=2, **settings))
    expected = []
    for depth in (1, 2):
        part = make_model(args=args | {"depth": depth}, **settings)
        part.backbone.load_state_dict(model.backbone.state_dict(), strict=depth == 2)
        expected.append(rollout(part, clip)[1])
    found = rollout(model, clip)[1]
    torch.testing.assert_close(found, sum(expected) / 2, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(expected[0], expected[1], rtol=1e-2)


def test_several_tasks_and_chosen_classes(video: NDArray[np.uint8]) -> None:
    clf = Predictor(perturb(make_model((3, 4))), "cpu")
    scores = clf.scores(video)
    found = explain(clf, video, target="2", task=1)
    assert (found.label, found.score) == ("2", pytest.approx(float(scores[5]), abs=1e-6))
    assert not np.array_equal(found.maps, explain(clf, video, target=1, task=1).maps)
    for wrong, message in [({"target": "4", "task": 1}, "no class '4'"), ({"task": 2}, "no task 2")]:
        with pytest.raises(ConfigError, match=message):
            explain(clf, video, **wrong)
    with pytest.raises(ConfigError, match="gradient or rollout"):
        explain(clf, video, "magic")


def test_threads_share_a_model_that_stays_as_it_is(video: NDArray[np.uint8]) -> None:
    clf = Predictor(perturb(make_model()), "cpu")
    alone = {method: explain(clf, video, method).maps for method in METHODS}
    with ThreadPoolExecutor(4) as pool:
        for method, maps in pool.map(lambda m: (m, explain(clf, video, m).maps), METHODS * 4):
            np.testing.assert_allclose(maps, alone[method], atol=1e-5)
    assert not any(module._forward_pre_hooks for module in clf.model.modules())
    assert all(value.grad is None for value in clf.model.parameters())


def spot_clip(colour: int, frame: int, row: int, column: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(T, H, W, 3): grey noise, and on one patch of one frame the colour that names the class."""
    video = rng.integers(110, 130, (FRAMES, SIZE, SIZE, 1), np.uint8).repeat(3, -1)
    patch = video[frame, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
    patch[:] = 20
    patch[..., colour] = 250
    return video


CAN_LEARN = {"mixing": {"mixing": Mixing(layout="channels"), "head_init": "mean"}, "joint": {}}


@pytest.fixture(scope="module", params=list(CAN_LEARN))
def trained(request: pytest.FixtureRequest) -> Predictor:
    """Tells which of three colours one patch has, anywhere in any frame: some seconds of training."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    predictor = Predictor(make_model(attention=request.param, **CAN_LEARN[request.param]), "cpu")
    model = predictor.model
    for value in model.parameters():
        if value.ndim == 2:
            torch.nn.init.xavier_uniform_(value)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(120):
        labels = rng.integers(0, 3, 16)
        videos = [spot_clip(k, *rng.integers(0, (FRAMES, 4, 4)), rng) for k in labels]
        clips = torch.cat([predictor.read(video) for video in videos])
        loss = torch.nn.functional.cross_entropy(model(clips), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return predictor


@pytest.mark.parametrize("method", METHODS)
def test_finds_the_only_informative_place(trained: Predictor, method: str) -> None:
    rng = np.random.default_rng(1)
    for k in range(12):
        place = tuple(rng.integers(0, (FRAMES, 4, 4)).tolist())
        found = explain(trained, spot_clip(k % 3, *place, rng), method)
        assert found.label == str(k % 3)
        patches = found.maps.reshape(FRAMES, 4, PATCH, 4, PATCH).mean((2, 4))
        assert np.unravel_index(patches.argmax(), patches.shape) == place  # the frame, and where in it
        if method == "gradient":
            assert found.shares.argmax() == place[0]
            assert found.shares[place[0]] > 0.8
