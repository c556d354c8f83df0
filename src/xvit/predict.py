"""What happens in this video: a model, its classes and its preprocessing behind one call."""

from __future__ import annotations

from pathlib import Path

import torch

from xvit.config import parse_views
from xvit.data import Manifest, VideoDataset
from xvit.models import XViT, load_model
from xvit.types import VideoRecord


class Predictor:
    """Scores videos with a trained model.

    >>> clf = Predictor.load("runs/ut")
    >>> clf("a.mp4", top_k=2)
    [{'label': 'kicking', 'score': 0.81}, {'label': 'pushing', 'score': 0.12}]
    """

    def __init__(self, model: XViT, device: str | torch.device = "cpu") -> None:
        self.model = model.to(device).eval()
        self.device = torch.device(device)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Predictor:
        """From a run folder or a weight file. Raises WeightsError."""
        return cls(load_model(path), device)

    def __call__(
        self, path: str | Path, *, top_k: int = 5, views: str = "1x1"
    ) -> list[dict[str, str | float]]:
        """The `top_k` classes of a video file, best first, as {"label", "score"}.

        `views` is crops×clips; scores are the mean softmax over views. Raises VideoReadError.
        """
        scores = self.scores(path, views=views)
        best = scores.topk(min(top_k, len(scores)))
        names = self.model.classes[0]
        return [
            {"label": names[i], "score": score}
            for i, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    @torch.inference_mode()
    def scores(self, path: str | Path, *, views: str = "1x1") -> torch.Tensor:
        """Class probabilities of a video, (K,) float32 on the CPU: the mean softmax over its views."""
        record = VideoRecord(str(path), str(path))
        dataset = VideoDataset(
            Manifest(records=(record,), classes=self.model.classes), self.model.clip, views=parse_views(views)
        )
        frames = dataset[0].frames[0]  # (V, T, C, H, W)
        return self.model(frames.to(self.device)).float().softmax(dim=-1).mean(0).cpu()
