"""Any timm ViT becomes a video model, or says why it cannot."""

from __future__ import annotations

import logging
import urllib.request
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from xvit import Mixing, create_model, list_models
from xvit.errors import ConfigError, WeightsError
from xvit.models.backbone import NAMES

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 32, "patch_size": 16}
# One of each kind: class token, registers, LayerScale, pre-norm (CLIP), no class token with attention pooling
# (SigLIP) and with averaging, no position for the class token, a distillation token, parallel and post-norm
# blocks, normed queries and keys.
ARCHITECTURES = {
    "vit_base_patch16_224": {},
    "vit_small_patch14_dinov2": {},
    "vit_small_patch14_reg4_dinov2": {},
    "vit_base_patch16_clip_224": {},
    "vit_base_patch16_siglip_224": {},
    "vit_base_patch16_siglip_gap_224": {},
    "deit3_small_patch16_224": {},
    "deit_tiny_distilled_patch16_224": {},
    "vit_medium_patch16_gap_256": {},
    "vit_mediumd_patch16_reg4_gap_256": {"qk_norm": True},
    "vit_small_patch16_18x2_224": {},
    "vit_base_patch16_rpn_224": {},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name: str) -> None:
    args = SMALL | ARCHITECTURES[name]
    model = create_model(
        name, num_classes=3, num_frames=4, backbone_args=args, mixing=Mixing(window=0), head="mean"
    )
    image = timm.create_model(name, num_classes=0, **args).eval()
    image.load_state_dict(model.backbone.state_dict())
    frames = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        expected = image(frames[0])
        torch.testing.assert_close(model.eval().forward_features(frames)[0], expected, rtol=1e-4, atol=1e-5)
    mixing = create_model(name, num_classes=3, num_frames=4, backbone_args=args)
    mixing(torch.randn(2, 4, 3, 48, 32)).sum().backward()
    missing = [key for key, value in mixing.named_parameters() if value.grad is None]
    assert missing == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "class ResNet"),
        ("eva02_tiny_patch14_224", "class Eva"),
        ("vit_small_patch16_dinov3", "class Eva"),
        ("naflexvit_base_patch16_gap", "class NaFlexVit"),
        ("beit_base_patch16_224", "class Beit"),
        ("vit_little_patch16_reg1_gap_256", None),
        ("vit_relpos_small_patch16_224", "class VisionTransformerRelPos"),
        ("samvit_base_patch16", "class VisionTransformerSAM"),
    ],
)
def test_models_that_cannot(name: str, message: str | None) -> None:
    if message is None:
        create_model(name, num_classes=2, backbone_args=SMALL)
        return
    with pytest.raises(ConfigError, match=message):
        create_model(name, num_classes=2, size=224)


def test_attention_without_keys_to_mix() -> None:
    for name in ("vit_dlittle_patch16_reg1_gap_256", "vit_pwee_patch16_reg1_gap_256"):
        with pytest.raises(ConfigError, match="plain attention"):
            create_model(name, num_classes=2)


def test_names() -> None:
    assert "xvit_large_patch16" in list_models("*large*")
    assert "vit_small_patch14_dinov2" in list_models()
    for name in NAMES.values():
        assert timm.models.get_pretrained_cfg(name) is not None


def test_one_line_and_a_size_that_the_patch_does_not_divide() -> None:
    with torch.device("meta"):
        assert create_model("vit_small_patch14_dinov2").num_classes == (400,)
        model = create_model("vit_so400m_patch14_siglip_384", backbone_args={"depth": 1})
    assert model.clip.size == 378
    assert model.backbone.pos_embed.shape[1] == 27 * 27


def test_create_model_by_our_name() -> None:
    model = create_model(
        "xvit_base_patch16",
        num_frames=16,
        num_classes=174,
        mixing=Mixing(group=8),
        backbone_args={"depth": 1},
    )
    assert (model.clip.num_frames, model.clip.size, model.clip.mean) == (16, 224, (0.5, 0.5, 0.5))
    assert model.backbone.embed_dim == 768
    assert model.backbone.blocks[0].attn.mixing == Mixing(group=8)


def test_file_of_image_weights(tmp_path: Path) -> None:
    image = timm.create_model("vit_tiny_patch16_224", num_classes=7, **SMALL)
    save_file(image.state_dict(), tmp_path / "image.safetensors")
    path = str(tmp_path / "image.safetensors")
    same = create_model("vit_tiny_patch16_224", num_classes=2, backbone_args=SMALL, backbone_weights=path)
    assert torch.equal(same.backbone.pos_embed, image.pos_embed)
    gated = create_model(
        "vit_tiny_patch16_224",
        num_classes=2,
        backbone_args=SMALL,
        backbone_weights=path,
        mixing=Mixing(gate="learned"),
    )
    assert torch.equal(gated.backbone.norm.weight, image.norm.weight)
    other = SMALL | {"img_size": 64, "patch_size": 8}
    resampled = create_model(
        "vit_tiny_patch16_224", num_classes=2, backbone_args=other, backbone_weights=path
    )
    assert resampled.backbone.pos_embed.shape == (1, 65, 48)
    assert torch.equal(resampled.backbone.blocks[1].attn.qkv.weight, image.blocks[1].attn.qkv.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 3}, "12 missing .blocks.2.norm1.weight"),
        ({"depth": 1}, "12 unexpected"),
        ({"embed_dim": 96}, "expected .1, 1, 96."),
    ],
)
def test_image_weights_that_do_not_fit(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "image.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0, **SMALL).state_dict(), path)
    with pytest.raises(WeightsError, match=message):
        create_model(
            "vit_tiny_patch16_224", num_classes=2, backbone_args=SMALL | change, backbone_weights=str(path)
        )


def test_pretrained_small_vit(shared: Path) -> None:
    path = shared / "weights" / "vit_small_patch14.safetensors"
    model = create_model("vit_small_patch14_dinov2", num_classes=2, size=98, backbone_weights=str(path))
    weights = load_file(path)
    assert torch.equal(model.backbone.norm.weight, weights["norm.weight"].float())
    assert model.backbone.pos_embed.shape == (1, 50, 384)
    assert model.clip.size == 98


def test_without_a_network_the_way_out_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")  # nothing listens there
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    hub = logging.getLogger("huggingface_hub")
    monkeypatch.setattr(hub, "propagate", True)
    with caplog.at_level("WARNING"), pytest.raises(WeightsError) as err:
        create_model("vit_tiny_patch16_224", num_classes=2, num_frames=2, pretrained=True)
    assert str(err.value) == (
        "vit_tiny_patch16_224: timm's weights are not on this machine and cannot be fetched (no network?); "
        "model.backbone_weights=FILE takes them from a file, model.backbone_weights=null begins without"
    )
    assert "Retrying" not in caplog.text
