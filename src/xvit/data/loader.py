"""Batches from a dataset: the same ones for any number of workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from xvit.data.dataset import VideoDataset
from xvit.errors import XViTWarning
from xvit.types import Batch

SHARED_MEMORY = "/dev/shm"
BYTES_A_WORKER = 2**16  # a dozen semaphores of a page each


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, row) of every video, in an order drawn from the dataset's seed and epoch where `shuffle`.

    With `class_balanced` an epoch is as long, but each of its rows is drawn anew: a class of the first task,
    all alike, then one of the videos that have it.
    """

    def __init__(self, dataset: VideoDataset, shuffle: bool, class_balanced: bool = False) -> None:
        self.dataset = dataset
        self.shuffle = shuffle
        self.shares = None
        if class_balanced:
            labels = np.array([record.labels for record in dataset.records])
            several = len(dataset.manifest.classes) == 1
            self.shares = balanced_shares(labels if several else labels[:, :1])

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, rows = self.dataset.epoch, np.arange(len(self.dataset))
        if self.shuffle:
            rows = np.random.default_rng([self.dataset.seed, epoch]).permutation(len(rows))
        if self.shares is not None:
            rng = np.random.default_rng([self.dataset.seed, epoch, 1])
            rows = rng.choice(len(rows), len(rows), p=self.shares)
        return ((epoch, int(row)) for row in rows)


def balanced_shares(labels: np.ndarray) -> np.ndarray:
    """How often to draw each video so that every class is drawn for equally often: (N,), summing to 1.

    labels: (N, L), the labels of a video filled up with -1.
    """
    have = labels >= 0
    count = np.bincount(labels[have])
    shares = np.where(have, 1 / count[labels], 0.0).sum(axis=1)  # -1 takes any class's, and none of it
    return shares / shares.sum()


def as_is(batch: Any) -> Any:
    """The dataset has put the batch together already."""
    return batch


def outlast_signals(worker: int) -> None:
    """Let a loader's worker ignore what ends the run: Ctrl-C and clusters signal every process of a job.

    The run still needs batches to finish its step and ends its workers itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = hasattr(signal, "sigwaitinfo")  # Linux tells who sent a SIGTERM
    if told:
        signal.pthread_sigmask(
            signal.SIG_BLOCK, {signal.SIGTERM}
        )  # before there are threads that would get it
    run = multiprocessing.parent_process()
    assert run is not None

    def leave_when_told() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run.pid:
            pass
        os._exit(0)

    def leave_after_the_run() -> None:
        run.join()
        os._exit(0)

    # Workers from a fork server have that as their parent, so torch does not see the run die.
    for leave in (leave_after_the_run, *([leave_when_told] if told else [])):
        threading.Thread(target=leave, daemon=True).start()


def no_room_for_workers(count: int) -> bool:
    """Whether shared memory is too full for the queues and semaphores of so many workers."""
    try:
        room = os.statvfs(SHARED_MEMORY)
    except OSError:  # not this system's way
        return False
    return room.f_blocks > 0 and room.f_bavail * room.f_frsize < (count + 1) * BYTES_A_WORKER


def make_loader(
    dataset: VideoDataset,
    *,
    batch_size: int,
    shuffle: bool,
    num_workers: int,
    drop_last: bool = False,
    class_balanced: bool = False,
) -> DataLoader[Batch]:
    """Batches of `dataset`, the same for any number of workers; see VideoDataset on epochs and resuming.

    There are never more workers than processors, and none, with a warning, where they could not start.
    """
    num_workers = min(num_workers, len(os.sched_getaffinity(0)))
    if num_workers and no_room_for_workers(num_workers):
        warnings.warn(
            f"{SHARED_MEMORY} is full: videos are decoded in the process itself, as with data.num_workers=0; "
            "make room there for more (in a container: --shm-size=1g)",
            XViTWarning,
            stacklevel=1,  # once for all loaders of a run
        )
        num_workers = 0
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(dataset, shuffle, class_balanced),
        num_workers=num_workers,
        collate_fn=as_is,
        drop_last=drop_last,
        persistent_workers=num_workers > 0,
        worker_init_fn=outlast_signals,
        pin_memory=torch.cuda.is_available(),
    )
