"""Batches: the same for any number of workers and after a resume; one decoding for all views."""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch

from xvit.config import AugmentConfig, ClipConfig, DataConfig
from xvit.data import FrameSource, Manifest, VideoDataset, load_manifest, make_loader, open_video
from xvit.data.pyav import VideoFile
from xvit.data.records import RecordTable
from xvit.data.synth import write_motion_set
from xvit.errors import ConfigError, VideoReadError
from xvit.types import Batch, VideoRecord

CLIP = ClipConfig(num_frames=4, size=32)


@pytest.fixture(scope="module")
def motion(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("motion")
    write_motion_set(root, size=40, num_frames=12, train_per_class=3, val_per_class=1)
    return load_manifest(DataConfig(root=str(root)), "train")


def epoch(dataset: VideoDataset, number: int, workers: int) -> list[Batch]:
    dataset.set_epoch(number)
    return list(make_loader(dataset, batch_size=4, shuffle=True, num_workers=workers))


@pytest.mark.parametrize("sampling", ["segment", "dense"])
def test_same_clips_for_any_number_of_workers(motion: Manifest, sampling: str) -> None:
    clip = CLIP.model_copy(update={"sampling": sampling})
    dataset = VideoDataset(motion, clip, augment=AugmentConfig(), seed=5)
    expected = epoch(dataset, 3, 0)
    for workers in (1, 2):
        for ours, theirs in zip(epoch(dataset, 3, workers), expected, strict=True):
            assert torch.equal(ours.frames, theirs.frames)
            assert torch.equal(ours.index, theirs.index)


def test_epochs_differ_with_persistent_workers(motion: Manifest) -> None:
    dataset = VideoDataset(motion, CLIP, augment=AugmentConfig(), seed=5)
    loader = make_loader(dataset, batch_size=18, shuffle=True, num_workers=1)
    batches = []
    for number in (0, 1, 0):
        dataset.set_epoch(number)
        batches.append(next(iter(loader)))
    assert torch.equal(batches[0].frames, batches[2].frames)
    assert not torch.equal(batches[0].index, batches[1].index)
    row = batches[0].index[0]
    again = batches[1].frames[(batches[1].index == row).nonzero()[0, 0]]
    assert not torch.equal(batches[0].frames[0], again)


def test_resume_in_the_middle_of_an_epoch(motion: Manifest) -> None:
    from accelerate import skip_first_batches

    whole = epoch(VideoDataset(motion, CLIP, augment=AugmentConfig(), seed=5), 2, 0)
    dataset = VideoDataset(motion, CLIP, augment=AugmentConfig(), seed=5)
    dataset.set_epoch(2)
    loader = make_loader(dataset, batch_size=4, shuffle=True, num_workers=0)
    rest = list(skip_first_batches(loader, 2))
    assert [b.index.tolist() for b in rest] == [b.index.tolist() for b in whole[2:]]
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(rest, whole[2:], strict=True))


