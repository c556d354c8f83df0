"""Weights: ours and the authors', there and back, and every way a file can be wrong."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tiny import ARGS, small_model
from torch import Tensor

from xvit.cli import main
from xvit.config import ClipConfig, Mixing, load_config
from xvit.errors import WeightsError
from xvit.models import XViT, build_model, create_model, load_model, save_model
from xvit.models.convert import check_released, convert_weights, inspect_weights, verify_weights
from xvit.models.released import TEMPORAL_NAMES

TOLD = {"group": 8, "fraction": 0.25, "num_heads": 3}


def released_file(path: Path, wrapped: bool = True, **config: object) -> XViT:
    """A file in the authors' layout, written by our own way back."""
    model = small_model(frames=16, size=32, dropout=0.5, mixing=Mixing(group=8, fraction=0.25), **config)
    save_model(model, path.with_suffix(""))
    convert_weights(path.with_suffix(""), path)
    if not wrapped:
        torch.save(torch.load(path)["model_state"], path)
    return model


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"head": "mean", "attention": "divided"},
        {"mixing": Mixing(gate="learned", blocks=(0, 2)), "head_positions": True, "head_init": "mean"},
    ],
    ids=str,
)
def test_our_folder_keeps_everything(tmp_path: Path, config: dict) -> None:
    model = small_model(num_classes=(2, 3), **config)
    save_model(model, tmp_path / "run")
    for path in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        loaded = load_model(path)
        assert same_state(loaded.state_dict(), model.state_dict())
        assert (loaded.config, loaded.clip, loaded.classes) == (model.config, model.clip, model.classes)
        assert not loaded.training
    assert model.classes == (("0", "1"), ("0", "1", "2"))


def test_backbone_weights_are_not_read_again(tmp_path: Path) -> None:
    image = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=16, **ARGS)
    save_file(image.state_dict(), tmp_path / "image.safetensors")
    model = small_model(backbone_weights=str(tmp_path / "image.safetensors"))
    save_model(model, tmp_path / "run")
    (tmp_path / "image.safetensors").unlink()
    assert same_state(load_model(tmp_path / "run").state_dict(), model.state_dict())


@pytest.mark.parametrize("case", ["k600_p16", "ssv2_p16", "k600_p32_avg", "k600_p32_some_layers"])
def test_authors_files_there_and_back_bit_for_bit(shared: Path, tmp_path: Path, case: str) -> None:
    source = shared / "oracle" / f"{case}.pth"
    rows = convert_weights(source, tmp_path / "ours")
    convert_weights(tmp_path / "ours", tmp_path / "theirs.pth")
    before, after = torch.load(source), torch.load(tmp_path / "theirs.pth")
    assert same_state(before.pop("model_state"), after.pop("model_state"))
    assert before == after
    assert len(rows) == len(torch.load(source)["model_state"])
    direct, carried = load_model(source), load_model(tmp_path / "ours")
    assert same_state(direct.state_dict(), carried.state_dict())
    assert direct.config == carried.config


