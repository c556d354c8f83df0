"""The original command line: its keys, its files, its commands as they were published."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from xvit.cli_original import main
from xvit.compat import JOB_DEFAULTS, KEYS, translate
from xvit.compat_settings import RELEASED_DEFAULTS, nest, read_settings
from xvit.config import Config, load_config, make_config
from xvit.config_errors import all_keys
from xvit.errors import ConfigError

ROOT = Path(__file__).parents[1]
CASES = {"eval_kinetics": "Kinetics/xvit_B16_16x16_k600.yaml", "eval_ssv2": "SSv2/xvit_B16_16x16.yaml"}


def translated(*options: str, config: str | None = None) -> tuple[Config, list[str]]:
    values, settings, given = read_settings(config, options)
    ours, notes = translate(settings)
    nest(values, ours | given)
    return make_config(values), notes


def test_options_are_read_as_yacs_does() -> None:
    config, notes = translated(
        "SOLVER.BASE_LR", "1e-5", "DATA.MEAN=(0.1,0.2,0.3)", " ", "OUTPUT_DIR", "out", ""
    )
    assert config.train.lr == 1e-5
    assert config.data.mean == (0.1, 0.2, 0.3)
    assert config.output == "out"
    assert notes == []


def test_unknown_keys_name_the_nearest_and_old_ones_get_a_note() -> None:
    with pytest.raises(ConfigError, match=r"unknown key SOLVER\.BASE_LRR; did you mean SOLVER\.BASE_LR\?"):
        translated("SOLVER.BASE_LRR", "1")
    with pytest.raises(ConfigError, match=r"SEED: a value is missing"):
        translated("SEED")
    _, notes = translated("BN.USE_PRECISE_STATS", "False", "SOLVER.GAMMA", "0.1")
    assert notes == [
        "BN.USE_PRECISE_STATS: there is no batch norm in an XViT",
        "SOLVER.GAMMA: the learning rate follows the cosine",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("XVIT.LOCATIONS_LIST", "3"), "XVIT.LOCATIONS_LIST: cannot be 3"),
        (("SOLVER.CLIP_GRADIENT", "much"), "SOLVER.CLIP_GRADIENT: cannot be 'much'"),
        (("XVIT.SHIFT_DIV=0",), "XVIT.SHIFT_DIV: cannot be 0"),
        (("train=3", "train.lr=1"), "train.lr: train is a value, not a section"),
        (("data.size=[",), "data.size: should be a valid integer"),
        (("NUM_GPUS", "all"), "NUM_GPUS: must be such as 1, got 'all'"),
        (("TRAIN.ENABLE", "no"), "TRAIN.ENABLE: must be such as True, got 'no'"),
        (("DATA.TEST_CROP_SIZE", "big"), "DATA.TEST_CROP_SIZE: must be such as 224, got 'big'"),
        (("SOLVER.FREEZE_BACKBONE", "no"), "SOLVER.FREEZE_BACKBONE: cannot be 'no'"),
        (("SOLVER.OPTIMIZING_METHOD", "lion"), "SOLVER.OPTIMIZING_METHOD: 'lion' is none of sgd, adam"),
        (("MODEL.LOSS_FUNC", "bce"), "MODEL.LOSS_FUNC: 'bce' is none of cross_entropy"),
        (("XVIT.CONSENSUS_TYPE", "lstm"), "XVIT.CONSENSUS_TYPE: 'lstm' is none of vit, avg"),
        (("TRAIN.DATASET", "charades"), "TRAIN.DATASET: 'charades' is none of kinetics, ssv2"),
        (("SOLVER.BASE_LR", "-1"), "SOLVER.BASE_LR: train.lr must be positive, got -1"),
        (("TRAIN.CHECKPOINT_PERIOD", "0"), "TRAIN.CHECKPOINT_PERIOD: train.released_every must be positive"),
        (("solver.base_lr", "1"), "unknown key solver.base_lr; did you mean SOLVER.BASE_LR?"),
        (("OUTPUT_DIR", "o", "--num_shards", "2"), "--num_shards comes before the keys"),
        (("--num_shards", "0"), "NUM_SHARDS must be at least 1, got 0"),
        (("NUM_GPUS", "-1"), "NUM_GPUS must be at least 0, got -1"),
        (
            ("--num_shards", "2", "--shard_id", "2"),
            "SHARD_ID is 2 of 2 machines (NUM_SHARDS), counted from 0",
        ),
        (("--num_shards", "2", "--init_method", "tcp://host"), "--init_method: must be such as tcp://HOST:9"),
    ],
)
def test_values_that_cannot_be_are_named(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        main(options)


def test_an_empty_value_is_one() -> None:
    """As of a shell's variable that is not set; the options behind it stay what they are."""
    config, _ = translated("TRAIN.CHECKPOINT_FILE_PATH", "", "", "SOLVER.BASE_LR", "0.1")
    assert config.train.init_from is None
    assert config.train.lr == 0.1