def test_views_decode_each_frame_once(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(shared / "videos" / "odd" / "real" / "hiera_dog.mp4")
    read = []
    close = VideoFile.close

    def counting_close(self: VideoFile) -> None:
        read.append(self.decoded_frames)
        close(self)

    monkeypatch.setattr("xvit.data.torchcodec.video_decoder", lambda: None)
    monkeypatch.setattr(VideoFile, "close", counting_close)
    manifest = Manifest((VideoRecord("dog", path, (0,)),), (("dog",),))
    item = VideoDataset(manifest, CLIP, views=(3, 2))[0]
    assert item.frames.shape == (1, 6, 4, 3, 32, 32)
    assert len(read) == 1
    assert read[0] <= 150


def test_views_are_clips_times_crops(shared: Path) -> None:
    path = str(shared / "videos" / "odd" / "real" / "k400_arm_wrestling_demo.mp4")
    manifest = Manifest((VideoRecord("arm", path, (0,)),), (("arm",),))
    views = VideoDataset(manifest, CLIP, views=(3, 2))[0].frames[0]
    centres = VideoDataset(manifest, CLIP, views=(1, 2))[0].frames[0]
    assert torch.equal(views[[1, 4]], centres)
    assert len({v.numpy().tobytes() for v in views}) == 6


def test_unreadable_videos_are_named(motion: Manifest, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    records = [motion.records[0], VideoRecord("bad", str(tmp_path / "bad.mp4"), (1,)), motion.records[1]]
    manifest = Manifest(records, motion.classes)
    with pytest.raises(VideoReadError, match=r"bad.mp4: not a readable video"):
        list(make_loader(VideoDataset(manifest, CLIP), batch_size=3, shuffle=False, num_workers=1))
    dataset = VideoDataset(manifest, CLIP, on_error="skip")
    (batch,) = make_loader(dataset, batch_size=3, shuffle=False, num_workers=0)
    assert batch.index.tolist() == [0, 2]
    assert batch.frames.shape == (2, 1, 4, 3, 32, 32)
    ((row, reason),) = batch.failures
    assert row == 1
    assert "not a readable video" in reason
    nothing = make_loader(dataset, batch_size=1, shuffle=False, num_workers=0)
    assert [len(b.frames) for b in nothing] == [1, 0, 1]


def draws(labels: list[list[int]], classes: tuple[tuple[str, ...], ...], epochs: int) -> np.ndarray:
    """(N,) how often each video is drawn in so many class-balanced epochs of the train loader."""
    table = RecordTable("/videos", [f"v{n}" for n in range(len(labels))], np.array(labels))
    dataset = VideoDataset(Manifest(table, classes), CLIP, augment=AugmentConfig(), seed=1)
    loader = make_loader(dataset, batch_size=4, shuffle=True, num_workers=0, class_balanced=True)
    rows: list[int] = []
    for number in range(epochs):
        dataset.set_epoch(number)
        rows += [row for _, row in loader.sampler]
    assert len(rows) == epochs * len(labels)
    return np.bincount(rows, minlength=len(labels))


def test_class_balanced_draws_every_class_equally_often() -> None:
    labels = [[0]] * 90 + [[1]] * 8 + [[3]] * 2  # class 2 has no video
    found = draws(labels, (("a", "b", "c", "d"),), 300)
    by_class = np.array([found[:90].sum(), found[90:98].sum(), found[98:].sum()]) / found.sum()
    np.testing.assert_allclose(by_class, 1 / 3, atol=0.01)  # 30,000 draws: one standard deviation is .003
    assert found[:90].min() > 0  # 111 each are expected
    assert found[:90].max() < 200


def test_class_balanced_counts_all_labels_of_a_video() -> None:
    # 80 videos of `a` alone, 15 of `a` and `b`, 5 of `a` and `c`: by their first labels there is one class
    labels = [[0, -1]] * 80 + [[0, 1]] * 15 + [[0, 2]] * 5
    found = draws(labels, (("a", "b", "c"),), 300)
    shares = np.array([found[:80].sum(), found[80:95].sum(), found[95:].sum()]) / found.sum()
    # a third of the draws is for each class; a fifth of those for `a` meets videos that have another
    expected = np.array([0.8, 1 + 0.15, 1 + 0.05]) / 3
    np.testing.assert_allclose(shares, expected, atol=0.01)


def test_class_balanced_of_two_tasks_follows_the_first() -> None:
    labels = [[0, 1]] * 30 + [[1, 1]] * 10
    found = draws(labels, (("cut", "wash"), ("knife", "plate")), 300)
    np.testing.assert_allclose(found[:30].sum() / found.sum(), 0.5, atol=0.015)


def test_flip_exchanges_labels(motion: Manifest) -> None:
    names = motion.classes[0]
    always = AugmentConfig(crop="none", flip_prob=1, flip_labels={"left": "right"})
    never = always.model_copy(update={"flip_prob": 0})
    flipped = epoch(VideoDataset(motion, CLIP, augment=always), 0, 0)
    plain = epoch(VideoDataset(motion, CLIP, augment=never), 0, 0)
    for a, b in zip(flipped, plain, strict=True):
        assert torch.equal(a.frames, b.frames.flip(-1))
        for ours, own in zip(a.labels[:, 0], b.labels[:, 0], strict=True):
            swap = {"left": "right", "right": "left"}
            assert names[ours] == swap.get(names[own], names[own])
    with pytest.raises(ConfigError, match="flip_labels: 'west' is not a class"):
        VideoDataset(motion, CLIP, augment=AugmentConfig(flip_labels={"west": "left"}))


def test_normalised_with_the_clips_own_numbers(motion: Manifest) -> None:
    raw = VideoDataset(motion, CLIP.model_copy(update={"mean": (0, 0, 0), "std": (1, 1, 1)}))[0].frames
    assert 0 <= raw.min() < raw.max() <= 1
    ours = VideoDataset(motion, CLIP)[0].frames
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CLIP.mean, CLIP.std))
    torch.testing.assert_close(ours, (raw - mean) / std)


