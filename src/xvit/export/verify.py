"""Does the file say what the model says?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xvit.config import DataConfig
from xvit.data import VideoDataset, load_manifest, make_loader
from xvit.data.synth import render_scene
from xvit.data.transforms import ViewTransform
from xvit.errors import XViTError
from xvit.exported import ExportedModel, ExportedStream
from xvit.models import XViT
from xvit.models.streaming import StreamingXViT

TOLERANCE = 1e-4  # of the largest logit, for files that compute in float32
LEAST_AGREEMENT = 0.98  # of top-1 answers, for int8


@dataclass
class Agreement:
    """Over clips that the model and its exported file both scored.

    difference: the largest difference of logits over the largest logit. same: clips with the same best class
    in every task. right: clips that (the model, the file) name right, where labels are known; of several
    labels of a clip any will do, as in `xvit eval`.
    """

    clips: int = 0
    difference: float = 0.0
    same: int = 0
    labelled: int = 0
    right: tuple[int, int] = (0, 0)

    def add(self, expected: Tensor, got: Tensor, sizes: Sequence[int], labels: Tensor | None = None) -> None:
        """Logits (B, K) of both; labels (B, L), -1 for none, or nothing."""
        scale = float(expected.abs().max()) or 1.0
        self.difference = max(self.difference, float((got - expected).abs().max()) / scale)
        best = [
            torch.stack([part.argmax(dim=1) for part in logits.split(list(sizes), dim=1)], dim=1)
            for logits in (expected, got)
        ]
        self.clips += len(expected)
        self.same += int((best[0] == best[1]).all(dim=1).sum())
        if labels is not None and (len(sizes) == 1 or labels.shape[1] == len(sizes)):
            self.labelled += len(labels)
            named = torch.any if len(sizes) == 1 else torch.all
            right = [int(named(choice == labels, dim=1).sum()) for choice in best]
            self.right = (self.right[0] + right[0], self.right[1] + right[1])

    def lines(self, kind: str) -> list[str]:
        """For people to read."""
        found = [
            f"{self.clips} clips: top-1 agrees on {100 * self.same / self.clips:.1f} %, "
            f"largest difference {self.difference:.1e} of the largest logit"
        ]
        if self.labelled:
            model, file = (100 * right / self.labelled for right in self.right)
            found.append(
                f"{self.labelled} labelled: top-1 {model:.2f} % by the model, {file:.2f} % by {kind}"
            )
        return found

    def check(self, path: Path, kind: str) -> None:
        """Raises XViTError where the file is not the model."""
        if kind == "onnx-int8":
            if self.same < LEAST_AGREEMENT * self.clips:
                raise XViTError(
                    f"{path}: int8 answers as the model on {self.same} of {self.clips} clips only, less than "
                    f"{LEAST_AGREEMENT:.0%}; use --to onnx, or --no-verify to keep it all the same"
                )
        elif not self.difference <= TOLERANCE:
            raise XViTError(f"{path}: differs from the model by {self.difference:.1e} of its largest logit")


@torch.inference_mode()
def verify_export(
    model: XViT, exported: ExportedModel, batches: Iterable[tuple[Tensor, Tensor | None]] | None = None
) -> Agreement:
    """Both over batches of (clips (B, T, 3, H, W), labels (B, L)); default: rendered clips."""
    found = Agreement()
    for clips, labels in rendered_clips(model) if batches is None else batches:
        found.add(model(clips), exported(clips), model.num_classes, labels)
    return found


@torch.inference_mode()
def verify_stream(model: XViT, exported: ExportedStream) -> Agreement:
    """Both over rendered frames, two streams in step, twice as long as the head's window."""
    found, stream = Agreement(), StreamingXViT(model)
    clips = next(clips for clips, _ in rendered_clips(model) if len(clips) == 2)
    for frame in torch.cat([clips, clips.flip(0)], dim=1).unbind(1):
        found.add(stream(frame), exported(frame), model.num_classes)
    exported.reset()
    return found


def labelled_clips(model: XViT, root: str, batch_size: int = 8) -> Iterator[tuple[Tensor, Tensor]]:
    """The val videos of a dataset, one clip each. Raises DatasetError or VideoReadError."""
    manifest = load_manifest(DataConfig(root=root), "val", classes=model.classes)
    loader = make_loader(
        VideoDataset(manifest, model.clip), batch_size=batch_size, shuffle=False, num_workers=0
    )
    for batch in loader:
        yield batch.frames[:, 0], batch.labels


def rendered_clips(model: XViT, count: int = 12) -> Iterator[tuple[Tensor, None]]:
    """Clips of the motion set's scenes, drawn at the model's frames and size; batches of 1, 2 and more."""
    clip = model.clip
    cut, rng = ViewTransform(clip), np.random.default_rng(0)
    clips = np.empty((count, clip.num_frames, 3, clip.size, clip.size), np.float32)
    for i in range(count):
        scene = render_scene(i % 3, clip.size, clip.num_frames, rng)
        frames = torch.from_numpy(scene).permute(0, 3, 1, 2)
        cut(frames, np.arange(clip.num_frames)[None]).unpack(clip, clips[i : i + 1])
    for part in torch.from_numpy(clips).split([1, 2, count - 3]):
        yield part, None
