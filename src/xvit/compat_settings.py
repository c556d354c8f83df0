"""Where the original settings come from: files, the command line, the released code's defaults."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

from xvit.compat import KEYS, Settings, Translated, translate
from xvit.config import Config
from xvit.config_errors import all_keys
from xvit.config_files import flatten, put, read_value, read_yaml
from xvit.errors import ConfigError

# What the released code takes where a configuration is silent; of a backbone it has none that is a ViT.
RELEASED_DEFAULTS: Settings = {
    "DATA.AUTOAUGMENT": False,
    "DATA.COLORAUGMENT": False,
    "DATA.MEAN": (0.45, 0.45, 0.45),
    "DATA.NUM_FRAMES": 8,
    "DATA.RANDAUGMENT": True,
    "DATA.RANDOM_FLIP": True,
    "DATA.RAND_CROP": 0.0,
    "DATA.SAMPLING_RATE": 8,
    "DATA.STD": (0.225, 0.225, 0.225),
    "DATA.TARGET_FPS": 30,
    "DATA.TEST_CROP_SIZE": 256,
    "DATA.TRAIN_CROP_SIZE": 224,
    "DATA.TRAIN_JITTER_SCALES": (256, 320),
    "DATA_LOADER.NUM_WORKERS": 8,
    "MODEL.DROPOUT_RATE": 0.5,
    "MODEL.LOSS_FUNC": "cross_entropy",
    "OUTPUT_DIR": "./tmp",
    "RNG_SEED": 1,
    "SOLVER.BASE_LR": 0.1,
    "SOLVER.CLIP_GRADIENT": -1.0,
    "SOLVER.COSINE_END_LR": 0.0,
    "SOLVER.MAX_EPOCH": 300,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.OPTIMIZING_METHOD": "sgd",
    "SOLVER.WARMUP_EPOCHS": 0.0,
    "SOLVER.WARMUP_START_LR": 0.01,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "TEMPORAL_HEAD.NUM_ATTENTION_HEADS": 12,
    "TEMPORAL_HEAD.NUM_HIDDEN_LAYERS": 1,
    "TEST.BATCH_SIZE": 8,
    "TEST.NUM_ENSEMBLE_VIEWS": 10,
    "TEST.NUM_SPATIAL_CROPS": 3,
    "TRAIN.AUTO_RESUME": True,
    "TRAIN.BATCH_SIZE": 64,
    "TRAIN.CHECKPOINT_PERIOD": 10,
    "TRAIN.DATASET": "kinetics",
    "TRAIN.EVAL_PERIOD": 10,
    "TRAIN.MIXUP_ALPHA": 0.0,
    "XVIT.BACKBONE.DROP_PATH_RATE": 0.0,
    "XVIT.CONSENSUS_TYPE": "vit",
    "XVIT.LOCATIONS_LIST": (9, 10, 11),
    "XVIT.NUM_SEGMENTS": 8,
    "XVIT.PRETRAIN": True,
    "XVIT.SHIFT_DIV": 8,
    "XVIT.USE_XVIT": True,
}
# What it has no key for.
RELEASED_MODEL: Translated = {"model.temporal_length": 8, "model.spatial_resize": "released"}


def read_settings(
    path: str | None, options: Sequence[str]
) -> tuple[dict[str, Any], Settings, dict[str, Any]]:
    """A configuration file, ours or upper-case or some of both, and `KEY VALUE` or `KEY=VALUE` options.

    A file of upper-case keys alone is one of the released code, whose defaults stand for what it leaves out.
    Returns the file's nested values in our keys, the upper-case settings on top of them, and what was given
    in our keys on the command line, which is to come last. Raises ConfigError.
    """
    values = read_yaml(path) if path else {}
    theirs = {key: values.pop(key) for key in list(values) if key.isupper()}
    settings = {key: _value(value) for key, value in flatten(theirs)}
    given: dict[str, Any] = {}
    try:
        translate(settings)
    except ConfigError as err:
        raise ConfigError(f"{path}: {err}") from err
    if theirs and not values:
        settings = RELEASED_DEFAULTS | settings
        nest(values, RELEASED_MODEL)
    pending = iter(options)
    for option in pending:
        if not option.strip():  # a pasted command may have blanks in it, or end in one
            continue
        key, equals, text = option.partition("=")
        if key in ("--cfg", "--shard_id", "--num_shards", "--init_method"):
            raise ConfigError(f"{key} comes before the keys, as in: run_net.py {key} … KEY VALUE")
        if not equals:
            value = next(pending, None)
            if value is None:
                raise ConfigError(f"{key}: a value is missing; write {key} VALUE")
            text = value
        if key.isupper():
            settings[key] = _value(text)
        elif key.upper() in KEYS and key not in all_keys(Config):
            raise ConfigError(f"unknown key {key}; did you mean {key.upper()}?")
        else:
            given[key] = read_value(text)
    return values, settings, given


def name_key(problem: str, settings: Settings) -> str:
    """A problem with our configuration, with the upper-case key in front that it comes from."""
    for key, value in settings.items():
        if key in RELEASED_DEFAULTS and value == RELEASED_DEFAULTS[key]:
            continue
        for ours in translate({key: value})[0]:
            if re.match(rf"{re.escape(ours)}[ :.]", problem):
                return f"{key}: {problem}"
    return problem


def _value(value: Any) -> Any:
    """As yacs reads it: text that is a Python literal is that literal, so 1e-5 is a number.

    And false is False: a word would be as good as true.
    """
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(value.lower(), value)


def nest(values: dict[str, Any], ours: Translated) -> None:
    """Put dotted keys into nested sections."""
    for key, value in ours.items():
        put(values, key, value)
