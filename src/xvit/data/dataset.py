"""Records × sampling × transform: videos as batches for the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from xvit.config import AugmentConfig, ClipConfig
from xvit.data.parcel import Parcel, Shipment
from xvit.data.records import Manifest
from xvit.data.sampling import train_frames, view_frames
from xvit.data.transforms import TrainTransform, ViewTransform
from xvit.data.video import FrameSource, frames_at_once, open_record
from xvit.errors import ConfigError, VideoReadError
from xvit.types import Batch, VideoInfo, VideoRecord

# An I/O error may pass (a network file system); a damaged file stays damaged and is read once.
READ_ATTEMPTS = 3
RETRY_SECONDS = 0.2

Key = int | tuple[int, int]


class VideoDataset(Dataset[Batch]):
    """Videos of a manifest, ready for the model.

    With `augment`, an item is one random clip; without, it is the `views` = (num_crops, num_clips) of the
    video, all from one decoding. `on_error="skip"` gives an item without frames that names the failure;
    "raise" raises VideoReadError.

    Randomness is a function of (seed, epoch, row) alone, never of workers or order. Call `set_epoch` before
    each epoch's iteration over the loader; it works with persistent workers, because the loader's sampler
    hands the epoch to the workers with every row. To resume within an epoch, call `set_epoch(epoch)` and
    skip the batches already seen (`accelerate.skip_first_batches(loader, n)`): the rest is as it would have
    been.
    """

    def __init__(
        self,
        manifest: Manifest,
        clip: ClipConfig,
        *,
        augment: AugmentConfig | None = None,
        views: tuple[int, int] = (1, 1),
        seed: int = 0,
        on_error: str = "raise",
    ) -> None:
        self.manifest = manifest
        self.records: Sequence[VideoRecord] = manifest.records
        self.clip = clip
        self.num_crops, self.num_clips = views
        self.seed = seed
        self.on_error = on_error
        self.epoch = 0
        self._train = None if augment is None else TrainTransform(clip, augment)
        self._views = ViewTransform(clip, self.num_crops)
        if augment is None:  # rules that have no such clip say so here, not in a worker
            view_frames(VideoInfo(1, None, 1, 1), clip, self.num_clips)
        self._swaps = label_swaps(augment, manifest.classes)

    def __len__(self) -> int:
        return len(self.records)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration over a loader of this dataset draws."""
        self.epoch = epoch

    def __getitem__(self, key: Key) -> Batch:
        """A batch of one video: `key` is a row, or (epoch, row) as the loader's sampler writes it."""
        return self._ship([key]).unpack()

    def __getitems__(self, keys: Sequence[Key]) -> Batch | Shipment:
        """The batch of these keys; from a loader's worker as a shipment, which arrives as a Batch."""
        shipment = self._ship(keys)
        return shipment.unpack() if get_worker_info() is None else shipment

    def _ship(self, keys: Sequence[Key]) -> Shipment:
        parcels, rows, labels, failures = [], [], [], []
        for key in keys:
            epoch, row = key if isinstance(key, tuple) else (self.epoch, key)
            rng = np.random.default_rng([self.seed, epoch, row])
            try:
                parcel, named = self._read(self.records[row], rng)
            except VideoReadError as err:
                if self.on_error != "skip":
                    raise
                failures.append((row, err.reason))
            else:
                parcels.append(parcel)
                rows.append(row)
                labels.append(named)
        tasks = len(labels[0]) if labels else len(self.manifest.classes)
        return Shipment(
            self.clip,
            self.num_crops * self.num_clips,
            parcels,
            torch.tensor(labels, dtype=torch.int64).view(len(rows), tasks),
            torch.tensor(rows, dtype=torch.int64),
            tuple(failures),
        )

    def _read(self, record: VideoRecord, rng: np.random.Generator) -> tuple[Parcel, tuple[int, ...]]:
        """One video, ready to be cut into views, and its labels."""
        if self._train is None:
            frames, clips = self._decode(
                record, lambda info: view_frames(info, self.clip, self.num_clips), self._read_resized
            )
            return self._views.cut(frames, clips), record.labels
        frames, clips = self._decode(
            record, lambda info: train_frames(info, self.clip, rng)[None], lambda video, n: video.read(n)
        )
        parcel, flipped = self._train(frames, clips, rng)
        labels = record.labels
        if flipped:
            swaps = self._swaps if len(self._swaps) > 1 else self._swaps * len(labels)
            labels = tuple(swap.get(label, label) for swap, label in zip(swaps, labels, strict=True))
        return parcel, labels

    def _read_resized(self, video: FrameSource, numbers: list[int]) -> torch.Tensor:
        """These frames as the views take them; a few at a time, so that large ones never lie side by side."""
        step = frames_at_once(video.info)
        parts = [
            self._views.resize(video.read(numbers[at : at + step])) for at in range(0, len(numbers), step)
        ]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _decode(
        self,
        record: VideoRecord,
        sample: Callable[[VideoInfo], np.ndarray],
        read: Callable[[FrameSource, list[int]], torch.Tensor],
    ) -> tuple[torch.Tensor, np.ndarray]:
        """The frames of all clips, each decoded once, and the clips as (num_clips, T) rows of them."""
        for attempt in range(1, READ_ATTEMPTS + 1):
            try:
                with open_record(record) as video:
                    numbers, clips = np.unique(sample(video.info), return_inverse=True)
                    return read(video, numbers.tolist()), clips
            except VideoReadError as err:
                if attempt == READ_ATTEMPTS or not _may_pass(err):
                    raise
                time.sleep(RETRY_SECONDS * attempt)
        raise AssertionError("unreachable")


def _may_pass(err: VideoReadError) -> bool:
    cause = err.__cause__
    return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError | PermissionError)


def label_swaps(augment: AugmentConfig | None, classes: tuple[tuple[str, ...], ...]) -> list[dict[int, int]]:
    """Per task, the labels that a horizontal flip exchanges. Raises ConfigError on a name no task has."""
    pairs = {} if augment is None else augment.flip_labels
    for name in (name for pair in pairs.items() for name in pair):
        if not any(name in task for task in classes):
            raise ConfigError(f"data.augment.flip_labels: {name!r} is not a class of this dataset")
    swaps = []
    for task in classes:
        known = [(task.index(a), task.index(b)) for a, b in pairs.items() if a in task and b in task]
        swaps.append({label: other for a, b in known for label, other in ((a, b), (b, a))})
    return swaps
