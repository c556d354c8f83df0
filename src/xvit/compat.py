"""The original configuration: upper-case keys, in YAML files and on the command line, in today's terms.

KEYS is the whole translation. A key that no longer means anything gets one note, an unknown one an error.
How settings are read is in compat_settings.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from xvit.errors import ConfigError

Settings = dict[str, Any]  # "TRAIN.BATCH_SIZE" -> value
Translated = dict[str, Any]  # "train.batch_size" -> value
Rule = Callable[[Any, Settings], Translated]

LARGE, SMALL = 24, 12  # depths of the backbones by name, for lists of blocks longer than they are
SMOOTHING = 0.3  # what the released smooth_cross_entropy has built in


def to(key: str, convert: Callable[[Any], Any] = lambda value: value) -> Rule:
    """The same thing under another name."""
    return lambda value, settings: {key: convert(value)}


def when(key: str, true: Any, false: Any) -> Rule:
    """A switch that is a value here."""

    def rule(value: Any, settings: Settings) -> Translated:
        if value not in (True, False):  # "no" would be as good as yes
            raise ValueError
        return {key: true if value else false}

    return rule


def word(key: str, **meanings: Any) -> Rule:
    """A word of a few."""

    def rule(value: Any, settings: Settings) -> Translated:
        return {key: meanings[_one_of(value, meanings)]}

    return rule


def _one_of(value: Any, words: Iterable[str]) -> str:
    name = str(value).lower()
    if name not in words:
        raise ConfigError(f"{value!r} is none of {', '.join(words)}")
    return name


def note(why: str) -> Rule:
    """A key without a meaning here; said once, where it is given."""

    def rule(value: Any, settings: Settings) -> Translated:
        raise LookupError(why)

    return rule


def _dataset(value: Any, settings: Settings) -> Translated:
    if _one_of(value, ("kinetics", "ssv2")) == "kinetics":
        crop = "multi_scale" if settings.get("DATA.USE_XVIT_AGUMENTATION", True) else "jitter"
        return {"data.sampling": "dense", "data.augment.crop": crop, "data.clip_position": "released"}
    fixed = {"data.frame_stride": 1, "data.target_fps": None, "data.clip_position": "released"}
    return {"data.sampling": "segment", "data.augment.crop": "jitter", **fixed}


def _auto(value: Any, settings: Settings) -> Translated:
    if value not in (True, False):
        raise ValueError
    if value:
        return {"data.augment.auto": "autoaugment"}
    return {} if settings.get("DATA.RANDAUGMENT", False) else {"data.augment.auto": "none"}


def _randaugment(value: Any, settings: Settings) -> Translated:
    if value not in (True, False):
        raise ValueError
    if not value or settings.get("DATA.AUTOAUGMENT", False):  # of both, that one
        return {}
    # NOTE(parity): twice timm's largest magnitude; torchvision's ends at 30.
    return {"data.augment.auto": "randaugment", "data.augment.randaugment_magnitude": 30}


def _blocks(value: Any, settings: Settings) -> Translated:
    # NOTE(parity): the released configurations list blocks 0 to 14 of 12; those that exist mix.
    depth = LARGE if "large" in str(settings.get("XVIT.BASE_MODEL", "")) else SMALL
    blocks = [i for i in value if i < depth]
    return {"model.mixing.blocks": "all" if len(blocks) == depth else blocks}


def _base_model(value: Any, settings: Settings) -> Translated:
    # The name the released code used now means other weights in timm; ours mean the authors'.
    name = str(value).removesuffix("_in21k")
    ours = name.replace("vit_", "xvit_", 1).removesuffix("_224")
    return {"model.name": ours if str(value).endswith("_in21k") else name}


def _group(value: Any, settings: Settings) -> Translated:
    whole = value == settings.get("DATA.NUM_FRAMES", 8)
    return {"model.mixing.group": None if whole else value}


def _views(value: Any, settings: Settings) -> Translated:
    crops, clips = settings.get("TEST.NUM_SPATIAL_CROPS", 3), settings.get("TEST.NUM_ENSEMBLE_VIEWS", 10)
    return {"eval.views": f"{crops}x{clips}"}


def _batch_size(value: Any, settings: Settings) -> Translated:
    # NOTE(parity): the released code counts the batch of one machine.
    return {"train.batch_size": value * settings.get("NUM_SHARDS", 1)}


def _learning_rate(value: Any, settings: Settings) -> Translated:
    scaled = settings.get("SOLVER.BASE_LR_SCALE_NUM_SHARDS", False)
    return {"train.lr": value * settings.get("NUM_SHARDS", 1) if scaled else value}


_BN = note("there is no batch norm in an XViT")
_SHAPE = note("read from the weight file or the backbone")
_DECODER = note("videos are decoded by PyAV in loader workers")
_STEPS = note("the learning rate follows the cosine")
_JOB = note("")  # what JOB_DEFAULTS lists; the command reads them

KEYS: dict[str, Rule] = {
    "BN": _BN,
    "BENCHMARK": note("see benchmarks/"),
    "DATA.AUTOAUGMENT": _auto,
    "DATA.COLORAUGMENT": when("data.augment.color_jitter", 0.4, 0.0),
    "DATA.DECODING_BACKEND": _DECODER,
    "DATA.ENSEMBLE_METHOD": note("scores of views are added up"),
    "DATA.INPUT_CHANNEL_NUM": note("frames have three channels"),
    "DATA.INV_UNIFORM_SAMPLE": note("scales are drawn uniformly"),
    "DATA.MEAN": to("data.mean"),
    "DATA.MULTI_LABEL": note("tasks and labels are counted from the data"),
    "DATA.NUM_FRAMES": to("data.num_frames"),
    "DATA.PATH_LABEL_SEPARATOR": note("comma, space and tab are recognised"),
    "DATA.PATH_PREFIX": note("paths in lists start at data.root"),
    "DATA.PATH_TO_DATA_DIR": to("data.root", str),
    "DATA.RANDAUGMENT": _randaugment,
    "DATA.RANDOM_FLIP": when("data.augment.flip_prob", 0.5, 0.0),
    "DATA.RAND_CROP": to("data.augment.erase_prob"),
    "DATA.REVERSE_INPUT_CHANNEL": note("frames are RGB"),
    "DATA.SAMPLING_RATE": to("data.frame_stride"),
    "DATA.STD": to("data.std"),
    "DATA.TARGET_FPS": to("data.target_fps"),
    "DATA.TEST_CROP_SIZE": _JOB,
    "DATA.TRAIN_CROP_SIZE": to("data.size"),
    "DATA.TRAIN_JITTER_SCALES": to("data.augment.jitter_sides"),
    "DATA.USE_XVIT_AGUMENTATION": note("follows TRAIN.DATASET"),
    "DATA_LOADER.ENABLE_MULTI_THREAD_DECODE": _DECODER,
    "DATA_LOADER.NUM_WORKERS": to("data.num_workers"),
    "DATA_LOADER.PIN_MEMORY": note("done where there is a GPU"),
    "DIST_BACKEND": note("Accelerate chooses it"),
    "LOG_MODEL_INFO": note("a run begins with it"),
    "LOG_PERIOD": note("log.jsonl has every step"),
    "MODEL.ARCH": note("everything here is an XViT"),
    "MODEL.DROPOUT_RATE": to("model.dropout"),
    "MODEL.FC_INIT_STD": note("as timm initialises linear layers"),
    "MODEL.HEAD_ACT": note("logits; see eval.combine"),
    "MODEL.LOSS_FUNC": word(
        "train.label_smoothing", cross_entropy=0.0, soft_cross_entropy=0.0, smooth_cross_entropy=SMOOTHING
    ),
    "MODEL.MODEL_NAME": note("everything here is an XViT"),
    "MODEL.MULTI_PATHWAY_ARCH": note("an XViT has one stream of frames"),
    "MODEL.NUM_CLASSES": note("classes are counted in the data"),
    "MODEL.SINGLE_PATHWAY_ARCH": note("an XViT has one stream of frames"),
    "NUM_GPUS": _JOB,
    "NUM_SHARDS": _JOB,
    "OUTPUT_DIR": to("output", str),
    "RNG_SEED": to("seed"),
    "SHARD_ID": _JOB,
    "SLOWFAST": note("an XViT has one stream of frames"),
    "SOLVER.BASE_LR": _learning_rate,
    "SOLVER.BASE_LR_SCALE_NUM_SHARDS": lambda value, settings: {},  # see _learning_rate
    "SOLVER.CLIP_GRADIENT": to("train.clip_grad_norm", lambda norm: norm if norm > 0 else None),
    "SOLVER.COSINE_END_LR": to("train.end_lr"),
    "SOLVER.DAMPENING": note("SGD without dampening"),
    "SOLVER.FREEZE_BACKBONE": when("train.trained_blocks", 0, None),
    "SOLVER.GAMMA": _STEPS,
    "SOLVER.LRS": _STEPS,
    "SOLVER.LR_POLICY": _STEPS,
    "SOLVER.MAX_EPOCH": to("train.epochs"),
    "SOLVER.MOMENTUM": to("train.momentum"),
    "SOLVER.NESTEROV": note("SGD with momentum is Nesterov's"),
    "SOLVER.OPTIMIZING_METHOD": word("train.optimizer", sgd="sgd", adam="adamw", adamw="adamw"),
    "SOLVER.STEPS": _STEPS,
    "SOLVER.STEP_SIZE": _STEPS,
    "SOLVER.WARMUP_EPOCHS": to("train.warmup_epochs"),
    "SOLVER.WARMUP_FACTOR": note("see SOLVER.WARMUP_START_LR"),
    "SOLVER.WARMUP_START_LR": to("train.warmup_start_lr"),
    "SOLVER.WEIGHT_DECAY": to("train.weight_decay"),
    "TEMPORAL_HEAD.ATTENTION_PROBS_DROPOUT_PROB": note("the head's attention has no dropout"),
    "TEMPORAL_HEAD.HIDDEN_DIM": _SHAPE,
    "TEMPORAL_HEAD.HIDDEN_DROPOUT_PROB": note("see MODEL.DROPOUT_RATE"),
    "TEMPORAL_HEAD.MLP_DIM": _SHAPE,
    "TEMPORAL_HEAD.NUM_ATTENTION_HEADS": to("model.head_num_heads"),
    "TEMPORAL_HEAD.NUM_HIDDEN_LAYERS": to("model.head_depth"),
    "TENSORBOARD": note("log.jsonl and curves.png; or train.trackers=[tensorboard]"),
    "TEST.BATCH_SIZE": to("eval.batch_size"),
    "TEST.CHECKPOINT_FILE_PATH": _JOB,
    "TEST.CHECKPOINT_TYPE": note("recognised from the file"),
    "TEST.DATASET": note("follows TRAIN.DATASET"),
    "TEST.ENABLE": _JOB,
    "TEST.NUM_ENSEMBLE_VIEWS": _views,
    "TEST.NUM_SPATIAL_CROPS": _views,
    "TEST.SAVE_RESULTS_PATH": note("scores.npz in the output folder"),
    "TRAIN.AUTO_RESUME": when("train.resume", "auto", "never"),
    "TRAIN.BATCH_SIZE": _batch_size,
    "TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN": note("names are translated by a table"),
    "TRAIN.CHECKPOINT_EPOCH_RESET": note("a warm start begins at epoch 0"),
    "TRAIN.CHECKPOINT_FILE_PATH": to("train.init_from", lambda path: path or None),
    "TRAIN.CHECKPOINT_INFLATE": note("there is nothing to inflate"),
    "TRAIN.CHECKPOINT_PERIOD": to("train.released_every"),
    "TRAIN.CHECKPOINT_TYPE": note("recognised from the file"),
    "TRAIN.DATASET": _dataset,
    "TRAIN.ENABLE": _JOB,
    "TRAIN.EVAL_PERIOD": to("train.eval_every"),
    "TRAIN.MIXUP_ALPHA": to("train.mixup_alpha"),
    "XVIT.BACKBONE.DROP_ATTN_RATE": note("say model.backbone_args={attn_drop_rate: …}"),
    "XVIT.BACKBONE.DROP_PATH_RATE": to("model.drop_path"),
    "XVIT.BACKBONE.NORM_LAYER": note("layer norm, as the weights need"),
    "XVIT.BASE_MODEL": _base_model,
    "XVIT.BEFORE_SOFTMAX": note("the loss takes logits"),
    "XVIT.CONSENSUS_TYPE": word("model.head", vit="temporal", avg="mean"),
    "XVIT.LOCATIONS_LIST": _blocks,
    "XVIT.NUM_SEGMENTS": _group,
    "XVIT.PRETRAIN": when("model.backbone_weights", "timm", None),
    "XVIT.SHIFT_DIV": to("model.mixing.fraction", lambda divisor: 2 / divisor),
    "XVIT.USE_XVIT": when("model.attention", "mixing", "spatial"),
}
JOB_DEFAULTS: Settings = {
    "DATA.TEST_CROP_SIZE": None,
    "NUM_GPUS": 1,
    "NUM_SHARDS": 1,
    "SHARD_ID": 0,
    "TEST.CHECKPOINT_FILE_PATH": "",
    "TEST.ENABLE": True,
    "TRAIN.ENABLE": True,
}


def translate(settings: Mapping[str, Any]) -> tuple[Translated, list[str]]:
    """Our keys and values for upper-case ones, and the notes. Raises ConfigError on an unknown key."""
    ours: Translated = {}
    notes = []
    for key, value in settings.items():
        rule = KEYS.get(key) or KEYS.get(key.split(".")[0])
        if rule is None:
            near = difflib.get_close_matches(key.upper(), KEYS, n=1, cutoff=0.0)
            raise ConfigError(f"unknown key {key}; did you mean {near[0]}?")
        try:
            ours |= rule(value, dict(settings))
        except LookupError as why:
            if str(why.args[0]):
                notes.append(f"{key}: {why.args[0]}")
        except ConfigError as err:
            raise ConfigError(f"{key}: {err}") from err
        except (TypeError, ValueError, ArithmeticError) as err:
            raise ConfigError(f"{key}: cannot be {value!r}") from err
    return ours, notes
