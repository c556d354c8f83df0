from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import Hub
from huggingface_hub import ModelCard

from xvit.errors import WeightsError
from xvit.models import XViT, create_model
from xvit.models.hub import from_pretrained, save_pretrained

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
    assert "| class top-1 | 50.00 % | 40.00 to 60.00 % |" in card.text
    assert "| class calibration error | 10.00 % | |" in card.text
    assert "bootstrap intervals over videos" in card.text
    assert "40 videos, 1 missing, 3x2 views" in card.text
    assert "ab" * 32 in card.text
    assert "Ten videos of discs." in card.text


def test_a_card_states_nothing_that_is_not_known(model: XViT, tmp_path: Path) -> None:
    text = (save_pretrained(model, tmp_path / "bare") / "README.md").read_text()
    assert "None were measured." in text
    assert "Not stated: ask" in text


def test_a_card_of_results_that_were_recomputed(model: XViT, tmp_path: Path) -> None:
    again = {key: value for key, value in RESULTS.items() if key != "config"}
    again |= {"list": {"sha256": "cd" * 32}, "groups": 6, "not_on_disk": 3}
    text = (save_pretrained(model, tmp_path / "again", results=again) / "README.md").read_text()
    assert "1 missing, 3 more that the list names not on disk; bootstrap intervals over 6 recordings" in text
    assert f"SHA-256 of the list `{'cd' * 32}`" in text


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def talk(hub: Hub, home: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, whose hub is this one and whose cache is empty."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "no_proxy": "127.0.0.1"}
    lines = f"import torch, xvit\nfrom xvit.models.hub import from_pretrained, push_to_hub\n{code}"
    return subprocess.run(
        [sys.executable, "-c", lines], env=environment, capture_output=True, text=True, check=False
    )


def test_a_model_goes_to_a_hub_and_comes_back(model: XViT, tmp_path: Path, hub: Hub) -> None:
    save_pretrained(model, tmp_path / "here")
    push = f"model = from_pretrained({str(tmp_path / 'here')!r})\n"
    push += "print(push_to_hub(model, 'me/motion', private=True, token='hf_secret', licence='mit'))"
    for _ in range(2):  # the second time the repository is there
        done = talk(hub, tmp_path / "cache", push)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"{hub.url}/me/motion"
    files = hub.repositories["me/motion"]
    assert {"README.md", "config.json", "model.safetensors"} <= set(files)
    assert files["model.safetensors"] == (tmp_path / "here/model.safetensors").read_bytes()
    assert b"# motion\n" in files["README.md"]
    assert b"license: mit" in files["README.md"]
    assert hub.private == {"me/motion": True}
    assert hub.commits[0] == "Upload an XViT model"
    assert "Bearer hf_secret" in hub.tokens

    pull = f"torch.save(from_pretrained('me/motion').state_dict(), {str(tmp_path / 'back.pt')!r})"
    done = talk(hub, tmp_path / "other", pull)
    assert done.returncode == 0, done.stderr
    back = torch.load(tmp_path / "back.pt")
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("push_to_hub(from_pretrained({here!r}), 'me/motion', token='hf_x')", "the hub refuses: "),
        ("from_pretrained('me/nothing')", "no such folder, and the hub says: 404 Client Error"),
    ],
)
def test_a_hub_that_says_no_is_one_line(
    model: XViT, tmp_path: Path, hub: Hub, code: str, message: str
) -> None:
    save_pretrained(model, tmp_path / "here")
    hub.refused = 403
    done = talk(hub, tmp_path / "cache", code.format(here=str(tmp_path / "here")))
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("xvit.errors.WeightsError: me/")
    assert message in last


def test_what_is_no_folder_and_no_repository_is_one_line() -> None:
    with pytest.raises(WeightsError, match="no such folder, and not a hub repository"):
        from_pretrained("a/b/c")
