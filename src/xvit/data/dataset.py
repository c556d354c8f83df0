"""Records × sampling × transform: videos as batches for the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from xvit.config import AugmentConfig, ClipConfig
from xvit.data.records import Manifest
from xvit.data.sampling import train_frames, view_frames
from xvit.data.transforms import TrainTransform, ViewTransform
from xvit.data.video import open_record
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
        epoch, row = key if isinstance(key, tuple) else (self.epoch, key)
        record = self.records[row]
        try:
            frames, labels = self._read(record, np.random.default_rng([self.seed, epoch, row]))
        except VideoReadError as err:
            if self.on_error != "skip":
                raise
            return self._failure(row, err.reason)
        return Batch(frames[None], torch.tensor([labels], dtype=torch.int64), torch.tensor([row]))

    def _read(self, record: VideoRecord, rng: np.random.Generator) -> tuple[torch.Tensor, tuple[int, ...]]:
        """float (V, T, C, H, W) and labels of one video."""
        if self._train is None:
            frames, clips = self._decode(record, lambda info: view_frames(info, self.clip, self.num_clips))
            return self._views(frames, clips), record.labels
        frames, clips = self._decode(record, lambda info: train_frames(info, self.clip, rng)[None])
        frames, flipped = self._train(frames[clips[0]], rng)
        labels = record.labels
        if flipped:
            labels = tuple(swap.get(label, label) for swap, label in zip(self._swaps, labels, strict=True))
        return frames[None], labels

    def _decode(
        self, record: VideoRecord, sample: Callable[[VideoInfo], np.ndarray]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The frames of all clips, each decoded once, and the clips as (num_clips, T) rows of them."""
        for attempt in range(1, READ_ATTEMPTS + 1):
            try:
                with open_record(record) as video:
                    numbers, clips = np.unique(sample(video.info), return_inverse=True)
                    return video.read(numbers.tolist()), torch.from_numpy(clips)
            except VideoReadError as err:
                if attempt == READ_ATTEMPTS or not _may_pass(err):
                    raise
                time.sleep(RETRY_SECONDS * attempt)
        raise AssertionError("unreachable")

    def _failure(self, row: int, reason: str) -> Batch:
        views = self.num_crops * self.num_clips
        shape = (0, views, self.clip.num_frames, 3, self.clip.size, self.clip.size)
        labels = torch.zeros(0, len(self.records[row].labels), dtype=torch.int64)
        return Batch(torch.zeros(shape), labels, torch.zeros(0, dtype=torch.int64), ((row, reason),))


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


def collate(items: Sequence[Batch]) -> Batch:
    """One batch of all videos; those that failed are only named."""
    return Batch(
        torch.cat([item.frames for item in items]),
        torch.cat([item.labels for item in items]),
        torch.cat([item.index for item in items]),
        tuple(failure for item in items for failure in item.failures),
    )


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, row) of every video, in an order drawn from the dataset's seed and epoch where `shuffle`.

    With `class_balanced` an epoch is as long, but its rows are drawn so that every class of the first task
    comes equally often.
    """

    def __init__(self, dataset: VideoDataset, shuffle: bool, class_balanced: bool = False) -> None:
        self.dataset = dataset
        self.shuffle = shuffle
        self.class_balanced = class_balanced

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, rows = self.dataset.epoch, np.arange(len(self.dataset))
        if self.shuffle:
            rows = np.random.default_rng([self.dataset.seed, epoch]).permutation(len(rows))
        if self.class_balanced:
            labels = np.array([record.labels[0] for record in self.dataset.records])
            share = 1 / np.bincount(labels)[labels]
            rng = np.random.default_rng([self.dataset.seed, epoch, 1])
            rows = rng.choice(len(rows), len(rows), p=share / share.sum())
        return ((epoch, int(row)) for row in rows)


def make_loader(
    dataset: VideoDataset,
    *,
    batch_size: int,
    shuffle: bool,
    num_workers: int,
    drop_last: bool = False,
    class_balanced: bool = False,
) -> DataLoader[Batch]:
    """Batches of `dataset`, the same for any number of workers; see VideoDataset on epochs and resuming."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(dataset, shuffle, class_balanced),
        num_workers=num_workers,
        collate_fn=collate,
        drop_last=drop_last,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
