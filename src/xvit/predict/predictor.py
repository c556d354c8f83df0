"""A model, its classes and its preprocessing behind one call."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from xvit.config import parse_views
from xvit.data import Manifest, VideoDataset
from xvit.data.sampling import view_frames
from xvit.data.transforms import ViewTransform
from xvit.errors import ConfigError, VideoReadError, WeightsError
from xvit.exported import ExportedModel, is_exported, load_exported
from xvit.types import VideoInfo, VideoRecord

if TYPE_CHECKING:
    from xvit.models import XViT

Source = str | os.PathLike[str] | np.ndarray | Tensor | IO[bytes]
Entry = dict[str, str | float]
S = TypeVar("S", bound=Source)

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
DECODERS = 2  # threads that read videos while the model runs


class Predictor:
    """Scores videos with a trained model. Calls share nothing but the weights, so threads may share it.

    >>> clf = Predictor.load("runs/ut")
    >>> clf("a.mp4", top_k=2)
    [{'label': 'kicking', 'score': 0.81}, {'label': 'pushing', 'score': 0.12}]

    A video is a path (a file, `packed.h5::key`, a folder of frames), an open binary file, an array
    (T, H, W, C) uint8 or a tensor (T, C, H, W) uint8, RGB.
    """

    def __init__(
        self, model: XViT | ExportedModel, device: str | torch.device = "auto", precision: str = "fp32"
    ) -> None:
        if precision != "fp32" and precision not in _DTYPES:
            raise ConfigError(f"precision must be fp32, {' or '.join(_DTYPES)}, got {precision!r}")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if isinstance(model, ExportedModel) and precision != "fp32":
            raise ConfigError(f"precision {precision}: an exported model has that of its file; leave it out")
        self.device = torch.device(device)
        self.precision = precision
        self.model = model.to(self.device).eval()
        # NOTE(parity): the released code adds up raw logits over views.
        self._mean_of_logits = model.clip.clip_position == "released"

    @property
    def network(self) -> XViT:
        """The trained model, for what needs more than scores. Raises ConfigError for an exported file."""
        if isinstance(self.model, ExportedModel):
            raise ConfigError(
                f"{self.model.path}: an exported file gives scores and clip features only; "
                "this needs the model it was made from"
            )
        return self.model

    @classmethod
    def load(
        cls, source: str | Path, device: str | torch.device = "auto", precision: str = "fp32"
    ) -> Predictor:
        """From a run folder, a weight file, an exported file, a published name or a hub `owner/name`.

        Raises WeightsError.
        """
        if is_exported(source):
            return cls(
                load_exported(source, device), "cpu", precision
            )  # frames go to its device by themselves
        # An exported model needs none of the model's code, nor the time to import it.
        from xvit.models import load_model
        from xvit.models.hub import from_pretrained
        from xvit.models.published import FILES

        name = str(source)
        here = Path(source).exists() or name in FILES or Path(source).suffix in (".pth", ".safetensors")
        if not here and name.count("/") == 1 and name[0] not in "/.~":
            return cls(from_pretrained(name), device, precision)
        if not here:
            raise WeightsError(
                source, "no such file or folder, nor a published name (xvit models lists them)"
            )
        return cls(load_model(source), device, precision)

    @overload
    def __call__(
        self, video: list[Source] | tuple[Source, ...], *, top_k: int = 5, views: str = "1x1"
    ) -> list[list[Entry]]: ...
    @overload
    def __call__(self, video: Source, *, top_k: int = 5, views: str = "1x1") -> list[Entry]: ...
    def __call__(self, video: Any, *, top_k: int = 5, views: str = "1x1") -> Any:
        """The `top_k` classes of a video, best first, as {"label", "score"}; of a list of videos a list.

        `views` is crops×clips; scores are the mean softmax over views, or the mean sigmoid of a model
        for videos of several labels. A model of several tasks gives
        the best of each task, with its number as "task". Raises VideoReadError; ValueError for an array of
        another kind.
        """
        if not isinstance(video, list | tuple):
            return self.entries(self.scores(video, views=views), top_k)
        found = []
        for _, scores in self.stream(video, views=views):
            if isinstance(scores, VideoReadError):
                raise scores
            found.append(self.entries(scores, top_k))
        return found

    def entries(self, scores: Tensor, top_k: int) -> list[Entry]:
        """What `scores` gave, (K,), as the best classes."""
        found: list[Entry] = []
        names = self.model.classes
        for task, part in enumerate(scores.split(self.model.num_classes)):
            best = part.topk(min(top_k, len(part)))
            for i, score in zip(best.indices.tolist(), best.values.tolist(), strict=True):
                found.append({"label": names[task][i], "score": score})
                if len(names) > 1:
                    found[-1]["task"] = task
        return found

    def scores(self, video: Source, *, views: str = "1x1") -> Tensor:
        """Class probabilities of a video, (K,) float32 on the CPU; several tasks one after the other."""
        return self.score_clips(self.read(video, views))

    def features(self, video: Source, *, views: str = "1x1") -> Tensor:
        """What the classifier sees of a video, (D,) float32 on the CPU: the mean over its views."""
        return self.clip_features(self.read(video, views))

    def stream(
        self, videos: Iterable[S], *, views: str = "1x1", features: bool = False
    ) -> Iterator[tuple[S, Tensor | VideoReadError]]:
        """(video, its scores or features, or why it cannot be read), in order; reads ahead of the model.

        At most 2·DECODERS videos are in memory.
        """
        parse_views(views)
        run = self.clip_features if features else self.score_clips
        ahead: deque[tuple[S, Future[Tensor]]] = deque()
        with ThreadPoolExecutor(DECODERS, "xvit-decode") as pool:
            try:
                for video in videos:
                    ahead.append((video, pool.submit(self.read, video, views)))
                    if len(ahead) == 2 * DECODERS:
                        yield self._finish(run, *ahead.popleft())
                while ahead:
                    yield self._finish(run, *ahead.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _finish(self, run: Any, video: S, clips: Future[Tensor]) -> tuple[S, Tensor | VideoReadError]:
        try:
            return video, run(clips.result())
        except VideoReadError as err:
            return video, err

    def score_clips(self, clips: Tensor) -> Tensor:
        """The views of one video, (V, T, C, H, W) -> (K,) float32 on the CPU."""
        return self.score_batch([clips])[0]

    @torch.inference_mode()
    def score_batch(self, videos: Sequence[Tensor]) -> list[Tensor]:
        """`score_clips` of several videos, in one pass of the model."""
        with self.autocast():
            logits = self.model(torch.cat(list(videos)).to(self.device))
        return [self.probabilities(part) for part in logits.split([len(clips) for clips in videos])]

    @torch.inference_mode()
    def score_features(self, features: Tensor) -> Tensor:
        """Frame features of one clip (1, T, D) -> (K,) float32 on the CPU."""
        with self.autocast():
            logits = self.network.forward_head(features)
        return self.probabilities(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """The views' logits (V, K) -> (K,) float32 on the CPU, each task by itself.

        Where a video may have several labels, each class by itself.
        """
        logits = logits.float()
        if self._mean_of_logits:
            logits = logits.mean(0, keepdim=True)
        if self.model.several_labels:
            return logits.sigmoid().mean(0).cpu()
        parts = logits.split(self.model.num_classes, dim=-1)
        return torch.cat([part.softmax(dim=-1).mean(0) for part in parts]).cpu()

    @torch.inference_mode()
    def clip_features(self, clips: Tensor) -> Tensor:
        """The views of one video, (V, T, C, H, W) -> (D,) float32 on the CPU."""
        with self.autocast():
            found = self.model.clip_features(clips.to(self.device))
        return found.float().mean(0).cpu()

    @torch.inference_mode()
    def frame_features(self, clip: Tensor) -> Tensor:
        """One clip (T, C, H, W) -> (1, T, D), or a feature a tubelet, on the model's device."""
        with self.autocast():
            return self.network.forward_features(clip[None].to(self.device))

    def autocast(self) -> AbstractContextManager[object]:
        """The precision that was asked for."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, _DTYPES[self.precision])

    def read(self, video: Source, views: str = "1x1") -> Tensor:
        """The views of a video as the model takes them: (V, T, C, H, W) float32. Raises VideoReadError."""
        if isinstance(video, np.ndarray | Tensor):
            return self._cut(_as_frames(video), views)
        if isinstance(video, str | os.PathLike):
            return self._read_path(os.fspath(video), views)
        return self._read_file(video, views)

    def _read_path(self, path: str, views: str) -> Tensor:
        manifest = Manifest(records=(VideoRecord(path, path),), classes=self.model.classes)
        return VideoDataset(manifest, self.model.clip, views=parse_views(views))[0].frames[0]

    def _read_file(self, file: IO[bytes], views: str) -> Tensor:
        """Through a temporary file, since decoding jumps back and forth and not every file can."""
        name = getattr(file, "name", None)
        with tempfile.NamedTemporaryFile(prefix="xvit-") as copy:
            shutil.copyfileobj(file, copy)
            copy.flush()
            try:
                return self._read_path(copy.name, views)
            except VideoReadError as err:
                raise VideoReadError(name if isinstance(name, str) else "<file>", err.reason) from err

    def _cut(self, frames: Tensor, views: str) -> Tensor:
        clip, (crops, clips) = self.model.clip, parse_views(views)
        info = VideoInfo(len(frames), None, *frames.shape[-2:])
        numbers, rows = np.unique(view_frames(info, clip, clips), return_inverse=True)
        parcel = ViewTransform(clip, crops)(frames[numbers], rows.reshape(clips, clip.num_frames))
        out = np.empty((clips * crops, clip.num_frames, 3, clip.size, clip.size), np.float32)
        parcel.unpack(clip, out)
        return torch.from_numpy(out)


def _as_frames(video: np.ndarray | Tensor) -> Tensor:
    """uint8 (T, C, H, W). Raises ValueError."""
    is_array = isinstance(video, np.ndarray)
    frames = torch.from_numpy(np.ascontiguousarray(video)) if isinstance(video, np.ndarray) else video.cpu()
    channels = 3 if is_array else 1
    if frames.dtype != torch.uint8 or frames.ndim != 4 or not len(frames) or frames.shape[channels] != 3:
        expected = "an array is (T, H, W, 3)" if is_array else "a tensor is (T, 3, H, W)"
        raise ValueError(f"{expected} uint8, RGB, got {tuple(video.shape)} {video.dtype}")
    return frames.permute(0, 3, 1, 2) if is_array else frames