def test_what_an_authors_file_tells(shared: Path) -> None:
    model = load_model(shared / "oracle" / "k600_p16.pth")
    assert model.config.mixing == Mixing(group=8, fraction=0.25)
    assert model.config.temporal_length == 8
    assert model.clip == ClipConfig(
        num_frames=16,
        sampling="dense",
        frame_stride=16,
        target_fps=30,
        clip_position="released",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    other = load_model(shared / "oracle" / "ssv2_p16.pth")
    assert (other.config.mixing, other.clip.sampling) == (Mixing(fraction=0.5), "segment")


def test_our_model_in_their_layout_and_back(tmp_path: Path) -> None:
    model = released_file(tmp_path / "file.pth")
    loaded = load_model(tmp_path / "file.pth")
    frames = torch.randn(1, 16, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(frames), loaded(frames))
    assert (loaded.config.mixing, loaded.config.dropout) == (model.config.mixing, 0.5)
    assert "new_fc.weight" in torch.load(tmp_path / "file.pth")["model_state"]


@pytest.mark.parametrize("depth", [1, 3])
def test_bare_file_is_told_what_it_lacks(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "bare.pth"
    model = released_file(path, wrapped=False, head_depth=depth)
    with pytest.raises(WeightsError, match="say group=…, fraction=…, num_heads=…"):
        load_model(path)
    with pytest.raises(WeightsError, match="say num_heads=…"):
        load_model(path, group=8, fraction=0.25)
    with pytest.raises(WeightsError, match="nothing to be told about heads"):
        load_model(path, heads=3)
    loaded = load_model(path, **TOLD)
    assert loaded.config.mixing == model.config.mixing
    assert loaded.config.head_depth == depth
    assert same_state(loaded.state_dict(), model.state_dict())
    convert_weights(path, tmp_path / "again", **TOLD)
    convert_weights(tmp_path / "again", tmp_path / "again.pth")
    assert same_state(torch.load(path), torch.load(tmp_path / "again.pth"))


def test_bare_file_of_a_published_name(tmp_path: Path) -> None:
    path = tmp_path / "xvit_b16_16_k600.pth"
    released_file(path, wrapped=False)
    loaded = load_model(path, num_heads=3)
    assert loaded.config.mixing == Mixing(group=8, fraction=0.25)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mixing": Mixing(layout="channels")}, "mixing.layout=heads"),
        ({"mixing": Mixing(window=0)}, "mixing.window=1"),
        ({"mixing": Mixing(fraction=0.3)}, "mixing.fraction=0.2857"),
        ({"mixing": Mixing(fraction=0)}, "mixing.fraction above 0"),
        ({"summary_token": True}, "summary_token=false"),
        ({"attention": "joint"}, "attention=mixing or spatial"),
        ({"adapters": 4}, "no adapters"),
        ({"num_classes": (2, 3)}, "one task"),
    ],
)
def test_models_their_layout_has_no_place_for(tmp_path: Path, config: dict, message: str) -> None:
    save_model(small_model(**config), tmp_path / "run")
    with pytest.raises(WeightsError, match=message):
        convert_weights(tmp_path / "run", tmp_path / "file.pth")
    assert not (tmp_path / "file.pth").exists()


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch was-run",)


def test_pickle_that_wants_to_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state": {}, "cfg": RunsCode()}, "evil.pth")
    with pytest.raises(WeightsError, match=r"evil.pth: refused: its pickle wants to run code \(\S*system\)"):
        load_model("evil.pth")
    assert not Path("was-run").exists()


