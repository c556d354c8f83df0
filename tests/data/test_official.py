"""Tiny real copies of the official downloads: recognised, listed, and read to a batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xvit.config import ClipConfig, DataConfig
from xvit.data import Manifest, VideoDataset, load_manifest
from xvit.data.synth import write_video
from xvit.errors import DatasetError


def put(root: Path, text: str, name: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf8")


def film(root: Path, *names: str, frames: int = 4) -> None:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / name, np.full((frames, 32, 32, 3), 40 * i, np.uint8))


def load(root: Path, split: str, **keys: object) -> Manifest:
    """The manifest, after every video of it was read."""
    config = DataConfig.model_validate({"root": str(root), **keys})
    manifest = load_manifest(config, split)
    dataset = VideoDataset(manifest, ClipConfig(num_frames=2, size=16))
    for row in range(len(dataset)):
        assert dataset[row].frames.shape == (1, 1, 2, 3, 16, 16)
    return manifest


@pytest.mark.parametrize("where", ["{split}/{label}/", "videos/", "", "train_256/"])
@pytest.mark.parametrize("list_name", ["{split}.csv", "annotations/kinetics_600_{split}.csv"])
def test_kinetics(tmp_path: Path, where: str, list_name: str) -> None:
    header = "label,youtube_id,time_start,time_end,split\n"
    train = (
        f'{header}playing chess,--abc_d-1_x,10,20,train\n"run, fast",zzz,5,15,train\nrun,gone,0,10,train\n'
    )
    put(tmp_path, train, list_name.format(split="train"))
    put(tmp_path, f"{header}playing chess,val1,1,11,val\n", list_name.format(split="val"))
    film(tmp_path, where.format(split="train", label="playing chess") + "--abc_d-1_x_000010_000020.mp4")
    film(tmp_path, where.format(split="train", label="run, fast") + "zzz.mp4")
    film(tmp_path, where.format(split="val", label="playing chess") + "val1_000001_000011.mp4")
    manifest = load(tmp_path, "train")
    assert str(manifest) == "kinetics: 2 videos, 3 classes, split train; 1 listed videos are not on disk"
    assert manifest.classes == (("playing chess", "run", "run, fast"),)
    assert [r.labels for r in manifest.records] == [(0,), (2,)]
    assert [r.video_id for r in manifest.records] == ["--abc_d-1_x_000010_000020", "zzz_000005_000015"]
    assert [r.labels for r in load(tmp_path, "val").records] == [(0,)]


def test_kinetics_without_its_videos(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    put(tmp_path, "label,youtube_id,time_start,time_end,split\nrun,a,0,10,train\n", "train.csv")
    with pytest.raises(DatasetError, match=r"lists 1 videos, none of them is below"):
        load(tmp_path, "train")
    put(tmp_path, "label,youtube_id,time_start,time_end,split\nrun,a,,10,train\n", "train.csv")
    with pytest.raises(DatasetError, match=r"train.csv:2: nothing in column 'time_start'"):
        load(tmp_path, "train")


def test_ssv2(tmp_path: Path) -> None:
    labels = {"Holding something": "0", "Pushing something from left to right": "1"}
    entry = {
        "label": "pushing a cup …",
        "template": "Pushing [something] from left to right",
        "placeholders": [],
    }
    put(tmp_path, json.dumps(labels), "something-something-v2-labels.json")
    put(tmp_path, json.dumps([entry | {"id": "78687"}]), "something-something-v2-train.json")
    held = [{"id": "5", "template": "Holding [something]"}]
    put(tmp_path, json.dumps(held), "something-something-v2-validation.json")
    put(tmp_path, json.dumps([{"id": "6"}]), "something-something-v2-test.json")
    (tmp_path / "20bn-something-something-v2").mkdir()
    for name in ("78687", "5", "6"):
        film(tmp_path, f"20bn-something-something-v2/{name}.mp4")
    train = load(tmp_path, "train")
    assert train.format == "ssv2"
    assert train.classes == (tuple(labels),)
    assert [(r.video_id, r.labels) for r in train.records] == [("78687", (1,))]
    assert [r.labels for r in load(tmp_path, "val").records] == [(0,)]
    assert [r.labels for r in load(tmp_path, "test").records] == [()]
    put(
        tmp_path,
        json.dumps([{"id": "5", "template": "Eating [something]"}]),
        "something-something-v2-train.json",
    )
    with pytest.raises(DatasetError, match=r"train.json: entry 1: 'Eating something' is not in"):
        load(tmp_path, "train")


EPIC = (
    "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,"
    "start_frame,stop_frame,verb_class,noun_class\n"
)


@pytest.mark.parametrize("stored", ["video", "frames"])
def test_epic(tmp_path: Path, stored: str) -> None:
    rows = (
        "P01_01_0,P01,P01_01,00:00:01.00,00:00:02.00,8,16,3,7\n"
        "P01_01_1,P01,P01_01,00:00:00.50,00:00:01.00,4,8,0,2\n"
    )
    val_row = "P01_01_9,P01,P01_01,00:00:02.00,00:00:03.00,16,24,1,1\n"
    put(tmp_path, EPIC + rows, "annotations/EPIC_100_train.csv")
    put(tmp_path, EPIC + val_row, "annotations/EPIC_100_validation.csv")
    names = "".join(f"{i},verb{i},x\n" for i in range(5))
    put(tmp_path, f"id,key,instances\n{names}", "annotations/EPIC_100_verb_classes.csv")
    if stored == "video":
        film(tmp_path, "P01/videos/P01_01.MP4", frames=32)
    else:
        folder = tmp_path / "P01/rgb_frames/P01_01"
        folder.mkdir(parents=True)
        for i in range(32):
            Image.new("RGB", (32, 32)).save(folder / f"frame_{i + 1:010}.jpg")
    train = load(tmp_path, "train")
    assert train.format == "epic"
    assert train.num_classes == (5, 8)
    assert train.classes[0][3] == "verb3"
    first, second = train.records
    assert (first.video_id, first.labels) == ("P01_01_0", (3, 7))
    assert (first.start_seconds, first.end_seconds) == (1, 2)
    assert (second.labels, second.start_seconds, second.fps) == ((0, 2), 0.5, 8)
    assert len(load(tmp_path, "val").records) == 1


def test_ucf101(tmp_path: Path) -> None:
    put(tmp_path, "1 ApplyEyeMakeup\n2 Archery\n", "ucfTrainTestlist/classInd.txt")
    for fold in (1, 2):
        put(tmp_path, f"Archery/v_Archery_g0{fold}_c01.avi 2\n", f"ucfTrainTestlist/trainlist0{fold}.txt")
        put(tmp_path, f"Archery/v_Archery_g0{3 - fold}_c01.avi\n", f"ucfTrainTestlist/testlist0{fold}.txt")
    film(tmp_path, "UCF-101/Archery/v_Archery_g01_c01.avi", "UCF-101/Archery/v_Archery_g02_c01.avi")
    train, val = load(tmp_path, "train"), load(tmp_path, "val")
    assert train.format == "ucf101"
    assert train.classes == (("ApplyEyeMakeup", "Archery"),)
    assert [(r.video_id, r.labels) for r in train.records] == [("Archery/v_Archery_g01_c01.avi", (1,))]
    assert [r.video_id for r in val.records] == ["Archery/v_Archery_g02_c01.avi"]
    assert [r.video_id for r in load(tmp_path, "train", fold=2).records] == ["Archery/v_Archery_g02_c01.avi"]


def test_hmdb51(tmp_path: Path) -> None:
    folder = "testTrainMulti_7030_splits"
    put(tmp_path, "a#1.avi 1 \nb.avi 2 \nc.avi 0 \n", f"{folder}/brush_hair_test_split1.txt")
    put(tmp_path, "a#1.avi 2 \nd.avi 1 \n", f"{folder}/cartwheel_test_split1.txt")
    film(tmp_path, *(f"brush_hair/{name}.avi" for name in ("a#1", "b", "c")))
    film(tmp_path, "cartwheel/a#1.avi", "cartwheel/d.avi")
    train, val = load(tmp_path, "train"), load(tmp_path, "val")
    assert train.format == "hmdb51"
    assert train.classes == (("brush_hair", "cartwheel"),)
    assert [r.video_id for r in train.records] == ["brush_hair/a#1.avi", "cartwheel/d.avi"]
    assert [r.labels for r in train.records] == [(0,), (1,)]
    assert [r.path for r in val.records] == [f"{tmp_path}/brush_hair/b.avi", f"{tmp_path}/cartwheel/a#1.avi"]
