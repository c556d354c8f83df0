"""Videos -> h5 files of JPEG frames, in the layout the released code reads.

OUT/seq_h5/<split>/<id>.h5    one key, a list of JPEG byte strings; attributes: fps, source, its hash and size
OUT/annotations/<split>.txt   `path,num_frames,label`, and annotation/<split>_fps.txt, `path,fps`; not with
                              several labels a video
OUT/<split>.csv, classes.txt  the same as `path label`
OUT/failures.csv              what could not be packed, and why
With shards, OUT/seq_h5/<split>/shard-00000.h5 holds many videos, each under its id; the csv says `file::id`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
import simplejpeg
import torch

from xvit.data.lists import joined, quoted
from xvit.data.pictures import KEY_MARK
from xvit.data.records import Manifest
from xvit.data.transforms import resize_short_side
from xvit.data.video import open_record
from xvit.errors import DatasetError, VideoReadError
from xvit.types import VideoRecord

_CHUNK = 32  # frames in memory at a time


@dataclass(frozen=True)
class PackSettings:
    """How frames are stored. A folder holds one setting; another is refused.

    short_side: larger pictures are reduced to it, smaller ones stay.
    quality:    of the JPEGs, 1 … 100.
    stride:     every how-many-th frame is kept.
    shard_size: videos a file; 1 is one file a video.
    """

    short_side: int = 256
    quality: int = 90
    stride: int = 1
    shard_size: int = 1


@dataclass(frozen=True)
class PackedVideo:
    """A packed video: its row of the manifest, its key, frames and rate."""

    row: int
    key: str
    num_frames: int
    fps: float | None


@dataclass(frozen=True)
class _Job:
    """One output file and the videos that go into it."""

    target: Path
    rows: list[int]
    records: list[VideoRecord]
    keys: list[str]


@dataclass(frozen=True)
class _Done:
    target: Path
    packed: list[PackedVideo]
    failed: list[tuple[int, str]]


def pack(
    manifest: Manifest,
    output: str | Path,
    settings: PackSettings | None = None,
    *,
    workers: int = 2,
    on_done: Callable[[int], None] | None = None,
) -> list[tuple[str, str]]:
    """Pack one split into `output` and return what failed, as (video_id, reason).

    Videos that an earlier, interrupted run finished are kept. `on_done(n)` hears of every n videos done.
    Raises DatasetError where `output` was packed with other settings.
    """
    settings = settings or PackSettings()
    output = Path(output)
    if len(manifest.classes) != 1:
        raise DatasetError(f"data pack writes one label a video; this dataset has {len(manifest.classes)}")
    _claim(output, settings)
    done: list[_Done] = []
    jobs = _jobs(manifest, output, settings.shard_size)
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = {pool.submit(_pack_file, job, settings): len(job.rows) for job in jobs}
        for future in as_completed(futures):
            done.append(future.result())
            if on_done is not None:
                on_done(futures[future])
    _write_lists(output, manifest, done, one_file_a_video=settings.shard_size == 1)
    failed = sorted(pair for part in done for pair in part.failed)
    failures = [(manifest.records[row].video_id, reason) for row, reason in failed]
    _write_failures(output / "failures.csv", manifest.split, failures)
    return failures


def _claim(output: Path, settings: PackSettings) -> None:
    output.mkdir(parents=True, exist_ok=True)
    file = output / "pack.json"
    if not file.exists():
        file.write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf8")
        return
    there, ours = json.loads(file.read_text(encoding="utf8")), asdict(settings)
    changed = [f"{k}={there.get(k)} there, {v} now" for k, v in ours.items() if there.get(k) != v]
    if changed:
        raise DatasetError(
            f"{output} was packed with other settings ({', '.join(changed)}); use a new folder"
        )


def _jobs(manifest: Manifest, output: Path, shard_size: int) -> Iterator[_Job]:
    folder = output / "seq_h5" / manifest.split
    keys = _keys(manifest)
    for start in range(0, len(keys), shard_size):
        rows = list(range(start, min(start + shard_size, len(keys))))
        name = keys[start] if shard_size == 1 else f"shard-{start // shard_size:05}"
        yield _Job(folder / f"{name}.h5", rows, [manifest.records[r] for r in rows], [keys[r] for r in rows])


def _keys(manifest: Manifest) -> list[str]:
    """Ids without suffix and without a way out of the folder; with it where two would be the same."""
    ids = [os.path.normpath("/" + record.video_id).lstrip("/") for record in manifest.records]
    stems = [os.path.splitext(name)[0] for name in ids]
    return stems if len(set(stems)) == len(stems) else ids


def _pack_file(job: _Job, settings: PackSettings) -> _Done:
    """Write one h5. The videos of a shard are finished one by one in a folder beside it and joined at last,
    so that a kill costs no more than the video it comes in."""
    if len(job.rows) > 1 and job.target.exists():
        return _found(job)
    packed, failed = [], []
    parts = job.target.with_suffix(".parts")
    for row, record, key in zip(job.rows, job.records, job.keys, strict=True):
        name = _name(job, key)
        try:
            place = job.target if len(job.rows) == 1 else parts / f"{name}.h5"
            packed.append(_pack_alone(place, row, name, record, settings))
        except VideoReadError as err:
            failed.append((row, err.reason))
    if len(job.rows) > 1:
        if packed:
            _join(parts, packed, job.target)
        shutil.rmtree(parts)
    return _Done(job.target, packed, failed)


def _pack_alone(place: Path, row: int, name: str, record: VideoRecord, settings: PackSettings) -> PackedVideo:
    """One video in a file of its own, which appears whole; kept where it is there. Raises VideoReadError."""
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = place.with_name(place.name + ".part")
        try:
            with h5py.File(unfinished, "w") as file:
                _pack_video(file, name, record, settings)
        except VideoReadError:
            unfinished.unlink()
            raise
        os.replace(unfinished, place)
    with h5py.File(place) as file:
        return PackedVideo(row, name, len(file[name]), file[name].attrs.get("fps"))


def _join(parts: Path, packed: list[PackedVideo], target: Path) -> None:
    unfinished = target.with_name(target.name + ".part")
    with h5py.File(unfinished, "w") as shard:
        for video in packed:
            with h5py.File(parts / f"{video.key}.h5") as file:
                file.copy(video.key, shard)
    os.replace(unfinished, target)


def _name(job: _Job, key: str) -> str:
    """The key of a video inside its h5."""
    return key.rpartition("/")[2] if len(job.rows) == 1 else key.replace("/", "|")


def _found(job: _Job) -> _Done:
    """What a finished shard of an earlier run holds."""
    packed, failed = [], []
    with h5py.File(job.target) as file:
        for row, key in zip(job.rows, job.keys, strict=True):
            name = _name(job, key)
            if name in file:
                packed.append(PackedVideo(row, name, len(file[name]), file[name].attrs.get("fps")))
            else:
                failed.append((row, "failed in an earlier run"))
    return _Done(job.target, packed, failed)


def _pack_video(file: h5py.File, name: str, record: VideoRecord, settings: PackSettings) -> None:
    """Add one video under `name`. Raises VideoReadError."""
    with open_record(record) as video:
        info = video.info
        numbers = range(0, info.num_frames, settings.stride)
        encoded = []
        for start in range(0, len(numbers), _CHUNK):
            frames = video.read(numbers[start : start + _CHUNK])
            if min(frames.shape[2:]) > settings.short_side:
                frames = resize_short_side(frames, settings.short_side)
            for pixels in frames.permute(0, 2, 3, 1).contiguous().numpy():
                data = simplejpeg.encode_jpeg(pixels, settings.quality, "RGB", "420")
                encoded.append(np.frombuffer(data, np.uint8))
    frames_set = file.create_dataset(name, (len(encoded),), h5py.vlen_dtype(np.uint8))
    for i, data in enumerate(encoded):
        frames_set[i] = data
    frames_set.attrs.update({"source": record.video_id, "height": info.height, "width": info.width})
    if info.fps is not None:
        frames_set.attrs["fps"] = info.fps / settings.stride
    if os.path.isfile(record.path):
        frames_set.attrs["source_sha256"] = file_digest(record.path)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_lists(output: Path, manifest: Manifest, done: list[_Done], *, one_file_a_video: bool) -> None:
    by_row = sorted(((p.row, part.target, p) for part in done for p in part.packed), key=lambda x: x[0])
    rows, released, rates = [], [], []
    for row, target, video in by_row:
        path = target.relative_to(output).as_posix()
        labels = manifest.records[row].labels
        listed = path if one_file_a_video else f"{path}{KEY_MARK}{video.key}"
        rows.append(f"{quoted(listed)} {joined(labels)}".rstrip())
        short = target.relative_to(output / "seq_h5" / manifest.split).with_suffix("").as_posix()
        released.append(f"{short},{video.num_frames},{labels[0] if labels else 0}")
        if video.fps is not None:
            rates.append(f"{short},{video.fps:g}")
    lists = {f"{manifest.split}.csv": rows, "classes.txt": list(manifest.classes[0])}
    if one_file_a_video and len(manifest.records[0].labels) <= 1:  # that layout has one label a video
        lists[f"annotations/{manifest.split}.txt"] = released
        lists[f"annotation/{manifest.split}_fps.txt"] = rates
    for name, lines in lists.items():
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf8")


def _write_failures(file: Path, split: str, failures: list[tuple[str, str]]) -> None:
    """Replace this split's rows of failures.csv."""
    others = []
    if file.exists():
        with file.open(encoding="utf8", newline="") as text:
            others = [row for row in csv.reader(text) if row[0] not in ("split", split)]
    with file.open("w", encoding="utf8", newline="") as text:
        csv.writer(text).writerows(
            [("split", "video", "reason"), *others, *((split, name, reason) for name, reason in failures)]
        )
