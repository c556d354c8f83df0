"""Multi-view evaluation: a video is decoded once, its views are scored and their scores added up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

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

    @property
    def digest(self) -> str: ...


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
    combine:        "probabilities" averages the views' softmaxes (sigmoids where videos have several labels
                    or the model is for such), "logits" adds up raw logits.
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
    score = _Scoring(model, autocast, sizes, combine, clips_per_pass, view_order, stop_margin)
    parts, failures = list(earlier), dict[int, str]()
    start = time.perf_counter()
    with _in_eval_mode(model), torch.inference_mode():
        for batch in loader:
            failures.update(batch.failures)
            if len(batch.index):
                parts.append(score(batch.to(device)))
                if on_scored:
                    on_scored(parts[-1])
            if on_progress:
                on_progress(len(batch.index) + len(batch.failures))
    parts, failures = _of_all_processes(parts, failures, accelerator)
    known: dict[str, Any] = {
        "combine": combine,
        "seconds": time.perf_counter() - start,
        "list_sha256": manifest.digest,
    }
    return assemble(parts, failures, manifest.records, manifest.classes, **known)


def view_order(num_crops: int, num_clips: int) -> list[int]:
    """View numbers, the most telling first: middle crop before sides, middle clip before ends."""

    def off_centre(view: int) -> tuple[float, float, int]:
        clip, crop = divmod(view, num_crops)
        return abs(crop - (num_crops - 1) / 2), abs(clip - (num_clips - 1) / 2), view

    return sorted(range(num_crops * num_clips), key=off_centre)


@dataclass(frozen=True)
class _Scoring:
    """A model and how its views become a video's scores (see `evaluate`); sizes: classes of each task."""

    model: nn.Module
    autocast: Callable[[], contextlib.AbstractContextManager[None]]
    sizes: list[int]
    combine: Combine
    clips_per_pass: int | None
    view_order: Sequence[int] | None
    stop_margin: float | None

    def __call__(self, batch: Batch) -> Scored:
        """Score a batch of at least one video, on the model's device."""
        order = list(range(batch.frames.shape[1]) if self.view_order is None else self.view_order)
        means, used = (self._all if self.stop_margin is None else self._until_clear)(batch, order)
        total = means[:, -1] * means.shape[1] if self.combine == "logits" else means[:, -1]
        leaders = torch.stack([task.argmax(-1) for task in means.split(self.sizes, -1)], -1)
        return Scored(
            rows=batch.index.cpu().numpy(),
            scores=total.cpu().numpy(),
            labels=batch.labels.cpu().numpy(),
            leaders=leaders.cpu().numpy().astype(np.int32),
            margins=_lead(means, self.sizes).cpu().numpy(),
            views_used=used.cpu().numpy(),
        )

    def _all(self, batch: Batch, order: list[int]) -> tuple[Tensor, Tensor]:
        """The mean score of each video's first 1, 2, … V views, (B, V, K), and V for each, (B,).

        Views of the same pixels are computed once.
        """
        flat, videos = batch.frames.flatten(0, 1), len(batch.index)
        if batch.same is None:
            each = self._views(flat, batch)
        else:
            first = batch.same + torch.arange(videos)[:, None] * batch.same.shape[1]
            distinct, place = first.flatten().unique(return_inverse=True)
            each = self._views(flat if len(distinct) == len(flat) else flat[distinct], batch)[place]
        each = each.unflatten(0, batch.frames.shape[:2])[:, order]
        counts = torch.arange(1, len(order) + 1, device=each.device)
        return each.cumsum(1) / counts[:, None], torch.full((videos,), len(order))

    def _until_clear(self, batch: Batch, order: list[int]) -> tuple[Tensor, Tensor]:
        """The same, and how many views each video took until its leader was `stop_margin` ahead, (B,).

        Where a video stopped early, its last mean stands for the rest.
        """
        assert self.stop_margin is not None
        frames, videos = batch.frames, len(batch.index)
        means: list[Tensor] = []
        used = torch.zeros(videos, dtype=torch.int64, device=frames.device)
        undecided = torch.ones(videos, dtype=torch.bool, device=frames.device)
        for count, view in enumerate(order, start=1):
            if undecided.any():
                new = self._views(frames[undecided, view], batch)
                mean = means[-1].clone() if means else new.new_zeros(videos, new.shape[1])
                mean[undecided] += (new - mean[undecided]) / count
                used += undecided
                undecided = undecided & (_lead(mean, self.sizes) < self.stop_margin)
            means.append(mean)
        return torch.stack(means, 1), used

    def _views(self, clips: Tensor, batch: Batch) -> Tensor:
        """Views (n, T, C, H, W) of videos of this batch -> what is added up over a video's views, (n, K)."""
        chunks = clips.split(self.clips_per_pass or len(clips))
        with self.autocast():
            logits = torch.cat([self.model(chunk) for chunk in chunks]).float()
        if logits.shape[1] != sum(self.sizes):
            raise ValueError(f"the model scores {logits.shape[1]} classes, the data has {sum(self.sizes)}")
        if self.combine == "logits":
            return logits
        # A list without labels does not say that videos have several; the model does.
        if batch.labels.shape[1] > len(self.sizes) or getattr(self.model, "several_labels", False):
            return logits.sigmoid()
        return torch.cat([task.softmax(1) for task in logits.split(self.sizes, 1)], 1)


def _lead(scores: Tensor, sizes: list[int]) -> Tensor:
    """How far the leader is ahead of the second class, over the last axis; the least of the tasks."""
    leads = []
    for task in scores.split(sizes, -1):
        first_two = task.topk(min(2, task.shape[-1]), dim=-1).values
        leads.append(first_two[..., 0] - first_two[..., -1] if task.shape[-1] > 1 else first_two[..., 0])
    return torch.stack(leads).amin(0)


@contextlib.contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _of_all_processes(
    parts: list[Scored], failures: dict[int, str], accelerator: Accelerator | None
) -> tuple[list[Scored], dict[int, str]]:
    """What every process found, in each of them."""
    if accelerator is None or accelerator.num_processes == 1:
        return parts, failures
    from accelerate.utils import gather_object

    gathered = gather_object([(parts, failures)])
    together = [part for theirs, _ in gathered for part in theirs]
    return together, {row: reason for _, theirs in gathered for row, reason in theirs.items()}
