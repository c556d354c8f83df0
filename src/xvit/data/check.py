"""What is wrong with a dataset, found before training does."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from xvit.config import DataConfig
from xvit.data.lists import joined, quoted
from xvit.data.manifest import load_manifest
from xvit.data.pack import file_digest
from xvit.data.pyav import VideoFile
from xvit.data.records import Manifest
from xvit.data.video import open_record
from xvit.errors import DatasetError, VideoReadError
from xvit.types import VideoRecord

# Findings that make a video unfit; `write_lists` leaves these videos out.
BROKEN = ("unreadable", "truncated", "too short", "duplicate")
_GROUP = re.compile(r"(.*_g\d+)_c?\d*")  # UCF101's v_Class_gNN_cNN: clips of one recording


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its kind, the split and video (or class) it is about, and the details."""

    kind: str
    split: str
    name: str
    detail: str = ""


@dataclass(frozen=True)
class VideoReport:
    """One video, decoded to its end: what is wrong with it, and the hash of its file."""

    kind: str | None
    detail: str
    digest: str | None


def check(
    config: DataConfig,
    *,
    min_frames: int = 3,
    workers: int = 2,
    on_video: Callable[[], None] | None = None,
) -> tuple[list[Finding], dict[str, Manifest]]:
    """Read every video of every split to its end and compare the lists.

    Returns the findings and the splits that could be listed; a test list that is val again is left out.
    Raises ConfigError, and DatasetError where no split can be listed at all.
    """
    findings: list[Finding] = []
    manifests: dict[str, Manifest] = {}
    for split in ("train", "val", "test"):
        try:
            manifests[split] = load_manifest(config, split)
        except DatasetError as err:
            if split != "test":
                findings.append(Finding("list", split, "", str(err)))
    if not manifests:
        raise DatasetError(findings[0].detail)
    if "test" in manifests and "val" in manifests and manifests["test"].digest == manifests["val"].digest:
        del manifests["test"]  # many sets have two lists: val is then the test list, and read once
    digests: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for split, manifest in manifests.items():
        for record, report in zip(manifest.records, _read_all(manifest, min_frames, workers), strict=True):
            if report.kind:
                findings.append(Finding(report.kind, split, record.video_id, report.detail))
            if report.digest and record.start_seconds is None and record.end_seconds is None:
                digests[report.digest].append((split, record.video_id))
            if on_video is not None:
                on_video()
    findings += _duplicates(digests)
    for split, manifest in manifests.items():
        findings += _labels(split, manifest)
        findings += _class_names(split, manifest)
    findings += _shared(
        manifests, lambda r: r.path if r.start_seconds is None else r.video_id, "in both splits"
    )
    findings += _shared(manifests, _group, "recording in both splits")
    return findings, manifests


def _read_all(manifest: Manifest, min_frames: int, workers: int) -> Iterator[VideoReport]:
    read = partial(read_video, min_frames=min_frames)
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(read, manifest.records, chunksize=4)


def read_video(record: VideoRecord, *, min_frames: int) -> VideoReport:
    """Decode a video to its end."""
    digest = file_digest(record.path) if Path(record.path).is_file() else None
    try:
        with open_record(record) as video:
            announced = video.info.num_frames
            cut = isinstance(video, VideoFile) and video.cut
            for start in range(0, announced, 32):
                video.read(range(start, min(start + 32, announced)))
    except VideoReadError as err:
        return VideoReport(_damage(record), err.reason, digest)
    if cut:
        return VideoReport("truncated", f"the file ends within a frame, after {announced} whole ones", digest)
    if announced < min_frames:
        return VideoReport("too short", f"{announced} frames, wanted {min_frames}", digest)
    return VideoReport(None, "", digest)


def _damage(record: VideoRecord) -> str:
    """Truncated where frames can be had before the damage, unreadable where none can."""
    try:
        with open_record(record):
            return "truncated"
    except VideoReadError:
        return "unreadable"


def _duplicates(digests: dict[str, list[tuple[str, str]]]) -> Iterator[Finding]:
    for copies in digests.values():
        first, *others = copies
        for split, name in others:
            yield Finding("duplicate", split, name, f"same content as {first[0]}: {first[1]}")


def _labels(split: str, manifest: Manifest) -> Iterator[Finding]:
    if split == "test" and not any(record.labels for record in manifest.records[:1]):
        return
    for task, names in enumerate(manifest.classes):
        columns = slice(task, task + 1) if len(manifest.classes) > 1 else slice(None)
        counts = Counter(label for record in manifest.records for label in record.labels[columns])
        for label, name in enumerate(names):
            if not counts[label] and split == "train":
                yield Finding("label gap", split, name, f"no video has label {label}")
            elif counts[label] == 1:
                yield Finding("one-sample class", split, name, f"label {label}")


def _class_names(split: str, manifest: Manifest) -> Iterator[Finding]:
    """Videos in the folder of one class with the label of another."""
    if len(manifest.classes) != 1:
        return
    known = set(manifest.classes[0])
    for record in manifest.records:
        folder = Path(record.video_id).parent.name
        names = [manifest.classes[0][label] for label in record.labels if label >= 0]
        if names and folder in known and folder not in names:
            detail = f"label {joined(record.labels)} is {', '.join(map(repr, names))}"
            yield Finding("wrong class name", split, record.video_id, detail)


def _shared(
    manifests: dict[str, Manifest], key: Callable[[VideoRecord], str | None], kind: str
) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for split, manifest in manifests.items():
        own: dict[str, str] = {}
        for record in manifest.records:
            name = key(record)
            if name is None:
                continue
            if name in seen and name not in own:
                yield Finding(kind, split, record.video_id, f"also in {seen[name]}")
            own[name] = split
        seen = own | seen


def _place(record: VideoRecord) -> str:
    return record.path if record.start_seconds is None else record.video_id


def _group(record: VideoRecord) -> str | None:
    match = _GROUP.match(Path(record.video_id).name)
    return match[1] if match else None


def write_lists(findings: Iterable[Finding], manifests: dict[str, Manifest], output: str | Path) -> None:
    """Write `<split>.csv` with full paths and `classes.txt` to a folder, without the broken videos."""
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    broken = {(f.split, f.name) for f in findings if f.kind in BROKEN}
    for split, manifest in manifests.items():
        several = len(manifest.classes) > 1
        if several or any(record.start_seconds is not None for record in manifest.records[:1]):
            raise DatasetError("lists of segments or of several tasks cannot be written as `path label`")
        lines = [
            f"{quoted(str(Path(record.path).absolute()))} {joined(record.labels)}".rstrip()
            for record in manifest.records
            if (split, record.video_id) not in broken
        ]
        (output / f"{split}.csv").write_text("".join(f"{line}\n" for line in lines), encoding="utf8")
        names = "".join(f"{name}\n" for name in manifest.classes[0])
        (output / "classes.txt").write_text(names, encoding="utf8")
