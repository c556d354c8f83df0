"""Exported models: ONNX files through onnxruntime, .pt2 files through torch.export.

None of the model's own code: importing this module imports neither timm nor onnxruntime.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from xvit.config import ClipConfig
from xvit.errors import ConfigError, WeightsError

SUFFIXES = (".onnx", ".pt2")
OUTPUTS = ("logits", "features")
DESCRIPTION = "xvit"  # the file inside a .pt2 that holds the metadata
Run = Callable[..., tuple[Tensor, ...]]


class Description(BaseModel):
    """What travels in an exported file's metadata, each key with a JSON value.

    clip:     the input: frames, size, sampling, mean, std.
    classes:  the names of the classes, one tuple a task; `tasks` names the tasks.
    several_labels: whether each class has a probability of its own (a sigmoid) instead of a share.
    features: the width D of what the classifier sees.
    kind:     "onnx", "onnx-int8" or "pt2".
    state:    shapes of a stream's state for one stream, by name (`-1` counts streams); empty for whole clips.
    made_by:  the program and its version.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    clip: ClipConfig
    classes: tuple[tuple[str, ...], ...]
    tasks: tuple[str, ...]
    several_labels: bool = False
    features: int
    kind: str
    state: dict[str, tuple[int, ...]] = {}
    made_by: str

    def to_metadata(self) -> dict[str, str]:
        """Plain text for the file."""
        return {key: json.dumps(value, ensure_ascii=False) for key, value in self.model_dump().items()}

    @classmethod
    def from_metadata(cls, path: Path, found: Mapping[str, str]) -> Description:
        """The same read back from `path`. Raises WeightsError where it is not a file of ours."""
        try:
            return cls(**{key: json.loads(found[key]) for key in cls.model_fields if key in found})
        except ValueError as err:  # pydantic's is one too
            raise WeightsError(path, "no classes and input in its metadata: not made by xvit export") from err


class ExportedModel(nn.Module):
    """What a Predictor and an evaluation ask of a model, over a program that somebody else runs."""

    def __init__(self, path: Path, description: Description, run: Run) -> None:
        super().__init__()
        self.path, self.description, self._run = path, description, run
        self.clip, self.classes = description.clip, description.classes
        self.num_classes = tuple(len(names) for names in description.classes)
        self.several_labels = description.several_labels
        self.head_hidden_size = description.features
        self.eval()

    def forward(self, frames: Tensor) -> Tensor:
        """frames: (B, T, 3, H, W) normalised float -> logits (B, K).

        Raises ValueError where T, H or W are not as trained.
        """
        return self._outputs(frames)[0]

    def clip_features(self, frames: Tensor) -> Tensor:
        """frames as in `forward` -> what the classifier sees, (B, D)."""
        return self._outputs(frames)[1]

    def _outputs(self, frames: Tensor) -> tuple[Tensor, ...]:
        expected = (self.clip.num_frames, 3, self.clip.size, self.clip.size)
        if frames.shape[1:] != expected:
            raise ValueError(f"{self.path} takes clips {expected}, got {tuple(frames.shape[1:])}")
        return tuple(output.to(frames.device) for output in self._run(frames.float()))


class ExportedStream:
    """One step of a causal model: a frame and the state in, logits and the state out.

    Calls as `StreamingXViT` does: each frame (B, 3, H, W) of B streams in step gives logits (B, K).
    """

    def __init__(self, path: Path, description: Description, run: Run) -> None:
        self.path, self.description, self._run = path, description, run
        self.clip, self.classes = description.clip, description.classes
        self.num_classes = tuple(len(names) for names in description.classes)
        self.frames_seen = 0
        self._state: list[Tensor] = []
        self._streams = 0

    def reset(self) -> None:
        """Forget the stream; the next frame is a first one."""
        self.frames_seen, self._state = 0, []

    def __call__(self, frame: Tensor) -> Tensor:
        """frame: (B, 3, H, W) normalised float -> logits (B, K) up to this frame.

        Raises ValueError where the number of streams changes without `reset`.
        """
        if not self._state:
            self._state, self._streams = self._first_state(len(frame)), len(frame)
        if self._streams != len(frame):
            raise ValueError(f"{len(frame)} frames for {self._streams} streams: reset() starts others")
        logits, *self._state = self._run(frame.float(), *self._state)
        self.frames_seen += 1
        return logits

    def _first_state(self, streams: int) -> list[Tensor]:
        shapes = self.description.state
        sized = {name: [streams if n == -1 else n for n in shape] for name, shape in shapes.items()}
        dtypes = {"seen": torch.int64}
        return [torch.zeros(shape, dtype=dtypes.get(name, torch.float32)) for name, shape in sized.items()]


