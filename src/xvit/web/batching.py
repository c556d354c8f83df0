"""One pass of the model for the requests of several clients."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from torch import Tensor

Job = tuple[Tensor, Future[Tensor]]


class Batcher:
    """Scores what is waiting, together, as soon as the model is free: an idle service adds no delay.

    score:     the views of several videos, each (V, T, C, H, W) -> the scores of each, (K,).
    max_views: of one pass; a video of more passes alone.
    on_batch:  told the number of videos of every pass.
    """

    def __init__(
        self,
        score: Callable[[Sequence[Tensor]], list[Tensor]],
        *,
        max_views: int = 16,
        on_batch: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._score, self._max_views, self._on_batch = score, max_views, on_batch
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._held: Job | None = None  # did not fit into the last batch, or is of another shape
        self._thread = threading.Thread(target=self._run, name="xvit-model", daemon=True)
        self._thread.start()

    def submit(self, clips: Tensor) -> Future[Tensor]:
        """The views of one video, (V, T, C, H, W); the result is (K,). Cancelled jobs are not scored."""
        found: Future[Tensor] = Future()
        self._jobs.put((clips, found))
        return found

    def close(self) -> None:
        """Returns when everything that was submitted is scored."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._held or self._jobs.get()) is not None:
            self._held = None
            batch = [job for job in self._gather(first) if job[1].set_running_or_notify_cancel()]
            if batch:
                self._pass(batch)

    def _gather(self, first: Job) -> list[Job]:
        batch, views = [first], len(first[0])
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return batch
            if job is None:  # the last word: put it back behind what is here
                self._jobs.put(None)
                return batch
            views += len(job[0])
            if views > self._max_views or job[0].shape[1:] != first[0].shape[1:]:
                self._held = job
                return batch
            batch.append(job)

    def _pass(self, batch: list[Job]) -> None:
        try:
            scores = self._score([clips for clips, _ in batch])
        except Exception as err:  # noqa: BLE001 - every caller hears of it
            for _, found in batch:
                found.set_exception(err)
        else:
            for (_, found), row in zip(batch, scores, strict=True):
                found.set_result(row)
        self._on_batch(len(batch))
