"""An exported file says what the model says, for every kind of model, at any batch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from xvit.cli import main
from xvit.data.synth import write_video
from xvit.errors import ConfigError, WeightsError, XViTError
from xvit.export import export_model, verify_export, verify_stream
from xvit.export.files import quantize
from xvit.export.graph import whole_clips
from xvit.export.verify import Agreement
from xvit.exported import ExportedModel, load_exported, load_stream
from xvit.models import XViT, save_model
from xvit.models.streaming import StreamingXViT
from xvit.predict import Predictor

Make = Callable[..., XViT]

# Between them every head, scheme, layout, window, gate, group and mixed tensor; each goes through ONNX.
MODELS: dict[str, dict[str, Any]] = {
    "released": {"mixing": {"group": 2}, "spatial_resize": "released", "temporal_length": 2},
    "paper": {
        "mixing": {"layout": "channels"},
        "summary_token": True,
        "head_positions": True,
        "head_depth": 2,
    },
    "gated": {
        "mixing": {"gate": "learned", "window": 2, "mixed": ("input", "query", "value")},
        "head_init": "mean",
        "adapters": 8,
        "temporal_embedding": "interpolate",
        "temporal_length": 3,
    },
    "causal": {
        "mixing": {"causal": True, "window": 2, "layout": "channels", "gate": "learned"},
        "head": "mean",
        "classes": (3, 4),
    },
    "registers": {
        "args": {"reg_tokens": 2, "class_token": False, "global_pool": "avg"},
        "mixing": {"blocks": "every_other"},
    },
    "spatial": {"attention": "spatial", "temporal_embedding": "none"},
    "divided": {"attention": "divided", "head": "mean"},
    "joint": {"attention": "joint"},
    "moments": {"head": "moments", "mixing": {"window": 0}, "classes": (3, 4)},
    "tasks": {"mixing": {"causal": True}, "classes": (3, 2, 2)},
    "tubelets": {"tubelet": (-1, 2), "head": "moments", "feature_blocks": 2},
}


def agree(model: XViT, exported: ExportedModel) -> None:
    for size in (1, 2, 5):
        frames = torch.randn(size, model.clip.num_frames, 3, model.clip.size, model.clip.size)
        with torch.inference_mode():
            pairs = [
                (exported(frames), model(frames)),
                (exported.clip_features(frames), model.clip_features(frames)),
            ]
        for got, expected in pairs:
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        assert pairs[1][0].shape[1] == exported.head_hidden_size


@pytest.mark.parametrize("name", MODELS)
def test_onnx_equals_eager(loud_model: Make, name: str, tmp_path: Path) -> None:
    model = loud_model(**MODELS[name])
    export_model(model, tmp_path / "m.onnx")
    exported = load_exported(tmp_path / "m.onnx", "cpu")
    agree(model, exported)
    verify_export(model, exported).check(tmp_path / "m.onnx", "onnx")
    # What --to onnx-int8 writes of the same trace.
    proto = quantize(onnx.load(tmp_path / "m.onnx"), tmp_path / "m8.onnx")
    onnx.helper.set_model_props(proto, exported.description.to_metadata())
    onnx.save(proto, tmp_path / "m8.onnx")
    assert any(node.op_type == "MatMulInteger" for node in proto.graph.node)
    found = verify_export(model, load_exported(tmp_path / "m8.onnx", "cpu"))
    assert 1e-4 < found.difference < 0.2


@pytest.mark.parametrize("name", ["released", "paper", "causal", "divided", "moments"])
def test_pt2_equals_eager(loud_model: Make, name: str, tmp_path: Path) -> None:
    model = loud_model(**MODELS[name])
    export_model(model, tmp_path / "m.pt2", "pt2")
    agree(model, load_exported(tmp_path / "m.pt2", "cpu"))


STREAMS: dict[str, dict[str, Any]] = {
    "plain": {"mixing": {"causal": True}, "head_positions": True, "temporal_length": 3},
    "grouped": {
        "mixing": {"causal": True, "window": 2, "group": 3, "layout": "channels", "mixed": ("input", "key")},
        "frames": 6,
        "head_init": "mean",
    },
    "mean": {"mixing": {"causal": True, "gate": "learned"}, "head": "mean", "temporal_embedding": "none"},
    "spatial": {"attention": "spatial"},
    "moments": {"mixing": {"causal": True}, "head": "moments", "head_moments": 2, "feature_blocks": 2},
}


@pytest.mark.parametrize(
    ("name", "to"),
    [("plain", "onnx"), ("grouped", "onnx"), ("mean", "pt2"), ("spatial", "pt2"), ("moments", "onnx")],
)
def test_a_streams_step_equals_the_stream(loud_model: Make, name: str, to: str, tmp_path: Path) -> None:
    model = loud_model(**STREAMS[name])
    path = tmp_path / f"step.{to}"
    description = export_model(model, path, to, streaming=True)
    assert set(description.state) >= {"recent", "seen"}
    stream, exported = StreamingXViT(model), load_stream(path, "cpu")
    for streams in (3, 1):
        for frame in torch.randn(2 * model.clip.num_frames + 1, streams, 3, 16, 16):
            torch.testing.assert_close(exported(frame), stream(frame), rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match="reset"):
            exported(torch.randn(7, 3, 16, 16))
        stream.reset()
        exported.reset()
    verify_stream(model, exported).check(path, to)


def test_an_int8_step_stays_near_the_stream(loud_model: Make, tmp_path: Path) -> None:
    model = loud_model(args={"embed_dim": 192}, **STREAMS["plain"])
    export_model(model, tmp_path / "step.onnx", "onnx-int8", streaming=True)
    found = verify_stream(model, load_stream(tmp_path / "step.onnx", "cpu"))
    assert found.same == found.clips == 4 * model.clip.num_frames
    assert 1e-4 < found.difference < 0.3


@pytest.fixture(scope="module")
def causal(loud_model: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[XViT, Path]:
    """A model and its file, for tests that need no model of their own."""
    model, path = loud_model(**MODELS["causal"]), tmp_path_factory.mktemp("causal") / "m.onnx"
    export_model(model, path)
    return model, path


def test_what_travels_in_the_file(causal: tuple[XViT, Path]) -> None:
    model, path = causal
    found = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert found["clip"]["std"] == [0.5, 0.4, 0.3]
    assert (found["clip"]["sampling"], found["clip"]["frame_stride"]) == ("dense", 2)
    assert found["tasks"] == ["verb", "noun"]
    assert found["classes"][1][3] == "class 1.3 ä"
    assert load_exported(path).clip == model.clip


def test_a_wrong_file_is_found_out(loud_model: Make, causal: tuple[XViT, Path], tmp_path: Path) -> None:
    exported = load_exported(causal[1], "cpu")
    with pytest.raises(XViTError, match="differs from the model"):
        verify_export(loud_model(**MODELS["causal"]), exported).check(causal[1], "onnx")
    with pytest.raises(XViTError, match="int8 answers as the model on 48 of 50"):
        Agreement(clips=50, same=48).check(tmp_path / "m.onnx", "onnx-int8")
    Agreement(clips=50, same=49, difference=0.1).check(tmp_path / "m.onnx", "onnx-int8")
    with pytest.raises(ValueError, match="takes clips"):
        exported(torch.randn(1, 5, 3, 16, 16))


def test_of_several_labels_of_a_clip_any_will_do() -> None:
    labels = torch.tensor([[0, 2], [1, -1], [0, 1]])
    expected = torch.tensor([[1.0, 0, 3], [0, 3, 1], [0, 1, 3]])
    found = Agreement()
    found.add(expected, torch.tensor([[3.0, 0, 1], [0, 3, 1], [0, 3, 1]]), [3], labels)
    assert (found.clips, found.same, found.labelled, found.right) == (3, 1, 3, (2, 3))
    pairs = Agreement()  # of (verb, noun) both have to be right
    pairs.add(expected, expected, [1, 2], torch.tensor([[0, 1], [0, 1], [0, 1]]))
    assert (pairs.labelled, pairs.right) == (3, (2, 2))


def test_a_refused_file_takes_nobodys_place(
    loud_model: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(loud_model(args={"depth": 1}, attention="spatial", head="mean"), tmp_path / "run")
    path = tmp_path / "out" / "m.onnx"
    path.parent.mkdir()
    path.write_text("an earlier one")
    monkeypatch.setattr("xvit.export.verify.LEAST_AGREEMENT", 1.01)
    command = ["export", str(tmp_path / "run"), "--to", "onnx-int8", "-o", str(path)]
    monkeypatch.setattr(sys, "argv", ["xvit", *command])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"xvit: {path}: int8 answers as the model on " in capsys.readouterr().err
    assert path.read_text() == "an earlier one"
    assert list(path.parent.iterdir()) == [path]


def test_int8_is_small_and_near(loud_model: Make, tmp_path: Path) -> None:
    model = loud_model(args={"embed_dim": 192}, mixing={"group": 2})
    export_model(model, tmp_path / "m.onnx", "onnx-int8")
    assert (tmp_path / "m.onnx").stat().st_size < 0.5 * 4 * sum(p.numel() for p in model.parameters())
    found = verify_export(model, load_exported(tmp_path / "m.onnx", "cpu"))
    assert 1e-4 < found.difference < 0.1


def test_reading_needs_no_model_code(causal: tuple[XViT, Path], tmp_path: Path) -> None:
    """As a library and as a command, where neither timm nor the models' code can be imported."""
    model, path = causal
    write_video(tmp_path / "clip.mp4", np.random.default_rng(0).integers(0, 256, (9, 40, 60, 3), np.uint8))
    own = Predictor(model, "cpu")(tmp_path / "clip.mp4")
    code = """
import sys
sys.modules["timm"] = sys.modules["xvit.models"] = None
from xvit.predict import Predictor
assert Predictor.load(sys.argv[2])(sys.argv[3])
from xvit.cli import main
main()
"""
    files = [str(path), str(tmp_path / "clip.mp4")]
    command = [sys.executable, "-c", code, "predict", *files, "--format", "jsonl"]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    answer = json.loads(found.stdout.splitlines()[-1])["predictions"]
    assert [entry["label"] for entry in answer] == [entry["label"] for entry in own]
    for got, expected in zip(answer, own, strict=True):
        assert got["score"] == pytest.approx(expected["score"], abs=1e-4)


