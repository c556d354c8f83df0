"""A warm start answers as its source did, whatever the new model has besides."""

from __future__ import annotations

import pytest
import torch

from xvit.models import XViT, create_model
from xvit.models.transfer import fit_weights

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 16}


def model(**changes: object) -> XViT:
    """With random values wherever a fresh model has zeros."""
    torch.manual_seed(len(str(changes)))
    settings = {"num_classes": 3, "num_frames": 4, "size": 32, "backbone_args": SMALL} | changes
    made = create_model("vit_tiny_patch16_224", **settings).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if ".adapter." not in name and not name.endswith(".mix_gate"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


@pytest.mark.parametrize(
    "changes",
    [
        {"adapters": 4},
        {"mixing": {"gate": "learned"}},
        {"size": 64, "num_frames": 6, "adapters": 4, "mixing": {"gate": "learned"}},
        {"num_frames": 2, "temporal_embedding": "interpolate"},
    ],
    ids=str,
)
def test_frames_size_and_extras_change_no_answer(changes: dict[str, object]) -> None:
    source, target = model(temporal_length=4), model(**changes)
    target.load_state_dict(fit_weights(source, target))
    size, length = target.clip.size, target.clip.num_frames
    frames = torch.randn(2, length, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(target(frames), source(frames))


def test_a_head_with_positions_is_stretched() -> None:
    source, target = model(head_positions=True), model(head_positions=True, num_frames=7)
    target.load_state_dict(fit_weights(source, target))
    frames = torch.randn(1, 7, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(
            target.forward_head(source.forward_features(frames)), source(frames), rtol=1e-4, atol=1e-5
        )


def test_gates_stay_closed_where_the_source_does_not_mix() -> None:
    source, target = model(attention="spatial"), model(mixing={"gate": "learned"})
    target.load_state_dict(fit_weights(source, target))
    frames = torch.randn(1, 4, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(target(frames), source(frames))


@pytest.mark.parametrize("head", ["temporal", "mean", "moments"])
def test_a_new_head_is_the_classifier_or_all_of_another_kind(head: str) -> None:
    source, target = model(), model(head=head, num_classes=5)
    own = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    assert fit_weights(source, target).keys() != own.keys() or head == "temporal"
    target.load_state_dict(fit_weights(source, target, new_head=True))
    after = target.state_dict()
    kept = {name for name in own if torch.equal(after[name], own[name])}
    fresh = {name for name in own if name.startswith("head.fc." if head == "temporal" else "head.")}
    assert kept == fresh


def test_heads_that_read_other_things_are_not_alike_though_their_shapes_are() -> None:
    source = model(head="moments", head_moments=1, feature_blocks=2)
    target = model(head="moments", head_moments=2, feature_blocks=1)
    assert source.head.fc.weight.shape == target.head.fc.weight.shape
    assert not any(name.startswith("head.") for name in fit_weights(source, target))
    source.head.centre.fill_(1)
    assert torch.equal(fit_weights(source, target, new_head=True)["head.centre"], target.head.centre)
    alike = model(head="moments", head_moments=1, feature_blocks=2)
    assert torch.equal(fit_weights(source, alike, new_head=True)["head.centre"], source.head.centre)