def test_reads_that_fail_for_io_are_tried_again(motion: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def flaky(record: VideoRecord) -> FrameSource:
        tries.append(record)
        if len(tries) < 3:
            raise VideoReadError(record.path, "input/output error") from OSError(5, "Input/output error")
        return open_video(record.path)

    monkeypatch.setattr("xvit.data.dataset.open_record", flaky)
    monkeypatch.setattr("xvit.data.dataset.RETRY_SECONDS", 0)
    assert len(VideoDataset(motion, CLIP)[0].frames) == 1
    assert len(tries) == 3


def test_memory_is_flat_over_epochs(motion: Manifest) -> None:
    dataset = VideoDataset(motion, CLIP, augment=AugmentConfig())
    loader = make_loader(dataset, batch_size=2, shuffle=True, num_workers=2)
    others = {p.pid for p in multiprocessing.active_children()}  # an earlier test's, not yet gone
    after = []
    for number in range(10):
        dataset.set_epoch(number)
        for _ in loader:
            pass
        workers = [p for p in multiprocessing.active_children() if p.pid not in others]
        assert len(workers) == 2
        after.append(sum(resident_megabytes(p.pid) for p in workers))
    assert after[-1] - after[3] < 20


def resident_megabytes(pid: int | None) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_a_manifest_is_compact_and_shared_with_workers() -> None:
    count = 20_000
    names = (f"class_{i % 400:03}/video_{i:09}_000010_000020.mp4" for i in range(count))
    table = RecordTable("/videos", names, np.arange(count) % 400)
    columns = (table.ids.bytes, table.ids.ends, table.labels)
    assert sum(column.nbytes for column in columns) < 100 * count
    assert table[count - 1].labels == ((count - 1) % 400,)
    assert table.take([7, 3])[1] == table[3]
    # A worker that is not forked gets handles to the memory, not copies of it.
    assert len(ForkingPickler.dumps(table)) < 5_000


def test_memory_of_a_batch_is_used_again_only_when_nobody_holds_it(motion: Manifest) -> None:
    dataset = VideoDataset(motion, CLIP)
    first = dataset[0]
    held, before, address = first.frames[0, 0, 1:], first.frames.clone(), first.frames.data_ptr()
    del first
    second = dataset[1]
    assert second.frames.data_ptr() != address
    assert torch.equal(held, before[0, 0, 1:])
    address = second.frames.data_ptr()
    del second
    assert dataset[0].frames.data_ptr() == address
    assert torch.equal(dataset[0].frames, before)


def test_a_batch_knows_which_views_are_the_same(motion: Manifest) -> None:
    """A video shorter than the span of a dense clip has one clip, a square one has one crop."""
    clip = CLIP.model_copy(update={"sampling": "dense", "frame_stride": 2})
    for stride, crops, expected in ((2, 2, [0, 0, 2, 2]), (9, 1, [0, 0]), (9, 2, [0, 0, 0, 0])):
        dataset = VideoDataset(motion, clip.model_copy(update={"frame_stride": stride}), views=(crops, 2))
        batch = dataset[0]
        assert batch.same is not None
        assert batch.same.tolist() == [expected]
        for view, first in enumerate(expected):
            assert torch.equal(batch.frames[0, view], batch.frames[0, first])


def sums_of_an_epoch(manifest: Manifest, workers: int) -> tuple[int, list[float]]:
    """(the workers that there were, a number for every batch)."""
    loader = make_loader(
        VideoDataset(manifest, CLIP, augment=AugmentConfig(), seed=5),
        batch_size=4,
        shuffle=True,
        num_workers=workers,
    )
    loader.timeout = 60 if loader.num_workers else 0  # seconds, instead of a hang
    return loader.num_workers, [batch.frames.double().sum().item() for batch in loader]


def test_workers_do_without_shared_memory(motion: Manifest) -> None:
    _, expected = sums_of_an_epoch(motion, 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A video of 12 frames of 40 x 40 pixels does not fit into a shared file of 10 kB: only the pipe is left.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        assert sums_of_an_epoch(motion, 1) == (1, expected)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


TWO_EPOCHS = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from test_dataset import sums_of_an_epoch
from xvit.config import DataConfig
from xvit.data import load_manifest

manifest = load_manifest(DataConfig(root=sys.argv[2]), "train")
print(sums_of_an_epoch(manifest, 1))
subprocess.run(["mount", "-o", "remount,size=136k", "/dev/shm"], check=True)
print(sums_of_an_epoch(manifest, 1))
"""


def test_a_full_shared_memory_neither_hangs_nor_stops_a_run(motion: Manifest) -> None:
    unshare = (
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs -o size=16k tmpfs /dev/shm && exec "$@"',
        "sh",
    )
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small /dev/shm is not allowed here")
    _, expected = sums_of_an_epoch(motion, 0)
    root = Path(motion.records[0].path).parents[1]
    command = [*unshare, sys.executable, "-c", TWO_EPOCHS, str(Path(__file__).parent), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.splitlines() == [str((workers, expected)) for workers in (0, 1)]
    assert done.stderr.count("/dev/shm is full: videos are decoded in the process itself") == 1
