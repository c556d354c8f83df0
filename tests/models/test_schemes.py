"""Heads, temporal embedding, clips of any size, and the schemes XViT is compared with."""

from __future__ import annotations

import pytest
import timm
import torch
from tiny import ARGS, small_model
from torch import nn

from xvit.config import ClipConfig, Mixing, ModelConfig
from xvit.errors import ConfigError
from xvit.models import XViT, build_model
from xvit.models.backbone import is_video_parameter
from xvit.models.cost import multiply_adds

MEAN_MODEL = {"head": "mean", "attention": "spatial"}


def with_weights(model: XViT, other: XViT) -> XViT:
    """The model with every weight that the other one has."""
    weights = other.state_dict()
    model.load_state_dict({name: weights.get(name, value) for name, value in model.state_dict().items()})
    return model


def perturb(model: nn.Module) -> None:
    """No parameter keeps the zeros it starts from."""
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))


@pytest.mark.parametrize(
    "config",
    [
        {"head": "mean", "mixing": Mixing(fraction=0)},
        {"head": "mean", "attention": "divided"},
        {"head_init": "mean", "mixing": Mixing(gate="learned")},
        {"head_init": "mean", "mixing": Mixing(gate="learned", layout="channels"), "head_positions": True},
        {"head_init": "mean", "head_depth": 2, "attention": "divided"},
    ],
    ids=str,
)
def test_starts_as_the_image_model_averaged_over_frames(config: dict) -> None:
    model = small_model(**config)
    image = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=5, **ARGS).eval()
    weights = model.backbone.state_dict()
    weights = {name: value for name, value in weights.items() if not is_video_parameter(name)}
    image.load_state_dict(weights | {f"head.{k}": v for k, v in model.get_classifier().state_dict().items()})
    frames = torch.randn(2, 8, 3, 16, 16)
    with torch.no_grad():
        expected = image(frames.flatten(0, 1)).view(2, 8, 5).mean(dim=1)
        torch.testing.assert_close(model(frames), expected, rtol=1e-5, atol=1e-6)


def test_gated_start_is_the_mean_model_to_the_bit() -> None:
    model = small_model(head_init="mean", mixing=Mixing(gate="learned"))
    frames = torch.randn(2, 8, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(frames), with_weights(small_model(**MEAN_MODEL), model)(frames))


def test_gated_start_learns_to_mix() -> None:
    model = small_model(head_init="mean", mixing=Mixing(gate="learned"))
    model(torch.randn(2, 8, 3, 16, 16))[:, 0].sum().backward()
    gates = [value.grad for name, value in model.named_parameters() if name.endswith("mix_gate")]
    assert len(gates) == 3
    assert all((grad != 0).all() for grad in gates)


@pytest.mark.parametrize("attention", ["mixing", "spatial", "divided", "joint"])
@pytest.mark.parametrize("head", ["temporal", "mean"])
def test_batched_is_one_by_one(attention: str, head: str) -> None:
    model = small_model(attention=attention, head=head)
    perturb(model)
    frames = torch.randn(3, 8, 3, 16, 16)
    with torch.no_grad():
        single = torch.cat([model(frame[None]) for frame in frames])
        torch.testing.assert_close(model(frames), single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["divided", "joint"])
def test_schemes_see_all_frames(attention: str) -> None:
    model = small_model(attention=attention, depth=1)
    perturb(model)
    frames = torch.randn(1, 8, 3, 16, 16, requires_grad=True)
    # The feature of frame 2 through one block; random weights leave no gradient at exactly zero.
    model.forward_features(frames)[0, 2].sum().backward()
    assert (frames.grad.abs().amax((0, 2, 3, 4)) > 0).all()


def test_divided_attention_over_time_stays_at_one_place() -> None:
    layer = small_model(attention="divided").backbone.blocks[0].time_attn
    x = torch.randn(1, 8, 5, 48, requires_grad=True)
    layer(x)[0, 3, 2].sum().backward()
    touched = x.grad.abs().amax((0, 3)) > 0
    assert touched[:, 2].all()
    assert touched.sum() == 8


@pytest.mark.parametrize("name", ["temporal", "mean"])
def test_several_tasks_share_the_head(name: str) -> None:
    model = small_model(head=name, num_classes=(97, 300))
    assert model.num_classes == (97, 300)
    assert model(torch.randn(1, 8, 3, 16, 16)).shape == (1, 397)


def test_temporal_head_without_positions_ignores_order_and_with_them_sees_it() -> None:
    features = torch.randn(2, 8, 48)
    for positions in (False, True):
        head = small_model(head_positions=positions).head
        with torch.no_grad():
            same = torch.allclose(head(features), head(features.flip(1)), atol=1e-6)
        assert same is not positions


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("tile", [0.0, 1, 2, 3, 0, 1, 2, 3]), ("interpolate", [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])],
)
def test_temporal_embedding_of_a_longer_clip(mode: str, expected: list[float]) -> None:
    model = small_model(temporal_embedding=mode, temporal_length=4)
    with torch.no_grad():
        model.temporal_embedding += torch.arange(4.0).view(1, 4, 1, 1)
    rows = model.temporal_positions(8)
    assert rows.shape == (1, 8, 1, 48)
    assert rows[0, :, 0, 0].tolist() == expected