def test_a_file_may_have_keys_of_both_kinds_and_the_command_line_comes_last(tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    file.write_text("TRAIN: {AUTO_RESUME: False, BATCH_SIZE: 4}\ntrain: {momentum: 0.5, epochs: 3}\n")
    config, _ = translated("train.resume=auto", "SOLVER.MAX_EPOCH", "7", config=str(file))
    assert config.train.resume == "auto"  # what a stopped run says to add
    assert (config.train.batch_size, config.train.momentum, config.train.epochs) == (4, 0.5, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TRAIN: {BATCH: 3}", "unknown key TRAIN.BATCH; did you mean TRAIN.BATCH_SIZE?"),
        ("TRAIN: {1: 2}", "unknown key TRAIN.1; did you mean TRAIN."),
        ("1: 2", "expected keys such as `model:`"),
        ("XVIT: {USE_XVIT: perhaps}", "XVIT.USE_XVIT: cannot be 'perhaps'"),
    ],
)
def test_what_is_wrong_in_a_file_names_it(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(f"{file}: {message}")):
        main(["--cfg", str(file)])


def test_false_is_false_in_any_case() -> None:
    config, _ = translated("TRAIN.AUTO_RESUME", "false", "XVIT.PRETRAIN=FALSE", "DATA.AUTOAUGMENT", "true")
    assert config.train.resume == "never"
    assert config.model.backbone_weights is None
    assert config.data.augment.auto == "autoaugment"


@pytest.mark.parametrize("case", CASES)
def test_an_upper_case_file_means_our_configuration(case: str, shared: Path, tmp_path: Path) -> None:
    """The configuration that the released code stored in its weight file, against the one that ships here."""
    theirs = yaml.safe_load(
        torch.load(shared / "oracle" / case / "weights.pth", weights_only=True, map_location="cpu")["cfg"]
    )
    theirs["XVIT"] |= {"BASE_MODEL": "vit_base_patch16_224_in21k", "PRETRAIN": True}
    theirs["TEMPORAL_HEAD"]["NUM_ATTENTION_HEADS"] = 12
    file = tmp_path / "theirs.yaml"
    file.write_text(yaml.safe_dump(theirs))
    found, _ = translated(config=str(file))
    ours = load_config(ROOT / "configs" / CASES[case])
    assert found.model == ours.model
    assert found.data.augment.model_dump() == ours.data.augment.model_dump()
    same = ("num_frames", "size", "sampling", "frame_stride", "target_fps", "clip_position", "mean", "std")
    assert [getattr(found.data, name) for name in same] == [getattr(ours.data, name) for name in same]
    assert found.train == ours.train


def test_what_a_released_file_leaves_out_is_what_the_released_code_takes(tmp_path: Path) -> None:
    file = tmp_path / "short.yaml"
    file.write_text("TRAIN: {BATCH_SIZE: 8}\nSOLVER: {BASE_LR: 3e-2}\nDATA: {AUTOAUGMENT: True}\n")
    config, notes = translated("SOLVER.WEIGHT_DECAY", "1e-5", config=str(file))
    train = config.train
    assert (train.optimizer, train.lr, train.momentum, train.weight_decay) == ("sgd", 0.03, 0.9, 1e-5)
    assert (train.batch_size, train.epochs, train.warmup_epochs, train.resume) == (8, 300, 0, "auto")
    assert train.clip_grad_norm is None
    assert (config.model.dropout, config.model.backbone_weights, config.eval.views) == (0.5, "timm", "3x10")
    assert (config.data.augment.auto, config.data.target_fps) == ("autoaugment", 30)
    assert set(RELEASED_DEFAULTS) <= set(KEYS)
    assert notes == []
    file.write_text("TRAIN: {BATCH_SIZE: 8}\nmodel: {}\n")  # some of both: ours stand for the rest
    assert translated(config=str(file))[0].train.optimizer == "adamw"


@pytest.mark.parametrize(
    ("auto", "random", "found"),
    [
        (True, True, "autoaugment"),
        (False, True, "randaugment"),
        (True, False, "autoaugment"),
        (False, False, "none"),
    ],
)
def test_of_two_policies_the_first_is_taken_in_any_order(auto: bool, random: bool, found: str) -> None:
    keys = [f"DATA.AUTOAUGMENT={auto}", f"DATA.RANDAUGMENT={random}"]
    for options in (keys, keys[::-1]):
        assert translated(*options)[0].data.augment.auto == found