def test_what_cannot_be_exported_says_why(loud_model: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.mixing\.causal"):
        export_model(loud_model(), tmp_path / "m.onnx", streaming=True)
    with pytest.raises(ConfigError, match="--to must be one of onnx, onnx-int8, pt2"):
        export_model(loud_model(), tmp_path / "m.tflite", "tflite")
    with pytest.raises(ConfigError, match=r"ends in \.pt2"):
        export_model(loud_model(), tmp_path / "m.onnx", "pt2")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        export_model(loud_model(), tmp_path / "file" / "m.onnx")
    model = loud_model()
    model.backbone.norm.forward = lambda x: x if x.sum() > 0 else -x  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="this model cannot be exported"):
        whole_clips(model).program()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_no_exported_file_says_so(loud_model: Make, tmp_path: Path) -> None:
    for name in ("gone.onnx", "gone.pt2"):
        with pytest.raises(WeightsError, match="no such file"):
            load_exported(tmp_path / name)
    for name in ("words.onnx", "words.pt2"):
        (tmp_path / name).write_text("just words")
        with pytest.raises(WeightsError, match=r"not an? (ONNX )?file"):
            load_exported(tmp_path / name)
    export_model(loud_model(attention="spatial"), tmp_path / "step.pt2", "pt2", streaming=True)
    with pytest.raises(WeightsError, match="one step of a stream"):
        load_exported(tmp_path / "step.pt2", "cpu")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    same = onnx.helper.make_node("Identity", ["x"], ["y"])
    opset = [onnx.helper.make_opsetid("", 18)]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph([same], "same", [x], [y]), ir_version=10, opset_imports=opset
    )
    onnx.save(proto, tmp_path / "foreign.onnx")
    with pytest.raises(WeightsError, match="not made by xvit export"):
        load_exported(tmp_path / "foreign.onnx", "cpu")


def test_the_extra_is_named_where_it_is_absent(
    loud_model: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.onnx").touch()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'xvit\[onnx\]'"):
        load_exported(tmp_path / "m.onnx")
    find = "xvit.export.files.importlib.util.find_spec"
    monkeypatch.setattr(find, lambda name: None)
    with pytest.raises(ConfigError, match=r"needs onnx; pip install 'xvit\[onnx\]'"):
        export_model(loud_model(), tmp_path / "n.onnx")