@pytest.mark.parametrize("resize", ["timm", "released"])
@pytest.mark.parametrize(("frames", "height", "width"), [(8, 16, 16), (3, 24, 40), (1, 8, 16), (13, 16, 16)])
def test_any_clip(resize: str, frames: int, height: int, width: int) -> None:
    model = small_model(spatial_resize=resize, head_positions=True)
    assert model(torch.randn(1, frames, 3, height, width)).shape == (1, 5)


def test_sides_that_the_patch_does_not_divide() -> None:
    with pytest.raises(ValueError, match="18x16 pixels cannot be cut into patches of 8x8"):
        small_model()(torch.zeros(1, 8, 3, 18, 16))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"summary_token": True, "attention": "joint"}, "summary_token goes with mixing or spatial"),
        ({"summary_token": True, "mixing": Mixing(causal=True)}, "whole clip"),
        ({"size": 20}, "data.size: 20 is no multiple of the patch size 8"),
        ({"frames": 6, "mixing": Mixing(group=4)}, "a clip of 6 images cannot be mixed in groups of 4"),
        ({"frames": 8, "tubelet": (-1, 2), "mixing": Mixing(group=3)}, "4 images cannot be mixed in groups"),
        ({"frames": 7, "tubelet": (-1, 2)}, "model.tubelet: 7 frames are no multiple of 2"),
        ({"feature_blocks": 4}, "model.feature_blocks: 4, the model has 3 blocks"),
        ({"head_num_heads": 5}, "5 does not divide the width 48"),
        ({"mixing": Mixing(blocks=(0, 3))}, "no block 3, the model has 0 to 2"),
        ({"name": "vit_tiny_patch17"}, "no model called 'vit_tiny_patch17'"),
    ],
)
def test_configurations_that_cannot_be(config: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_model(**config)


@pytest.mark.parametrize("attention", ["mixing", "divided", "joint"])
def test_gradient_checkpointing_changes_no_gradient(attention: str) -> None:
    model, frames = (
        small_model(attention=attention, summary_token=attention == "mixing"),
        torch.randn(2, 8, 3, 16, 16),
    )
    perturb(model)
    gradients = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        gradients.append(torch.autograd.grad(model(frames).square().sum(), list(model.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_the_timm_contract() -> None:
    model, frames = small_model(head_positions=True), torch.randn(2, 8, 3, 16, 16)
    features = model.forward_features(frames)
    assert features.shape == (2, 8, model.num_features)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
    torch.testing.assert_close(model.forward_head(features), model(frames))
    assert model.get_classifier().out_features == 5
    model.reset_classifier((3, 4), classes=[list("abc"), list("defg")])
    assert model(frames).shape == (2, 7)
    assert model.classes == (("a", "b", "c"), ("d", "e", "f", "g"))
    names = {"temporal_embedding", "head.cls_token", "head.positions"}
    assert model.no_weight_decay() == names | {"backbone.cls_token", "backbone.pos_embed"}
    settings = timm.data.resolve_model_data_config(model)
    assert settings["input_size"] == (3, 16, 16)
    assert settings["mean"] == model.clip.mean


def test_a_tubelet_is_one_image() -> None:
    """T frames are T/2 images and cost as much."""
    plain = small_model(frames=4, head_positions=True)
    model = with_weights(small_model(frames=8, head_positions=True, tubelet=(-1, 2)), plain)
    frames = torch.randn(2, 8, 3, 16, 16)
    torch.testing.assert_close(model(frames), plain(2 * frames[:, 1::2] - frames[:, 0::2]))
    assert model.forward_features(frames).shape == (2, 4, model.num_features)
    assert multiply_adds(model, frames) == multiply_adds(plain, frames[:, :4])
    still = frames[:, :1].expand(-1, 8, -1, -1, -1)  # nothing changes
    torch.testing.assert_close(model(still), plain(still[:, :4]))
    with pytest.raises(ValueError, match="7 frames cannot be cut into tubelets of 2"):
        model(frames[:, :7])


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_features_of_several_blocks_are_timms(pool: str) -> None:
    args = ARGS | {"global_pool": pool, "fc_norm": False}
    frozen = {"attention": "spatial", "temporal_embedding": "none", "head": "mean", "backbone_args": args}
    model = small_model(feature_blocks=2, **frozen)
    perturb(model)
    image = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=0, **args).eval()
    image.load_state_dict(model.backbone.state_dict())
    frames = torch.randn(2, 8, 3, 16, 16)
    layers = image.get_intermediate_layers(frames.flatten(0, 1), n=2, return_prefix_tokens=True, norm=True)
    parts = [prefix[:, 0] if pool == "token" else patches.mean(1) for patches, prefix in layers]
    expected = torch.cat(parts, dim=1).unflatten(0, (2, 8))
    torch.testing.assert_close(model.forward_features(frames), expected)
    assert expected.shape == (2, 8, model.num_features)
    wider_classifier = 2 * 48 * 5
    assert multiply_adds(model, frames) == multiply_adds(small_model(**frozen), frames) + wider_classifier


def test_wrong_backbone_argument() -> None:
    config = ModelConfig(name="vit_tiny_patch16_224", backbone_args={"depht": 3})
    with pytest.raises(ConfigError, match="depht"):
        build_model(config, num_classes=2, clip=ClipConfig())
