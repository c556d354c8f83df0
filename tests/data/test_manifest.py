"""Layouts of lists and folders, and one clear line for each way in which they can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xvit.config import DataConfig
from xvit.data import Manifest, load_manifest
from xvit.data.records import RecordTable
from xvit.errors import ConfigError, DatasetError


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_csv", ".csv").replace("_txt", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf8")
    return root


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def load(root: Path, split: str = "train", **keys: object) -> Manifest:
    return load_manifest(DataConfig.model_validate({"root": str(root), **keys}), split)


@pytest.mark.parametrize(
    "text",
    [
        "a/x y.mp4 0\nb/z.mp4 1\n",
        'path,label\n"a/x y.mp4",0\n\nb/z.mp4,1',
        "a/x y.mp4\t0\r\nb/z.mp4\t1\r\n",
        '\ufeff"a/x y.mp4" 0\nb/z.mp4, 1\n',
    ],
)
def test_csv_separators_and_quotes(tmp_path: Path, text: str) -> None:
    manifest = load(write(tmp_path, train_csv=text))
    assert [(r.video_id, r.labels) for r in manifest.records] == [("a/x y.mp4", (0,)), ("b/z.mp4", (1,))]
    assert manifest.records[0].path == str(tmp_path / "a/x y.mp4")
    assert manifest.classes == (("a", "b"),)
    assert str(manifest) == "csv: 2 videos, 2 classes, split train"


def test_csv_class_names(tmp_path: Path) -> None:
    write(tmp_path, train_csv="p/1.mp4 0\np/2.mp4 1\n")
    assert load(tmp_path).classes == (("0", "1"),)  # one folder for two classes names nothing
    write(tmp_path, classes_txt="run\njump\n")
    assert load(tmp_path).classes == (("run", "jump"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/1.mp4 0\na/2.mp4\n", r"train.csv:2: no label after 'a/2.mp4'"),
        ("a/1.mp4,0\na/2.mp4,\n", r"train.csv:2: no label"),
        ("a/1.mp4 -1\n", r"train.csv:1: the label of 'a/1.mp4' must be a whole number from 0, got '-1'"),
        ("a/1.mp4 0\n\na/2.mp4 1.5\n", r"train.csv:3: .* got '1.5'"),
        ("a/1.mp4 jump\n", r"train.csv:1: .* got 'jump'"),
        ("a/1.mp4 0\nb/1.mp4 0\na/1.mp4 0\n", r"train.csv:3: 'a/1.mp4' is listed already in line 1"),
        ("", r"the train split \(csv\) lists no videos"),
    ],
)
def test_wrong_csv_lines(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load(write(tmp_path, train_csv=text))


def test_a_val_class_that_train_lacks(tmp_path: Path) -> None:
    write(tmp_path, train_csv="a/1.mp4 0\nb/2.mp4 1\n", val_csv="a/3.mp4 0\nc/4.mp4 2\n")
    with pytest.raises(DatasetError, match=r"val.csv:2: label 2 does not occur in train.csv"):
        load(tmp_path, "val")
    touch(tmp_path / "f", "train/a/1.mp4", "val/a/2.mp4", "val/new/3.mp4")
    with pytest.raises(DatasetError, match=r"val/new: this class has no folder in .*train"):
        load(tmp_path / "f", "val")


def test_a_label_beyond_the_names(tmp_path: Path) -> None:
    write(tmp_path, train_csv="a/1.mp4 0\na/2.mp4 2\n", classes_txt="run\njump\n")
    with pytest.raises(DatasetError, match=r"train.csv:2: label 2 is too large: classes.txt names 2 classes"):
        load(tmp_path)


def test_test_split_without_labels(tmp_path: Path) -> None:
    write(tmp_path, train_csv="a/1.mp4 0\nb/2.mp4 1\n", test_csv='c/3.mp4\n"c/4 5.mp4"\n')
    manifest = load(tmp_path, "test")
    assert [(r.video_id, r.labels) for r in manifest.records] == [("c/3.mp4", ()), ("c/4 5.mp4", ())]
    assert manifest.classes == (("a", "b"),)


def test_split_folders(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.mp4", "train/b/sub/2.avi", "train/b/notes.txt", "validation/b/3.webm")
    train, val = load(tmp_path), load(tmp_path, "val")
    assert [(r.video_id, r.labels) for r in train.records] == [
        ("train/a/1.mp4", (0,)),
        ("train/b/sub/2.avi", (1,)),
    ]
    assert [(r.video_id, r.labels) for r in val.records] == [("validation/b/3.webm", (1,))]
    assert train.classes == val.classes == (("a", "b"),)


def test_one_folder_is_split_class_by_class(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{i}.mp4" for name in ("a", "b") for i in range(10)))
    touch(tmp_path, "a/frames/img_00001.jpg", "a/frames/img_00002.jpg")
    train, val = load(tmp_path), load(tmp_path, "val")
    ids = [{r.video_id for r in m.records} for m in (train, val)]
    assert not ids[0] & ids[1]
    assert len(ids[0] | ids[1]) == 21
    assert "a/frames" in ids[0] | ids[1]
    assert [sum(r.labels == (k,) for r in val.records) for k in range(2)] == [2, 2]
    assert train.digest == load(tmp_path).digest != val.digest
    larger = load_manifest(DataConfig(root=str(tmp_path), val_fraction=0.5), "val")
    assert [sum(r.labels == (k,) for r in larger.records) for k in range(2)] == [6, 5]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    touch(
        tmp_path, "store/1.mp4", "store/deep/2.mp4", "set/train/b/3.mp4", "set/val/a/4.mp4", "set/val/b/5.mp4"
    )
    (tmp_path / "set/train/a").mkdir()
    (tmp_path / "set/train/a/linked").symlink_to(tmp_path / "store")
    (tmp_path / "store/deep/round").symlink_to(tmp_path / "store")
    (tmp_path / "set/train/c").symlink_to(tmp_path / "store/deep")
    (tmp_path / "set/train/b/up").symlink_to(tmp_path / "set/train")
    (tmp_path / "store/deep/set").symlink_to(tmp_path / "set")
    (tmp_path / "set/train/self").symlink_to("self")
    (tmp_path / "set/train/all").symlink_to(tmp_path / "set")
    (tmp_path / "set/train/b/nowhere").symlink_to(tmp_path / "no_such_folder")
    assert [(r.video_id, r.labels) for r in load(tmp_path / "set").records] == [
        ("train/a/linked/1.mp4", (0,)),
        ("train/a/linked/deep/2.mp4", (0,)),
        ("train/b/3.mp4", (1,)),
        ("train/c/2.mp4", (2,)),
    ]


def test_a_folder_with_nothing_to_hold_out_says_so(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b/1.mp4")
    assert len(load(tmp_path).records) == 2
    with pytest.raises(DatasetError, match="no class has a second video, which could be held out for val"):
        load(tmp_path, "val")
    assert RecordTable(tmp_path, [], np.zeros((0, 2), np.int64)).labels.shape == (0, 2)
    assert RecordTable(tmp_path, [], np.zeros(0, np.int64)).labels.shape == (0, 1)


def test_labels_follow_the_model_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "val/a/1.mp4", "val/b/2.mp4")
    config = DataConfig(root=str(tmp_path))
    assert [r.labels for r in load_manifest(config, "val", (("b", "x", "a"),)).records] == [(2,), (0,)]
    with pytest.raises(DatasetError, match="the class 'b' is not among the model's 1 classes"):
        load_manifest(config, "val", (("a",),))
    with pytest.raises(DatasetError, match="2 classes here, 3 in the model, which has no names for them"):
        load_manifest(config, "val", (("0", "1", "2"),))
    touch(tmp_path / "numbered", "val/5/1.mp4", "val/7/2.mp4")
    numbered = DataConfig(root=str(tmp_path / "numbered"))
    assert [r.labels for r in load_manifest(numbered, "val", (("5", "6", "7"),)).records] == [(0,), (2,)]
    with pytest.raises(DatasetError, match="2 classes here, 3 in the model"):
        load_manifest(numbered, "val", (("0", "1", "2"),))
    write(tmp_path / "n", val_csv="p/1.mp4 0\np/2.mp4 2\n")
    with pytest.raises(DatasetError, match="3 classes here, 2 in the model"):
        load_manifest(DataConfig(root=str(tmp_path / "n")), "val", (("a", "b"),))


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        load(tmp_path / "none")
    with pytest.raises(DatasetError, match="no dataset found there: expected class folders"):
        load(tmp_path)
    with pytest.raises(ConfigError, match=r"data.format must be auto, released"):
        load(tmp_path, format="coco")
    with pytest.raises(ConfigError, match=r"data.root is not set"):
        load_manifest(DataConfig(), "train")


@pytest.mark.parametrize("name", ["lip_micro", "ut_mini", "arrow_diving", "ucf11_mini"])
def test_shared_sets(shared: Path, name: str) -> None:
    root = shared / "videos" / name
    names = (root / "classes.txt").read_text().split()
    for split in ("train", "val"):
        manifest = load(root, split)
        assert manifest.classes == (tuple(names),)
        for record in manifest.records:
            assert Path(record.path).is_file()
            assert Path(record.path).parent.name == names[record.labels[0]]
