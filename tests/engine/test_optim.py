"""Schedule, losses, groups and blends, against the released code's numbers and against themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from xvit.config import ClipConfig, Mixing, ModelConfig, TrainConfig
from xvit.engine.optim import (
    Blend,
    classification_loss,
    correct,
    draw_blend,
    freeze,
    indicators,
    learning_rate,
    make_optimizer,
    parameter_groups,
)
from xvit.models import XViT, build_model, load_model
from xvit.models.released import to_their_name

RECIPES = {"Kinetics": (30, 0.01, 0.03), "SSv2": (35, 0.003, 0.03)}


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict:
    return json.loads((shared / "oracle" / "index.json").read_text())


def small_model(**changes: object) -> XViT:
    config = ModelConfig(
        name="vit_tiny_patch16_224",
        backbone_args={"embed_dim": 24, "depth": 3, "num_heads": 2, "patch_size": 8},
        **changes,
    )
    return build_model(config, num_classes=5, clip=ClipConfig(num_frames=4, size=16))


def test_learning_rate_is_the_released_one(oracle: dict) -> None:
    for name, table in oracle["lr"].items():
        epochs, start, top = RECIPES[name.split("/")[0]]
        config = TrainConfig(epochs=epochs, lr=top, warmup_epochs=5, warmup_start_lr=start)
        for epoch, expected in zip(table["epoch"], table["lr"], strict=True):
            assert learning_rate(epoch, config) == pytest.approx(expected, rel=1e-9, abs=1e-15), (name, epoch)


def test_losses_are_the_released_ones(oracle: dict) -> None:
    table = oracle["losses"]
    logits, labels = torch.tensor(table["pred"]), torch.tensor(table["target"])[:, None]
    blend = Blend(table["mixup"]["lam"], torch.tensor(table["mixup"]["perm"]))
    plain = classification_loss(logits, labels, (9,))
    smooth = classification_loss(logits, labels, (9,), label_smoothing=0.3)
    assert plain.item() == pytest.approx(table["cross_entropy"], rel=1e-6)
    assert smooth.item() == pytest.approx(table["smooth_cross_entropy"], rel=1e-6)
    mixed = classification_loss(logits, labels, (9,), label_smoothing=0.3, blend=blend)
    assert mixed.item() == pytest.approx(table["mixup"]["loss"], rel=1e-6)


def test_sgd_steps_are_the_released_ones(oracle: dict, shared: Path) -> None:
    table = oracle["sgd_steps"]
    model = load_model(shared / "oracle" / f"{table['case']}.pth")
    config = TrainConfig(optimizer="sgd", weight_decay=table["weight_decay"], momentum=table["momentum"])
    optimizer = make_optimizer(model, config)
    count = 2 * 3 * 16 * 224 * 224
    clip = torch.sin(0.7310585786300049 * torch.arange(count, dtype=torch.float64) + 0.25).float()
    frames = clip.view(2, 3, 16, 224, 224).transpose(1, 2)
    labels = torch.arange(2)[:, None] % model.num_classes[0]
    for step, (rate, expected) in enumerate(zip(table["lr"], table["losses"], strict=True)):
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = classification_loss(model(frames.roll(step, dims=-1)), labels, model.num_classes)
        assert loss.item() == pytest.approx(expected, rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(model(frames), torch.tensor(table["logits_after"]), rtol=1e-3, atol=1e-4)
    for name, parameter in model.named_parameters():
        expected = table["param_norms_after"][to_their_name(name, temporal_head=True)]
        assert parameter.norm().item() == pytest.approx(expected, rel=1e-4), name


def test_sgd_spares_the_biases_behind_the_transformer() -> None:
    model = small_model()
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, TrainConfig(optimizer="sgd", weight_decay=0.1))
    spared = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert spared == {"head.mlp.0.bias", "head.mlp.1.bias", "head.fc.bias"}


def test_layer_decay_scales_blocks_and_not_what_is_new() -> None:
    model = small_model(mixing=Mixing(gate="learned"))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, TrainConfig(layer_decay=0.5))
    scales = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    assert len(scales) == len(names)
    assert scales["backbone.patch_embed.proj.weight"] == 0.5**4
    assert scales["backbone.blocks.0.attn.qkv.weight"] == 0.5**3
    assert scales["backbone.blocks.2.attn.qkv.weight"] == 0.5
    assert (
        scales["backbone.blocks.0.attn.mix_gate"]
        == scales["temporal_embedding"]
        == scales["head.fc.weight"]
        == 1
    )


@pytest.mark.parametrize(("blocks", "trained"), [(0, set()), (1, {2}), (3, {0, 1, 2}), (None, {0, 1, 2})])
def test_freeze_leaves_the_last_blocks(blocks: int | None, trained: set[int]) -> None:
    model = small_model()
    freeze(model, blocks)
    for number, block in enumerate(model.backbone.blocks):
        assert all(p.requires_grad == (number in trained) for p in block.parameters())
    assert model.backbone.patch_embed.proj.weight.requires_grad == (blocks is None)
    assert all(p.requires_grad for p in model.head.parameters())


def test_two_tasks_add_up() -> None:
    logits, labels = torch.randn(3, 7), torch.tensor([[0, 2], [1, 3], [2, 0]])
    expected = F.cross_entropy(logits[:, :3], labels[:, 0]) + F.cross_entropy(logits[:, 3:], labels[:, 1])
    assert classification_loss(logits, labels, (3, 4)) == expected


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0)])
def test_a_blend_is_worth_its_weight(alphas: tuple[float, float]) -> None:
    frames = torch.stack([torch.full((2, 3, 40, 40), float(i)) for i in range(4)])
    for seed in range(8):
        blend = draw_blend(4, *alphas, torch.Generator().manual_seed(seed))
        assert blend is not None
        joined = blend.frames(frames).mean(dim=(1, 2, 3, 4))
        own = torch.arange(4.0)
        expected = blend.weight * own + (1 - blend.weight) * own[blend.partner]
        tolerance = 1e-5 if blend.box is None else 0.15  # a box has whole pixels
        torch.testing.assert_close(joined, expected, atol=tolerance, rtol=0)
    assert draw_blend(4, 0.0, 0.0, torch.Generator()) is None


def test_indicators_of_tasks_and_of_several_labels() -> None:
    tasks = indicators(torch.tensor([[1, 0], [0, 2]]), (2, 3))
    assert tasks.tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]
    several = indicators(torch.tensor([[2, 0, -1], [1, -1, -1]]), (3,))
    assert several.tolist() == [[1, 0, 1], [0, 1, 0]]


def test_correct_counts_all_tasks_and_the_larger_share() -> None:
    logits = torch.tensor([[9.0, 0, 0, 9], [0, 9, 9, 0], [9, 0, 9, 0]])
    labels = torch.tensor([[0, 1], [1, 1], [0, 0]])
    assert correct(logits, labels, (2, 2)).tolist() == [True, False, True]
    partner = torch.tensor([1, 2, 0])
    larger, smaller = Blend(0.6, partner), Blend(0.4, partner)
    assert correct(logits, labels, (2, 2), blend=larger).tolist() == [True, False, True]
    swapped = torch.stack([logits[1], logits[2], logits[0]])
    assert correct(swapped, labels, (2, 2), blend=smaller).tolist() == [False, True, True]