def is_exported(source: str | Path) -> bool:
    """Whether a name is that of an exported file."""
    return Path(source).suffix in SUFFIXES


def load_exported(path: str | Path, device: str | torch.device = "auto") -> ExportedModel:
    """A model for whole clips from a file of `xvit export`.

    Raises WeightsError, and ConfigError where onnxruntime is not installed or cannot use the device.
    """
    path = Path(path)
    description, run = _open(path, str(device))
    if description.state:
        raise WeightsError(
            path, "holds one step of a stream, not a model of whole clips; xvit.exported.load_stream reads it"
        )
    return ExportedModel(path, description, run)


def load_stream(path: str | Path, device: str | torch.device = "auto") -> ExportedStream:
    """A stream from a file of `xvit export --streaming`. Raises as `load_exported`."""
    path = Path(path)
    description, run = _open(path, str(device))
    if not description.state:
        raise WeightsError(path, "takes whole clips; xvit export --streaming writes a stream's step")
    return ExportedStream(path, description, run)


def _open(path: Path, device: str) -> tuple[Description, Run]:
    if not path.is_file():
        raise WeightsError(path, "no such file")
    return _open_onnx(path, device) if path.suffix == ".onnx" else _open_program(path, device)


def _open_onnx(path: Path, device: str) -> tuple[Description, Run]:
    try:
        import onnxruntime
    except ImportError as err:
        raise ConfigError(f"{path}: needs onnxruntime; pip install 'xvit[onnx]'") from err
    chosen = _providers(onnxruntime.get_available_providers(), device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # what it warns of is not the user's to mend
    try:
        session = onnxruntime.InferenceSession(path, options, providers=chosen)
    except Exception as err:  # its errors have no common base
        raise WeightsError(path, f"not an ONNX file that onnxruntime runs: {_first_line(err)}") from err
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        arrays = [np.ascontiguousarray(tensor.cpu().numpy()) for tensor in inputs]
        return tuple(map(torch.from_numpy, session.run(None, dict(zip(names, arrays, strict=True)))))

    found = session.get_modelmeta().custom_metadata_map
    return Description.from_metadata(path, found), run


def _providers(available: list[str], device: str) -> list[str]:
    if device == "cpu" or (device == "auto" and "CUDAExecutionProvider" not in available):
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in available:
        raise ConfigError(
            f"this onnxruntime cannot use {device!r}; pip install onnxruntime-gpu, or say --device cpu"
        )
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def _open_program(path: Path, device: str) -> tuple[Description, Run]:
    content: dict[str, Any] = {DESCRIPTION: ""}
    if not zipfile.is_zipfile(path):
        raise WeightsError(path, "truncated, or not a file of torch.export")
    try:
        program = torch.export.load(path, extra_files=content)
    except Exception as err:  # readers of zip and of its content raise what they like
        raise WeightsError(path, f"not a file of torch.export: {_first_line(err)}") from err
    description = Description.from_metadata(path, json.loads(content[DESCRIPTION] or "{}"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    module = program.module()

    @torch.inference_mode()
    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(module(*(tensor.to(device) for tensor in inputs)))

    return description, run


def _first_line(err: Exception) -> str:
    return str(err).strip().partition("\n")[0]
