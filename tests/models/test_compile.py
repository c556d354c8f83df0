"""torch.compile and torch.export take the model whole and agree with eager."""

from __future__ import annotations

import shutil

import pytest
import torch
from tiny import small_model

from xvit.config import Mixing

CONFIGS = {
    "released": {"mixing": Mixing(group=4)},
    "paper": {"mixing": Mixing(layout="channels"), "summary_token": True, "head_positions": True},
    "gated": {"mixing": Mixing(gate="learned"), "head_init": "mean"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["released", "gated"])
def test_compile_fullgraph(name: str) -> None:
    model, frames = small_model(depth=2, **CONFIGS[name]), torch.randn(2, 8, 3, 16, 16)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    gradients = []
    for run in (model, compiled):
        logits = run(frames)
        gradients.append([logits, *torch.autograd.grad(logits.square().sum(), list(model.parameters()))])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiled_code_agrees() -> None:
    model, frames = small_model(depth=1, mixing=Mixing(group=4), head="mean"), torch.randn(1, 8, 3, 16, 16)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True)
        torch.testing.assert_close(compiled(frames), model(frames), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["released", "paper"])
def test_export_with_any_batch(name: str) -> None:
    model = small_model(depth=2, **CONFIGS[name])
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = {"frames": {0: batch}}
    exported = torch.export.export(model, (torch.randn(2, 8, 3, 16, 16),), dynamic_shapes=shapes).module()
    with torch.no_grad():
        for size in (1, 2, 5):
            frames = torch.randn(size, 8, 3, 16, 16)
            torch.testing.assert_close(exported(frames), model(frames), rtol=1e-4, atol=1e-5)
