"""Multi-view evaluation: a video is decoded once, its views are scored and their scores added up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from xvit.engine.scores import Evaluation, Scored, assemble
from xvit.types import Batch, VideoRecord

if TYPE_CHECKING:
    from accelerate import Accelerator

Combine = Literal["probabilities", "logits"]


class Listed(Protocol):
    """What evaluation needs of a manifest."""

    @property
    def records(self) -> Sequence[VideoRecord]: ...

    @property
    def classes(self) -> tuple[tuple[str, ...], ...]: ...


def evaluate(
    model: nn.Module,
    loader: Iterable[Batch],
    *,
    manifest: Listed | None = None,
    combine: Combine = "probabilities",
    clips_per_pass: int | None = None,
    view_order: Sequence[int] | None = None,
    stop_margin: float | None = None,
    device: torch.device | str | None = None,
    accelerator: Accelerator | None = None,
    earlier: Sequence[Scored] = (),
    on_scored: Callable[[Scored], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score every video that `loader` yields.

    manifest:       the list that `Batch.index` points into; None is `loader.dataset.manifest`.
    model:          (n, T, C, H, W) -> logits (n, K); K is the sum over tasks of `manifest.classes`.
    combine:        "probabilities" averages the views' softmaxes (sigmoids where videos have several labels),
                    "logits" adds up raw logits.
    clips_per_pass: most views in one forward pass; None passes a whole batch, B·V, at once.
    view_order:     the order in which a video's views are looked at; None is the tensor's.
    stop_margin:    leave out a video's remaining views once its leader is this far ahead of the second, in
                    mean probability or mean logit over the views so far; None looks at all of them.
    device:         where the model is, unless `accelerator` says; by default its parameters' device.
    earlier:        results of videos that are not in the loader any more (see `Journal`).
    on_scored:      is handed each batch's results; on_progress: the number of videos just finished.

    With several processes each scores its share, every process returns the whole, and each video counts
    once even where a sampler padded its last batch. Videos that could not be read and listed videos that
    never arrived are in `missing`, by name. The model is left in the mode it came in. Raises ValueError
    where the model's classes are not the data's.
    """
    if accelerator is not None:
        model, device = accelerator.unwrap_model(model), accelerator.device
    elif device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    manifest = manifest or loader.dataset.manifest  # type: ignore[attr-defined]
    sizes = [len(names) for names in manifest.classes]
    autocast = accelerator.autocast if accelerator is not None else contextlib.nullcontext

    several = False  # labels a video

    def view_scores(clips: Tensor) -> Tensor:
        """(n, T, C, H, W) -> what is added up over views: (n, K)."""
        with autocast():
            logits = torch.cat([model(chunk) for chunk in clips.split(clips_per_pass or len(clips))]).float()
        if logits.shape[1] != sum(sizes):
            raise ValueError(f"the model scores {logits.shape[1]} classes, the data has {sum(sizes)}")
        if combine == "logits":
            return logits
        return logits.sigmoid() if several else torch.cat([x.softmax(1) for x in logits.split(sizes, 1)], 1)

    parts, failures = list(earlier), dict[int, str]()
    start, was_training = time.perf_counter(), model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in loader:
                failures.update(batch.failures)
                if len(batch.index):
                    batch = batch.to(device)
                    several = batch.labels.shape[1] > len(sizes)
                    order = range(batch.frames.shape[1]) if view_order is None else view_order
                    means, used = _running_means(view_scores, batch, order, sizes, stop_margin)
                    parts.append(_scored(batch, means, used, sizes, combine))
                    if on_scored:
                        on_scored(parts[-1])
                if on_progress:
                    on_progress(len(batch.index) + len(batch.failures))
    finally:
        model.train(was_training)
    if accelerator is not None and accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        gathered = gather_object([(parts, failures)])
        parts = [part for theirs, _ in gathered for part in theirs]
        failures = {row: reason for _, theirs in gathered for row, reason in theirs.items()}
    seconds = time.perf_counter() - start
    return assemble(parts, failures, manifest.records, manifest.classes, combine=combine, seconds=seconds)


def view_order(num_crops: int, num_clips: int) -> list[int]:
    """View numbers, the most telling first: middle crop before sides, middle clip before ends."""

    def off_centre(view: int) -> tuple[float, float, int]:
        clip, crop = divmod(view, num_crops)
        return abs(crop - (num_crops - 1) / 2), abs(clip - (num_clips - 1) / 2), view

    return sorted(range(num_crops * num_clips), key=off_centre)


def _running_means(
    view_scores: Callable[[Tensor], Tensor],
    batch: Batch,
    order: Sequence[int],
    sizes: Sequence[int],
    stop_margin: float | None,
) -> tuple[Tensor, Tensor]:
    """The mean score of each video's first 1, 2, … V views, (B, V, K), and how many were computed, (B,).

    Where a video stopped early, its last mean stands for the rest.
    """
    frames, videos, views = batch.frames, len(batch.index), len(order)
    if stop_margin is None:
        flat = frames.flatten(0, 1)
        if batch.same is None:
            each = view_scores(flat)
        else:
            first = batch.same + torch.arange(videos)[:, None] * batch.same.shape[1]
            distinct, place = first.flatten().unique(return_inverse=True)
            each = view_scores(flat if len(distinct) == len(flat) else flat[distinct])[place]
        each = each.unflatten(0, frames.shape[:2])[:, list(order)]
        counts = torch.arange(1, views + 1, device=each.device)
        return each.cumsum(1) / counts[:, None], torch.full((videos,), views)
    means: list[Tensor] = []
    used = torch.zeros(videos, dtype=torch.int64, device=frames.device)
    undecided = torch.ones(videos, dtype=torch.bool, device=frames.device)
    for count, view in enumerate(order):
        if undecided.any():
            new = view_scores(frames[undecided, view])
            mean = means[-1].clone() if means else new.new_zeros(videos, new.shape[1])
            mean[undecided] += (new - mean[undecided]) / (count + 1)
            used += undecided
            undecided = undecided & (_lead(mean, sizes) < stop_margin)
        means.append(mean)
    return torch.stack(means, 1), used


def _lead(scores: Tensor, sizes: Sequence[int]) -> Tensor:
    """How far the leader is ahead of the second class, over the last axis; the least of the tasks."""
    leads = []
    for task in scores.split(list(sizes), -1):
        first_two = task.topk(min(2, task.shape[-1]), dim=-1).values
        leads.append(first_two[..., 0] - first_two[..., -1] if task.shape[-1] > 1 else first_two[..., 0])
    return torch.stack(leads).amin(0)


def _scored(batch: Batch, means: Tensor, used: Tensor, sizes: Sequence[int], combine: Combine) -> Scored:
    total = means[:, -1] * means.shape[1] if combine == "logits" else means[:, -1]
    leaders = torch.stack([task.argmax(-1) for task in means.split(list(sizes), -1)], -1)
    return Scored(
        rows=batch.index.cpu().numpy(),
        scores=total.cpu().numpy(),
        labels=batch.labels.cpu().numpy(),
        leaders=leaders.cpu().numpy().astype(np.int32),
        margins=_lead(means, sizes).cpu().numpy(),
        views_used=used.cpu().numpy(),
    )