def test_files_that_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    released_file(path)
    whole = path.read_bytes()
    wrong = {
        "truncated": (whole[: len(whole) // 2], "truncated"),
        "empty": (b"", "truncated"),
        "text": (b"hello", "not a PyTorch file"),
    }
    for content, message in wrong.values():
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            load_model(path)
    with pytest.raises(WeightsError, match="no such file"):
        load_model(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"consensus.mlp_head.1.bias": None}, "1 missing .head.mlp.1.bias"),
        ({"extra.weight": torch.zeros(1)}, "unexpected tensor extra.weight"),
        ({"base_model.norm.weight": torch.zeros(7)}, r"norm.weight \(7,\), expected \(48,\)"),
        ({"base_model.cls_token": None}, "not weights of the released XViT code"),
        ({"base_model.temp_embed": None}, "temporal_embedding is missing"),
        ({"base_model.blocks.3.norm1.weight": torch.zeros(48)}, "11 missing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_tensors_that_are_wrong(tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    path = tmp_path / "file.pth"
    released_file(path)
    content = torch.load(path)
    state = content["model_state"] | change
    content["model_state"] = {name: value for name, value in state.items() if value is not None}
    torch.save(content, path)
    with pytest.raises(WeightsError, match=message):
        load_model(path)


def test_another_models_file(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(WeightsError, match="not weights of the released XViT code"):
        load_model(tmp_path / "resnet.pth")


def test_our_folder_that_is_wrong(tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_model(small_model(), run)
    weights, config = run / "model.safetensors", run / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(WeightsError, match="truncated or not safetensors"):
        load_model(run)
    state = {k: v for k, v in small_model().state_dict().items() if k != "head.fc.bias"}
    save_file(state, weights)
    with pytest.raises(WeightsError, match=r"1 missing \(head.fc.bias\)"):
        load_model(run)
    weights.write_bytes(whole)
    config.write_text(json.dumps({"model": {}}))
    with pytest.raises(WeightsError, match="not a model description"):
        load_model(run)
    config.unlink()
    with pytest.raises(WeightsError, match=r"no config\.json here"):
        load_model(run)
    with pytest.raises(WeightsError, match=r"no model\.safetensors here"):
        load_model(tmp_path)


def test_inspect(shared: Path) -> None:
    facts = inspect_weights(shared / "oracle" / "k600_p16.pth")
    assert facts["layout"] == "released"
    assert facts["num_classes"] == (11,)
    assert facts["model"]["mixing"]["group"] == 8
    assert ("base_model.temp_embed", (1, 8, 1, 48), "float32") in facts["tensors"]
    assert any(name == "new_fc.weight" for name, _, _ in facts["tensors"])


def test_verify(tmp_path: Path) -> None:
    model = released_file(tmp_path / "file.pth")
    facts = verify_weights(tmp_path / "file.pth")
    assert facts["checks"][-1] == "carried to our names and back bit for bit"
    assert len(facts["sha256"]) == 64
    with torch.no_grad():
        model.head.fc.bias[1] = float("nan")
    save_model(model, tmp_path / "run")
    with pytest.raises(WeightsError, match=r"1 tensors hold NaN or infinity, the first is head\.fc\.bias"):
        verify_weights(tmp_path / "run")


def test_names_cover_a_converted_file(tmp_path: Path) -> None:
    released_file(tmp_path / "file.pth")
    convert_weights(tmp_path / "file.pth", tmp_path / "run")
    state = load_file(tmp_path / "run" / "model.safetensors")
    assert {"unused.new_fc.weight", "unused.new_fc.bias"} < set(state)
    assert all(
        any(name.startswith(ours) for ours in TEMPORAL_NAMES.values()) or "unused." in name for name in state
    )


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def xvit(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["xvit", "weights", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()

    file, run = str(tmp_path / "file.pth"), str(tmp_path / "run")
    released_file(tmp_path / "file.pth")
    assert "num_frames: 16" in xvit("inspect", file, "--tensors")[1]
    assert "base_model.norm.bias -> backbone.norm.bias  48  float32" in xvit("convert", file, run)[1]
    assert "ok  all numbers are finite" in xvit("verify", run)[1]
    assert xvit("inspect", file, "--known", "group")[0] == 2
    Path(file).write_bytes(b"x")
    code, _, errors = xvit("verify", file)
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith(f"xvit: {file}: ")


CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_that_write_released_files_can(path: Path) -> None:
    config = load_config(path)
    tasks = (97, 300) if path.parent.name == "EPIC" else (4,)
    untrained = config.model.model_copy(update={"backbone_weights": None})
    with torch.device("meta"):
        model = build_model(untrained, num_classes=tasks, clip=config.data)
    if config.train.released_every is not None:
        check_released(model)
    elif path.parent.name in ("EPIC", "demo"):
        with pytest.raises(WeightsError, match="the authors' layout has no place for this model; it needs "):
            check_released(model)


def test_a_temporal_head_of_other_heads_than_the_backbones_comes_back(tmp_path: Path) -> None:
    model = create_model(
        "vit_tiny_patch16_224",
        num_classes=3,
        num_frames=4,
        size=32,
        head_num_heads=12,
        temporal_length=8,
        spatial_resize="released",
        backbone_args={"depth": 2},
    ).eval()
    save_model(model, tmp_path / "run")
    convert_weights(tmp_path / "run", tmp_path / "theirs.pyth")
    frames = torch.randn(1, 4, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(load_model(tmp_path / "theirs.pyth")(frames), model(frames))
