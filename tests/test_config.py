"""The configuration says what is wrong with it in the user's words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from xvit.config import Config, load_config, parse_views, write_yaml
from xvit.config_errors import all_keys
from xvit.config_keys import list_keys, write_keys
from xvit.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.num_frames=0", "data.num_frames must be positive, got 0"),
        ("train.lr=true", "train.lr: is no switch, got True"),
        ("train.trained_blocks=no", "train.trained_blocks: is no switch, got False"),
        ("model.mixing.window=true", "model.mixing.window: is no switch, got True"),
        ("data.mean=[0.5,0.5,true]", "data.mean: is no switch, got [0.5, 0.5, True]"),
        ("model.tubelet=[2]", "model.tubelet: one frame alone has the weight 1, got [2]"),
        ("seed=-1", "seed must be at least 0, got -1"),
        ("seed=99999999999", "seed must be at most 4294967295, got 99999999999"),
        (
            "model.backbone_args={depth:2}",
            "model.backbone_args: 'depth:2' has no value; in YAML a blank follows the colon, "
            "got {'depth:2': None}",
        ),
        ("train.resume=yes", "train.resume: is no switch but one of auto, never, got True"),
        ("train.trackers=csv", "train.trackers: should be a list in brackets, got 'csv'"),
        ("model.tubelet=[0,0]", "model.tubelet: has no frame in it, got [0, 0]"),
        ("model.tubelet=[.nan,2]", "model.tubelet.0: should be a finite number, got nan"),
        ("train.lr=.inf", "train.lr: should be a finite number, got inf"),
        ("data.num_framse=8", "unknown key data.num_framse; did you mean data.num_frames?"),
        ("num_frames=8", "unknown key num_frames; did you mean data.num_frames?"),
        ("model.mixing.windw=1", "unknown key model.mixing.windw; did you mean model.mixing.window?"),
        ("model.mixing.window=3", "model.mixing.window must be at most 2, got 3"),
        (
            "train.lr=fast",
            "train.lr: should be a valid number, unable to parse string as a number, got 'fast'",
        ),
        ("model.head=avg", "model.head must be 'temporal', 'mean' or 'moments', got 'avg'"),
        ("model=3", "model is a section with keys of its own, got 3"),
        ("output", "an override is written key=value, got 'output'"),
        ("eval.views=3y", "views must be CROPSxCLIPS, such as \"3x2\", got '3y'"),
        ("eval.views=3", "views must be CROPSxCLIPS, such as \"3x2\", got '3'"),
        ("train.learning_rate=1", "unknown key train.learning_rate; did you mean train.lr?"),
        ("output=", "output: is empty, got ''"),
        ("train.init_from=", "train.init_from: is empty, got ''"),
        ("train.wd=1", "unknown key train.wd; did you mean train.weight_decay?"),
    ],
)
def test_wrong_values_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as err:
        load_config(None, [override])
    assert str(err.value) == message


def test_overrides_are_read_as_yaml() -> None:
    config = load_config(
        None, ["train.lr=1e-5", "model.mixing.blocks=[0, 2]", "data.root=/videos, all", "output=a=b"]
    )
    assert config.train.lr == 1e-5
    assert config.model.mixing.blocks == (0, 2)
    assert config.data.root == "/videos, all"
    assert config.output == "a=b"


def test_the_home_folder_is_meant_by_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config(
        None, ["output=~/r", "data.root=~/v", "train.init_from=~/w", "model.backbone_weights=~/b"]
    )
    paths = (config.output, config.data.root, config.train.init_from, config.model.backbone_weights)
    assert paths == tuple(str(tmp_path / name) for name in "rvwb")


def test_a_written_configuration_reads_back(tmp_path: Path) -> None:
    config = load_config(None, ["data.num_frames=4", "model.mixing.group=2"])
    write_yaml(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config


def test_yaml_errors_name_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data:\n  root: [1,\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:\d+: not YAML"):
        load_config(file)
    file.write_text("train:\n  epocs: 3\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: unknown key train\.epocs; did you mean train\.epochs\?"):
        load_config(file, ["seed=1"])
    with pytest.raises(ConfigError, match=r"missing\.yaml: no such configuration file"):
        load_config(tmp_path / "missing.yaml")


def test_a_section_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "train: {epochs: 3}\nmodel: &m {name: a}\ndata: {<<: *m}\ntrain: {lr: 1}\n"
    )
    with pytest.raises(ConfigError, match=r"c\.yaml:4: not YAML: train stands here a second time"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml")), ids=str)
def test_shipped_configurations_are_valid(path: Path) -> None:
    assert isinstance(load_config(path), Config)


def test_views() -> None:
    assert parse_views("3x2") == (3, 2)
    assert parse_views("3×1") == (3, 1)


def test_the_list_of_keys_is_whole_and_can_be_searched() -> None:
    keys = {key.name: key for key in list_keys(Config())}
    sections = {name.rpartition(".")[0] for name in keys}
    assert set(keys) == set(all_keys(Config)) - sections
    assert keys["train.ema_decay"].default == "null"
    assert keys["model.mixing.layout"].choices == ("heads", "channels")
    assert keys["data.num_frames"].meaning == "T."  # said where the section it extends is
    assert keys["train.gate_lr_scale"].meaning == "of the learned gates, over `lr`."
    for key in keys.values():  # a default can be given as it is written
        assert load_config(None, [f"{key.name}={key.default}"]) == Config(), key.name
    assert [key.name for key in list_keys(Config(), "moving average")] == ["train.ema_decay"]
    assert "train.ema_decay=null\n    evaluate and save" in write_keys(list_keys(Config(), "EMA_decay"))


@pytest.mark.parametrize("page", ["training.md", "scaling.md"])
def test_documentation_names_keys_that_exist(page: str) -> None:
    text = (Path(__file__).parents[1] / "docs" / page).read_text()
    named = set(re.findall(r"\b(?:train|model|data|eval)\.[a-z_.]*[a-z]", text))
    named = {name for name in named if not name.endswith((".md", ".py", ".safetensors"))}
    assert len(named) > 5
    assert named <= set(all_keys(Config))
