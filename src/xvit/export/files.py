"""Writing exported files, with what travels in them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from xvit import __version__
from xvit.config import ClipConfig
from xvit.engine.results import task_names
from xvit.errors import ConfigError
from xvit.export.graph import Traced, stream_step, whole_clips
from xvit.exported import DESCRIPTION, Description
from xvit.models import XViT

FORMATS = {"onnx": ".onnx", "onnx-int8": ".onnx", "pt2": ".pt2"}
OPSET = 18  # the newest that every runtime of the last years knows
LARGEST_ONNX = 2_000_000_000  # bytes: what one protobuf message may hold


def export_model(model: XViT, path: str | Path, to: str = "onnx", *, streaming: bool = False) -> Description:
    """Write `model` to `path`: "onnx", "onnx-int8" (weights and activations of the products), or "pt2".

    Any batch; frames and size as trained. The file appears under its name when it is complete. `streaming`
    writes one step of a causal model, state in and out. Raises ConfigError where the format is unknown, a
    library is absent, the path cannot be written, or the model cannot be exported.
    """
    path = Path(path)
    check_target(path, to)
    model = model.cpu().eval()
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if to != "pt2" and size > LARGEST_ONNX:
        raise ConfigError(f"--to {to}: {size / 1e9:.1f} GB of weights, an ONNX file holds 2 GB; use --to pt2")
    traced = stream_step(model) if streaming else whole_clips(model)
    description = _describe(model, traced, to)
    program = traced.program()
    with unfinished(path) as target:
        if to == "pt2":
            extra = {DESCRIPTION: json.dumps(description.to_metadata())}
            torch.export.save(program, target, extra_files=extra)
        else:
            _write_onnx(program, traced, target, description, int8=to == "onnx-int8")
    return description


def check_target(path: Path, to: str) -> None:
    """Say before any work is done why `path` cannot become a `to` file. Raises ConfigError."""
    if to not in FORMATS:
        raise ConfigError(f"--to must be one of {', '.join(FORMATS)}, got {to!r}")
    if path.suffix != FORMATS[to]:
        raise ConfigError(f"--output {path}: a file of --to {to} ends in {FORMATS[to]}")
    if path.is_dir():
        raise ConfigError(f"--output {path}: is a folder; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as err:
        raise ConfigError(f"--output {path}: cannot be written: {err.strerror}") from err
    if to == "pt2":
        return
    for library in ("onnx", "onnxruntime", "onnxscript"):
        if importlib.util.find_spec(library) is None:
            raise ConfigError(f"--to {to} needs {library}; pip install 'xvit[onnx]'")


def _describe(model: XViT, traced: Traced, to: str) -> Description:
    state = {
        name: tuple(-1 if axis == traced.batch_axes[name] else n for axis, n in enumerate(tensor.shape))
        for name, tensor in list(traced.inputs.items())[1:]
    }
    return Description(
        clip=ClipConfig(**{key: getattr(model.clip, key) for key in ClipConfig.model_fields}),
        classes=model.classes,
        tasks=task_names(len(model.classes)),
        several_labels=model.several_labels,
        features=model.head_hidden_size,
        kind=to,
        state=state,
        made_by=f"xvit {__version__}, torch {torch.__version__}",
    )


def _write_onnx(program: Any, traced: Traced, target: Path, description: Description, *, int8: bool) -> None:
    import onnx

    with _quiet():
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(traced.inputs),
            output_names=list(traced.outputs),
            verbose=False,
        )
        assert written is not None
        proto = written.model_proto
        if int8:
            proto = quantize(proto, target)
    onnx.helper.set_model_props(proto, description.to_metadata())
    onnx.save(proto, target)


def quantize(proto: Any, target: Path) -> Any:
    """Products with weights in 8 bits: per channel for weights, as they come for activations.

    Weights are signed, which is what processors with VNNI multiply fastest, and take 7 of their 8 bits: two
    products of full range overflow the 16 bits in which other processors add them, silently and differently
    from machine to machine. `target` names a file beside which there is room.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        plain, small = Path(folder, "plain.onnx"), Path(folder, "int8.onnx")
        onnx.save(proto, plain)
        quantize_dynamic(
            plain,
            small,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(small)


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A name beside `path` that becomes `path` when all went well."""
    target = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        yield target
        os.replace(target, path)
    finally:
        target.unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter speaks to its developers."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