def test_one_policy_alone_leaves_a_files_own() -> None:
    ours = str(ROOT / "configs" / CASES["eval_kinetics"])
    assert translated("DATA.RANDAUGMENT", "False", config=ours)[0].data.augment.auto == "autoaugment"
    assert translated("DATA.AUTOAUGMENT", "False", config=ours)[0].data.augment.auto == "none"


def test_a_default_is_not_blamed(tmp_path: Path) -> None:
    file = tmp_path / "short.yaml"
    file.write_text("TRAIN: {BATCH_SIZE: 8}\n")
    with pytest.raises(ConfigError, match=r"^data\.size must be positive"):
        main(["--cfg", str(file), "data.size=-1"])


def test_every_key_of_the_table_leads_somewhere() -> None:
    keys = set(all_keys(Config))
    for key, rule in KEYS.items():
        if key in JOB_DEFAULTS:
            continue
        value = {
            "TRAIN.DATASET": "kinetics",
            "XVIT.LOCATIONS_LIST": [0],
            "XVIT.BASE_MODEL": "vit_base_patch16_224",
            "MODEL.LOSS_FUNC": "cross_entropy",
            "XVIT.CONSENSUS_TYPE": "vit",
            "SOLVER.OPTIMIZING_METHOD": "sgd",
        }.get(key, 1)
        with contextlib.suppress(LookupError):  # a note
            assert set(rule(value, {})) <= keys, key


def run_net(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "run_net.py"), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_published_test_command_gives_the_released_scores(
    case: str, shared: Path, tmp_path: Path
) -> None:
    folder = shared / "oracle" / case
    done = run_net(
        *("--cfg", ROOT / "configs" / CASES[case], "DATA.PATH_TO_DATA_DIR", folder / "data"),
        *("TEST.CHECKPOINT_FILE_PATH", folder / "weights.pth", "TRAIN.ENABLE", "False"),
        *("TEST.NUM_ENSEMBLE_VIEWS", "2", "OUTPUT_DIR", tmp_path, "NUM_GPUS", "8", ""),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "NUM_GPUS is 8, this machine has" in done.stderr
    found, expected = np.load(tmp_path / "scores.npz"), np.load(folder / "scores.npz")
    order = np.argsort(found["video_id"])
    theirs = expected["video_preds"] if "video_preds" in expected else expected["scores"]
    scale = np.abs(theirs).max(axis=1, keepdims=True)
    assert len(order) == len(theirs)
    assert (np.abs(found["scores"] - theirs) / scale).max() < 1e-3
    command = json.loads((tmp_path / "results.json").read_text())["command"]
    assert "tools/run_net.py --cfg" in command
    assert "TEST.NUM_ENSEMBLE_VIEWS 2" in command
    assert (tmp_path / "report.html").stat().st_size > 20_000


@pytest.mark.slow
def test_the_published_training_command_trains(shared: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    source = shared / "oracle" / "eval_kinetics" / "data"
    (data / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (data / split).symlink_to(source / "val")
        (data / "annotations" / f"{split}.txt").write_text((source / "annotations" / "val.txt").read_text())
    done = run_net(
        *("--cfg", ROOT / "configs" / CASES["eval_kinetics"], "DATA.PATH_TO_DATA_DIR", data),
        *(
            "OUTPUT_DIR",
            "out",
            "SOLVER.MAX_EPOCH",
            "1",
            "TRAIN.BATCH_SIZE",
            "2",
            "TRAIN.CHECKPOINT_PERIOD",
            "1",
        ),
        *("XVIT.PRETRAIN", "False", "model.backbone_args={embed_dim: 48, depth: 2, num_heads: 3}"),
        *("TEMPORAL_HEAD.NUM_ATTENTION_HEADS=3", "DATA.TRAIN_CROP_SIZE=64", "DATA.TEST_CROP_SIZE=64"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    file = tmp_path / "out" / "checkpoints" / "checkpoint_epoch_00001.pyth"
    content = torch.load(file, weights_only=True)
    assert set(content) == {"epoch", "model_state", "optimizer_state", "cfg"}
    again = run_net(
        *("--cfg", ROOT / "configs" / CASES["eval_kinetics"], "DATA.PATH_TO_DATA_DIR", data),
        *(
            "TEST.CHECKPOINT_FILE_PATH",
            file,
            "TRAIN.ENABLE",
            "False",
            "OUTPUT_DIR",
            "again",
            "DATA.TEST_CROP_SIZE=64",
        ),
        cwd=tmp_path,
    )
    assert again.returncode == 0, again.stderr
    first, second = (np.load(tmp_path / name / "scores.npz")["scores"] for name in ("out", "again"))
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["step"] == 2
