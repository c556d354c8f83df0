"""Cost: not one multiplication more than the image model."""

from __future__ import annotations

import sys

import pytest
import timm
import torch
from tiny import ARGS, small_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from xvit import create_model
from xvit.cli import main
from xvit.config import ClipConfig, Mixing, ModelConfig
from xvit.models.cost import compare_schemes, kept_bytes, multiply_adds

FRAMES = (8, 16, 32, 64)


def image_macs(frames: int) -> int:
    image = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=0, **ARGS)
    return multiply_adds(image, torch.zeros(frames, 3, 16, 16))


@pytest.mark.parametrize("layout", ["heads", "channels"])
def test_no_multiplication_more_than_the_image_model(layout: str) -> None:
    model = small_model(head="mean", mixing=Mixing(layout=layout))
    for frames in FRAMES:
        macs = multiply_adds(model, torch.zeros(1, frames, 3, 16, 16))
        assert macs == image_macs(frames) + 48 * 5


def test_temporal_head_is_all_that_is_added() -> None:
    model = small_model()
    head = multiply_adds(model.head, torch.zeros(1, 8, 48))
    assert multiply_adds(model, torch.zeros(1, 8, 3, 16, 16)) == image_macs(8) + head
    tokens = 9
    expected = tokens * 12 * 48 * 48 + 2 * tokens * tokens * 48 + 48 * 48 + 48 * 5
    assert head == expected


@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
def test_count_does_not_depend_on_the_kernel(backend: SDPBackend) -> None:
    model, frames = small_model(), torch.randn(1, 8, 3, 16, 16)
    with torch.no_grad(), sdpa_kernel(backend), FlopCounterMode(display=False) as counter:
        model(frames)
        inside = multiply_adds(model, frames)
    assert inside == multiply_adds(model, frames)
    if backend == SDPBackend.MATH:
        assert counter.get_total_flops() == 2 * 2 * inside


def test_exponents_of_the_schemes() -> None:
    config = ModelConfig(name="vit_tiny_patch16_224", backbone_args=ARGS, head="mean", mixing=Mixing(group=4))
    rows = {row.scheme: row for row in compare_schemes(config, ClipConfig(num_frames=8, size=64), (5,))}
    assert rows["mixing"].macs == rows["spatial"].macs
    assert rows["mixing"].parameters == rows["spatial"].parameters == rows["joint"].parameters
    per_frame = (rows["mixing"].macs[8] - 48 * 5) / 8
    assert [rows["mixing"].macs[t] for t in FRAMES] == [per_frame * t + 48 * 5 for t in FRAMES]
    assert rows["mixing"].exponent == pytest.approx(1.0, abs=1e-3)
    assert 1.0 < rows["divided"].exponent < 1.2
    assert rows["joint"].exponent > 1.5
    assert rows["divided"].parameters > rows["mixing"].parameters
    assert rows["mixing"].activation_checkpointed_mb < 0.5 * rows["mixing"].activation_mb
    assert rows["mixing"].gate_ops == 0


def test_tubelets_cost_as_the_images_they_are() -> None:
    args = {"name": "vit_tiny_patch16_224", "backbone_args": ARGS, "head": "mean"}
    plain, tubelets = (
        compare_schemes(
            ModelConfig(**args, **more), ClipConfig(num_frames=6, size=16), (5,), schemes=["mixing"]
        )[0]
        for more in ({}, {"tubelet": (0, -1, 2)})
    )
    assert tubelets.macs[64] == image_macs(22) + 48 * 5  # 64 frames are 21 tubelets and a begun one
    assert plain.parameters - tubelets.parameters == 4 * 48  # rows of the temporal embedding: 2 for 6
    assert tubelets.activation_mb < 0.5 * plain.activation_mb


def test_base_model_as_published() -> None:
    with torch.device("meta"):
        model = create_model("xvit_base_patch16", num_classes=600, num_frames=8)
    frames = torch.empty(1, 8, 3, 224, 224, device="meta")
    head = multiply_adds(model.head, torch.empty(1, 8, 768, device="meta"))
    assert (multiply_adds(model, frames) - head) / 8 == pytest.approx(17.56e9, rel=0.01)
    assert sum(p.numel() for p in model.backbone.parameters()) == 85_798_656


def test_gate_costs_elementwise_only() -> None:
    gated, fixed = (small_model(mixing=Mixing(gate=gate)) for gate in ("learned", "fixed"))
    frames = torch.zeros(1, 8, 3, 16, 16)
    assert multiply_adds(gated, frames) == multiply_adds(fixed, frames)


def test_kept_bytes_counts_each_activation_once() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4))
    # The input, and the output of the ReLU, which the ReLU and the second layer share.
    assert kept_bytes(layers, torch.zeros(3, 4)) == 2 * 3 * 4 * 4


def test_info_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["vit_tiny_patch16_224", "--num-classes", "5", "data.size=32", "model.backbone_args.depth=2"]
    monkeypatch.setattr(sys, "argv", ["xvit", "info", *arguments, "model.mixing.gate=learned"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "vit_tiny_patch16_224, 8 frames of 32×32, 5 classes"
    assert [line.split()[0] for line in lines[3:7]] == ["mixing", "spatial", "divided", "joint"]
    # 2 blocks, 8 frames of 5 tokens, half of 192 channels, keys and values.
    assert (
        lines[7]
        == f"the learned gate adds {2 * 8 * 5 * 96 * 2 / 1e6:.1f} M elementwise multiply-adds per clip"
    )
