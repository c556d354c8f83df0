"""What a request is answered with: blocking functions for the app's threads, without a word of HTTP."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from xvit.config import ClipConfig, parse_views
from xvit.data import FrameSource
from xvit.data.sampling import view_frames
from xvit.data.transforms import ViewTransform
from xvit.exported import ExportedModel
from xvit.predict import Predictor
from xvit.predict.segments import as_srt
from xvit.predict.timeline import Timeline, score_film
from xvit.web.batching import Batcher
from xvit.web.decoders import AT_ONCE, Decoders, IsolatedVideo
from xvit.web.limits import Deadline, Limits, Refused
from xvit.web.metrics import Metrics
from xvit.web.uploads import Upload

CURVES = 5  # classes with a curve
POINTS = 500  # of a curve


class Service:
    """A predictor behind limits; `close` finishes what is under way."""

    def __init__(self, predictor: Predictor, limits: Limits, metrics: Metrics) -> None:
        self.predictor, self.limits = predictor, limits
        self.classes = predictor.model.classes
        self.several_labels = predictor.model.several_labels
        self.explains = not isinstance(predictor.model, ExportedModel)
        self.decoders = Decoders(limits, metrics.decoders_lost.inc)
        self.batcher = Batcher(predictor.score_batch, on_batch=metrics.batches.observe)
        self._slots = threading.BoundedSemaphore(limits.workers)
        self._explaining = threading.Lock()  # gradients take the memory of many clips

    def close(self) -> None:
        """Score what waits, then let the processes go."""
        self.batcher.close()
        self.decoders.close()

    def predict(self, upload: Upload, deadline: Deadline, top_k: int, views: str) -> dict[str, Any]:
        """The best classes. Raises Refused, VideoReadError, ConfigError."""
        crops, clips = parse_views(views)
        if crops * clips > self.limits.max_views:
            most = self.limits.max_views
            raise Refused(422, f"views={views} are more than {most} crops × clips", "max_views")
        with self._slot(deadline), self._open(upload, deadline) as video:
            frames = read_views(video, self.predictor.model.clip, crops, clips)
            video.close()  # its process need not wait for the model
            found = self.batcher.submit(frames)
            try:
                scores = found.result(deadline.left)
            except FutureTimeout:
                found.cancel()
                raise deadline.refusal() from None
        predictions = self.predictor.entries(scores, top_k)
        return {**about(upload, video), "views": views, "predictions": predictions}

    def timeline(
        self,
        upload: Upload,
        deadline: Deadline,
        *,
        window: float | None,
        hop: int | None,
        smooth: int,
        min_score: float,
    ) -> tuple[Timeline, dict[str, Any]]:
        """What happens when, and the same for JSON. Raises as `predict`."""

        def in_time(read: int, total: int) -> None:
            if deadline.over:
                raise deadline.refusal()

        with self._slot(deadline), self._open(upload, deadline) as video:
            found = score_film(self.predictor, video, window=window, hop=hop, on_progress=in_time)
        segments = found.segments(smooth, min_score)
        return found, {
            **about(upload, video),
            "segments": [asdict(segment) for segment in segments],
            "curves": curves(found, smooth),
            "srt": as_srt(segments),
        }

    def explain(self, upload: Upload, deadline: Deadline, label: str | None, method: str) -> dict[str, Any]:
        """Where in space and time a decision came from. Raises as `predict`."""
        if not self.explains:
            raise Refused(422, "this service runs an exported model, which gives scores and no explanations")
        from xvit.visualize import explain_clip

        clip = self.predictor.model.clip
        with self._slot(deadline), self._open(upload, deadline) as video:
            frames = read_views(video, clip, 1, 1)[0]
            numbers = view_frames(video.info, clip, 1)[0]
            video.close()
            if not self._explaining.acquire(timeout=deadline.left):
                raise deadline.refusal()
            try:
                found = explain_clip(self.predictor, frames, method, label)
            finally:
                self._explaining.release()
        fps = video.info.fps
        return {
            **about(upload, video),
            "label": found.label,
            "score": found.score,
            "method": method,
            "frames": [
                {
                    "seconds": None if fps is None else (int(number) + 0.5) / fps,
                    "share": float(share),
                    "picture": picture_uri(frame),
                    "map": map_uri(heat),
                }
                for number, share, frame, heat in zip(
                    numbers, found.shares, found.frames, found.maps, strict=True
                )
            ],
        }

    def _open(self, upload: Upload, deadline: Deadline) -> IsolatedVideo:
        return self.decoders.open(upload.file, upload.name, deadline)

    @contextmanager
    def _slot(self, deadline: Deadline) -> Iterator[None]:
        """One of the places at which videos are decoded and scored; what lies in memory is theirs."""
        if not self._slots.acquire(timeout=deadline.left):
            raise Refused(429, "too many requests are waiting", "workers", retry_after=5)
        try:
            yield
        finally:
            self._slots.release()


def read_views(video: FrameSource, clip: ClipConfig, crops: int, clips: int) -> Tensor:
    """As `Predictor.read`, (V, T, C, H, W) float32, holding no more than a few whole frames at a time."""
    numbers, rows = np.unique(view_frames(video.info, clip, clips), return_inverse=True)
    cut, rows = ViewTransform(clip, crops), rows.reshape(clips, clip.num_frames)
    parts = [
        cut(video.read(numbers[first : first + AT_ONCE].tolist()), rows)
        for first in range(0, len(numbers), AT_ONCE)
    ]
    out = np.empty((clips * crops, clip.num_frames, 3, clip.size, clip.size), np.float32)
    replace(parts[0], frames=torch.cat([part.frames for part in parts])).unpack(clip, out)
    return torch.from_numpy(out)


def about(upload: Upload, video: IsolatedVideo) -> dict[str, Any]:
    """What was sent."""
    info = video.info
    return {
        "video": upload.name,
        "seconds": None if info.fps is None else info.num_frames / info.fps,
        **asdict(info),
    }


def curves(timeline: Timeline, smooth: int) -> dict[str, Any]:
    """The smoothed scores of the leading classes over time; long films are thinned out to POINTS."""
    scores = timeline.smoothed(smooth)
    leaders = np.argsort(-scores.max(axis=0), kind="stable")[:CURVES]
    rows = np.unique(np.linspace(0, len(scores) - 1, min(len(scores), POINTS)).round().astype(int))
    return {
        "seconds": timeline.centres[rows].round(3).tolist(),
        "classes": [
            {"label": timeline.classes[k], "scores": scores[rows, k].round(4).tolist()} for k in leaders
        ],
    }


def picture_uri(frame: NDArray[np.uint8]) -> str:
    """A frame (C, H, W) as a JPEG."""
    return _uri(Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))), "jpeg", quality=88)


def map_uri(heat: NDArray[np.float32]) -> str:
    """A map (H, W), 0 … 1, as a PNG whose colour covers what matters and lets the rest through."""
    strength = np.clip(heat, 0, 1)
    pixels = np.empty((*heat.shape, 4), np.uint8)
    pixels[..., 0] = 255
    pixels[..., 1] = 220 * (1 - strength)
    pixels[..., 2] = 30
    pixels[..., 3] = 225 * np.sqrt(strength)
    return _uri(Image.fromarray(pixels), "png")


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
