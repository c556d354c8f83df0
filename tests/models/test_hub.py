from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard

from xvit.errors import WeightsError
from xvit.models import XViT, create_model
from xvit.models.hub import from_pretrained, push_to_hub, save_pretrained

RESULTS = {
    "videos": 40,
    "missing": [{"video_id": "a", "reason": "gone"}],
    "combine": "probabilities",
    "tasks": {"class": {"top1": {"value": 0.5, "low": 0.4, "high": 0.6}, "ece": 0.1}},
    "list": {"split": "val", "sha256": "ab" * 32},
    "config": {"eval": {"views": "3x2"}},
}


@pytest.fixture(scope="module")
def model() -> XViT:
    size = {"embed_dim": 48, "depth": 1, "num_heads": 3, "img_size": 32}
    return create_model(
        "vit_tiny_patch16_224",
        num_classes=2,
        num_frames=4,
        size=32,
        classes=[["left", "right"]],
        backbone_args=size,
    ).eval()


def test_a_saved_model_comes_back_with_its_card(model: XViT, tmp_path: Path) -> None:
    folder = save_pretrained(
        model, tmp_path / "motion", data="Ten videos of discs.", licence="apache-2.0", results=RESULTS
    )
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    back = from_pretrained(folder)
    frames = torch.randn(1, 4, 3, 32, 32)
    assert torch.equal(back(frames), model(frames))
    assert back.classes == (("left", "right"),)
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "video-classification"
    assert "| class top1 | 50.00 % | 40.00 to 60.00 % |" in card.text
    assert "40 videos, 1 missing, 3x2 views" in card.text
    assert "ab" * 32 in card.text
    assert "Ten videos of discs." in card.text


def test_a_card_states_nothing_that_is_not_known(model: XViT, tmp_path: Path) -> None:
    text = (save_pretrained(model, tmp_path / "bare") / "README.md").read_text()
    assert "None were measured." in text
    assert "Not stated: ask" in text


def test_push_uploads_the_folder(model: XViT, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def create(self: HfApi, repo_id: str, **options: object) -> str:
        seen.update(options, repo=repo_id)
        return f"https://hub/{repo_id}"

    def upload(self: HfApi, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        seen["files"] = sorted(path.name for path in Path(folder_path).iterdir())
        seen["title"] = "# motion\n" in (Path(folder_path) / "README.md").read_text()

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert push_to_hub(model, "me/motion", private=True) == "https://hub/me/motion"
    assert seen["files"] == ["README.md", "config.json", "model.safetensors"]
    assert (seen["repo"], seen["private"], seen["title"]) == ("me/motion", True, True)


def test_what_is_no_folder_and_no_repository_is_one_line() -> None:
    with pytest.raises(WeightsError, match="no such folder, and not a hub repository"):
        from_pretrained("a/b/c")
