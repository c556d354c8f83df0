"""Agreement with the numbers that the released code computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xvit.models import XViT, load_model
from xvit.models.released import MEAN_NAMES, TEMPORAL_NAMES

CASES = (
    "k600_p16",
    "ssv2_p16",
    "k600_p16_crop160",
    "k600_p32_avg",
    "k600_p32_some_layers",
    "spatial_only_p16",
)


def facts(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "oracle" / "index.json").read_text())


def clips(case: dict[str, Any]) -> torch.Tensor:
    """The oracle's input, (B, T, 3, H, W)."""
    shape = (case["batch"], 3, case["frames"], case["size"], case["size"])
    i = np.arange(np.prod(shape), dtype=np.float64)
    values = np.sin(0.7310585786300049 * i + 0.25).astype(np.float32)
    return torch.from_numpy(values).view(shape).transpose(1, 2)


def our_name(model: XViT, theirs: str) -> str:
    names = TEMPORAL_NAMES if model.config.head == "temporal" else MEAN_NAMES
    prefix = next(prefix for prefix in names if theirs.startswith(prefix))
    return names[prefix] + theirs[len(prefix) :]


def relative(ours: torch.Tensor, theirs: np.ndarray) -> float:
    return float(np.abs(ours.numpy() - theirs.reshape(ours.shape)).max() / np.abs(theirs).max())


@pytest.mark.parametrize("name", CASES)
def test_features_and_logits(shared: Path, name: str) -> None:
    model = load_model(shared / "oracle" / f"{name}.pth")
    expected = np.load(shared / "oracle" / f"{name}.npz")
    with torch.no_grad():
        features = model.forward_features(clips(facts(shared)[name]))
        logits = model.forward_head(features)
    assert relative(features, expected["frame_features"]) < 1e-5
    assert relative(logits, expected["logits"]) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_every_parameter(shared: Path, name: str) -> None:
    model, case = load_model(shared / "oracle" / f"{name}.pth"), facts(shared)[name]
    logits = model(clips(case))
    loss = F.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1])
    loss.backward()
    assert loss.item() == pytest.approx(case["loss_eval_mode"], rel=1e-5)
    norms = {key: value.grad.norm().item() for key, value in model.named_parameters()}
    expected = {our_name(model, key): value for key, value in case["grad_norms"].items()}
    assert norms == pytest.approx(expected, rel=1e-4)


def test_three_sgd_steps(shared: Path) -> None:
    """The released code's optimiser: dropout off, the input rolled by one pixel a step."""
    steps = facts(shared)["sgd_steps"]
    case = facts(shared)[steps["case"]]
    model, frames = load_model(shared / "oracle" / f"{steps['case']}.pth"), clips(case)
    labels = torch.arange(len(frames)) % sum(model.num_classes)
    free = [value for name, value in model.named_parameters() if name.startswith("head.") and "bias" in name]
    decayed = [value for value in model.parameters() if not any(value is other for other in free)]
    groups = [
        {"params": decayed, "weight_decay": steps["weight_decay"]},
        {"params": free, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=steps["momentum"], nesterov=steps["nesterov"])
    losses = []
    for step, lr in enumerate(steps["lr"]):
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = F.cross_entropy(model(frames.roll(step, dims=-1)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(steps["losses"], rel=1e-4)
    with torch.no_grad():
        assert relative(model(frames), np.array(steps["logits_after"])) < 1e-4
    norms = {name: value.norm().item() for name, value in model.named_parameters()}
    expected = {our_name(model, k): v for k, v in steps["param_norms_after"].items() if "new_fc" not in k}
    assert norms == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("name", "same"), [("k600_p16", True), ("ssv2_p16", False)])
def test_swapped_halves(shared: Path, name: str, same: bool) -> None:
    """NOTE(parity): the released Kinetics model mixes 16 frames as two groups of 8."""
    model = load_model(shared / "oracle" / f"{name}.pth")
    frames = torch.randn(1, 16, 3, 64, 64)
    with torch.no_grad():
        logits, swapped = model(frames), model(frames.roll(8, dims=1))
    assert torch.allclose(logits, swapped, atol=1e-5) is same
