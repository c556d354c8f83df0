"""The motion set: twins are the same frames in the opposite order, and nothing else tells them apart."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
import torch

from xvit.config import DataConfig
from xvit.data import load_manifest, open_video
from xvit.data.synth import PAIRS, write_motion_set


@pytest.fixture(scope="module")
def motion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("motion")
    write_motion_set(root, train_per_class=24, val_per_class=8, seed=3)
    return root


def read(path: Path) -> torch.Tensor:
    with open_video(path) as video:
        return video.read(range(video.info.num_frames))


def test_twins_are_the_same_pictures_backwards(motion: Path) -> None:
    for forward, backward in PAIRS:
        for split in ("train", "val"):
            name = f"{split}_00002.mp4"
            there, back = read(motion / forward / name), read(motion / backward / name)
            assert there.shape == (8, 3, 32, 32)
            assert torch.equal(there, back.flip(0))
            assert not torch.equal(there, back)


def test_train_and_val_share_no_scene(motion: Path) -> None:
    seen = {read(path)[0].numpy().tobytes() for path in motion.glob("right/train_*.mp4")}
    assert len(seen) == 24
    assert not seen & {frame.numpy().tobytes() for p in motion.glob("right/val_*.mp4") for frame in read(p)}


def test_every_frame_is_coded_alone(motion: Path) -> None:
    """No frame is of better quality for standing early: all are keyframes of the same quantiser."""
    for path in motion.glob("*/val_*.mp4"):
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)


def test_same_arguments_same_set(motion: Path, tmp_path: Path) -> None:
    write_motion_set(tmp_path, train_per_class=24, val_per_class=8, seed=3, workers=1)
    for name in ("grow/train_00005.mp4", "up/val_00001.mp4"):
        assert torch.equal(read(motion / name), read(tmp_path / name))
    for name in ("train.csv", "val.csv", "classes.txt"):
        assert (motion / name).read_text() == (tmp_path / name).read_text()


def test_it_is_a_dataset(motion: Path) -> None:
    train = load_manifest(DataConfig(root=str(motion)), "train")
    assert len(train.records) == 6 * 24
    assert train.classes == (("down", "grow", "left", "right", "shrink", "up"),)
    record = train.records[30]
    assert Path(record.path).parent.name == train.classes[0][record.labels[0]]
