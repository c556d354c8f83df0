"""The whole configuration: frozen models, YAML files, dotted `key=value` overrides.

Every key of a YAML file or an override is a field below; nothing else is accepted. Values are checked once,
here, after all overrides are in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from xvit.config_errors import explain
from xvit.config_files import put, read_value, read_yaml
from xvit.config_values import NonNegative, PathText, Positive, Section, Seed, Share, no_switch
from xvit.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def parse_views(views: str) -> tuple[int, int]:
    """`"3x2"` -> (num_crops, num_clips) = (3, 2). Raises ConfigError."""
    try:
        crops, clips = (int(n) for n in views.lower().replace("×", "x").split("x"))
    except ValueError:
        crops = clips = 0
    if crops < 1 or clips < 1:
        raise ConfigError(f'views must be CROPSxCLIPS, such as "3x2", got {views!r}')
    return crops, clips


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Mixing:
    """Which channels of which tensors come from which neighbouring frames (paper, Eq. 8 and 9).

    window:   t_w, the reach in frames to either side; 0 is spatial-only attention.
    fraction: ρ, the share of channels taken from neighbours, half from later frames and half from earlier.
    layout:   "heads" counts channels over the concatenated heads, so whole heads move (the released code and
              weights); "channels" takes the share from every head (Eq. 9).
    mixed:    what is mixed: any of "input", "query", "key", "value".
    group:    frames mix only within consecutive groups of this many; None is the whole clip. T must be a
              multiple of it.
    blocks:   the blocks that mix, or their numbers from 0.
    causal:   take channels from earlier frames only.
    gate:     "fixed" moves the channels (the paper); "learned" adds g ⊙ (mixed − own) with g initially 0.
    """

    window: Annotated[int, Field(ge=0, le=2)] = 1
    fraction: Share = 0.5
    layout: Literal["heads", "channels"] = "heads"
    mixed: tuple[Literal["input", "query", "key", "value"], ...] = ("key", "value")
    group: Positive | None = None
    blocks: Literal["all", "first_half", "second_half", "every_other"] | tuple[int, ...] = "all"
    causal: bool = False
    gate: Literal["fixed", "learned"] = "fixed"

    _check_switches = field_validator("window", "fraction", "group", "blocks", mode="before")(no_switch)


class ModelConfig(Section):
    """What is built; the number of classes comes from the data, frames and size from `data`.

    name:               one of xvit.list_models() or any timm ViT.
    backbone_args:      overrides for timm.create_model (depth, embed_dim, num_heads, patch_size, …).
    backbone_weights:   a file of image weights, "timm" for those of the name, None for random ones.
    attention:          "mixing" is XViT; the others are the schemes it is compared with.
    temporal_embedding: rows 0, 1, … of a learned table: "tile" repeats them past its length (released code),
                        "interpolate" stretches them, "none" adds nothing.
    temporal_length:    rows of that table; None is the number of frames (of images, with a `tubelet`).
    spatial_resize:     how spatial positions are fitted to other sizes: "timm", or "released" (no antialias).
    tubelet:            weights of consecutive frames whose sum is one image for the patch embedding: [-1, 2]
                        is a frame with its change since the one before. T frames cost as much as T/2 then.
    feature_blocks:     a frame's feature is its class token (or timm's pooling) after each of so many last
                        blocks, side by side, as Oquab et al. ("DINOv2", 2023) read an image model.
    head:               "temporal" is a transformer over frame features, "mean" their mean, "moments" their
                        mean and how they change over the clip, in `head_moments` cosines: for small sets.
    head_positions:     learned temporal positions at the temporal head's input.
    head_init:          "timm", or "mean": the head starts exactly as the mean of the frame features.
    adapters:           width of a small bottleneck after every block, which begins as nothing and trains even
                        where the image model is frozen (train.trained_blocks=0).
    """

    name: str = "xvit_base_patch16"
    backbone_args: dict[str, Any] = Field(default_factory=dict)
    backbone_weights: PathText | None = None
    attention: Literal["mixing", "spatial", "divided", "joint"] = "mixing"
    mixing: Mixing = Mixing()
    summary_token: bool = False
    temporal_embedding: Literal["tile", "interpolate", "none"] = "tile"
    temporal_length: Positive | None = None
    spatial_resize: Literal["timm", "released"] = "timm"
    tubelet: Annotated[tuple[float, ...], Field(min_length=1)] = (1.0,)
    feature_blocks: Positive = 1
    head: Literal["temporal", "mean", "moments"] = "temporal"
    head_moments: Positive = 3
    head_depth: Annotated[int, Field(ge=1, le=3)] = 1
    head_num_heads: Positive | None = None
    head_positions: bool = False
    head_init: Literal["timm", "mean"] = "timm"
    dropout: Share = 0.0
    drop_path: Share = 0.0
    adapters: Positive | None = None

    @field_validator("backbone_args")
    @classmethod
    def _check_backbone_args(cls, values: dict[str, Any]) -> dict[str, Any]:
        for key, value in values.items():
            if value is None:  # timm would leave it out without a word
                way = "in YAML a blank follows the colon" if ":" in key else "leave it out"
                raise ValueError(f"{key!r} has no value; {way}")
        return values

    @field_validator("tubelet")
    @classmethod
    def _check_tubelet(cls, tubelet: tuple[float, ...]) -> tuple[float, ...]:
        if len(tubelet) == 1 and tubelet != (1.0,):
            raise ValueError("one frame alone has the weight 1")
        if not any(tubelet):
            raise ValueError("has no frame in it")
        return tubelet


class ClipConfig(Section):
    """How a video becomes the model's input; travels with the weights.

    num_frames:   T.
    size:         side of the square crop in pixels.
    sampling:     "segment" takes one frame of each of T equal parts of the video; "dense" takes frames
                  `frame_stride` apart.
    frame_stride: in frames of a video at `target_fps`, or of the video's own rate where that is None.
    clip_position: where test clips lie: "spread" centres one clip and spreads several to both ends;
                  "released" places them as the authors' code does.
    """

    num_frames: Positive = 8
    size: Positive = 224
    sampling: Literal["segment", "dense"] = "segment"
    frame_stride: Positive = 1
    target_fps: Annotated[float, Field(gt=0)] | None = None
    clip_position: Literal["spread", "released"] = "spread"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


class AugmentConfig(Section):
    """What training does to a clip; one draw serves all its frames.

    crop:        "random_resized" (scale and ratio ranges), "multi_scale" (the released Kinetics recipe),
                 "jitter" (random short side, then a random crop: the released SSv2 recipe), "none".
    auto:        "autoaugment" (policy v0), "randaugment", or "none".
    flip_prob:   horizontal flip; `flip_labels` names the classes that swap with it.
    erase_prob:  one box a clip, filled with zeros after normalising.
    """

    crop: Literal["random_resized", "multi_scale", "jitter", "none"] = "random_resized"
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    jitter_sides: tuple[Positive, Positive] = (256, 320)
    auto: Literal["none", "autoaugment", "randaugment"] = "none"
    randaugment_ops: Positive = 2
    randaugment_magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    color_jitter: NonNegative = 0.0
    flip_prob: Share = 0.5
    flip_labels: dict[str, str] = Field(default_factory=dict)
    erase_prob: Share = 0.0


class DataConfig(ClipConfig):
    """Where the videos are and how they are read; the fields of ClipConfig are keys here too.

    format:       the layout of `root`; "auto" recognises it (docs/data.md lists them).
    fold:         which of the published splits of UCF101 and HMDB51.
    val_fraction: what a single folder of classes holds out, the same videos for every `seed`.
    on_error:     "skip" leaves unreadable videos out, counted and named.
    """

    root: PathText | None = None
    format: str = "auto"
    fold: Annotated[int, Field(ge=1, le=3)] = 1
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    num_workers: Annotated[int, Field(ge=0)] = 2
    on_error: Literal["raise", "skip"] = "raise"
    augment: AugmentConfig = AugmentConfig()


class TrainConfig(Section):
    """The optimisation.

    batch_size:       the global batch, over all processes and accumulated passes.
    max_steps:        ends the run early; the schedule stays that of `epochs`.
    lr_batch:         where set, all rates are for a batch of this many clips and grow with the real batch.
    momentum:         of SGD; AdamW's first beta.
    layer_decay:      each block's learning rate over that of the block above it.
    new_lr_scale:     the learning rate of what an image model lacks (head, temporal embedding, adapters), and
    gate_lr_scale:    of the learned gates, over `lr`.
    head_first:       before the first step, fit the head alone to the image model's features of this many
                      draws of every clip; the fine-tuning then starts from a head that knows something.
    trained_blocks:   the image model's last blocks that train, 0 for the head alone; None trains all.
    init_from:        a run folder or weight file to start from, of any number of frames and size;
                      `new_head` begins its classifier anew (the whole head where it is of another kind).
    mixup_alpha:      join clips in pairs, by weight; `cutmix_alpha` by a box of the other's; 0 does not.
    clip_grad_norm:   the most that all gradients together may measure; None does not clip.
    accumulate:       passes a step, where the batch does not fit into memory.
    grad_checkpointing: keep less for the backward pass and compute it again.
    ema_decay:        evaluate and save an exponential moving average of the weights.
    class_balanced:   for each clip draw a class (of the first task), all alike, then one of its videos.
    patience:         stop after this many validations without a better `best_metric`.
    max_nonfinite:    steps with a non-finite loss that are skipped before the run stops.
    checkpoint_every: in steps; None is once an epoch. `keep_last` checkpoints stay.
    released_every:   in epochs: also write `checkpoint_epoch_00012.pyth`, as the released code does (for
                      models that it could build).
    resume:           "auto" goes on from the newest intact checkpoint of `output`, "never" begins anew.
    trackers:         "csv", or Accelerate's, such as "tensorboard" or "wandb"; log.jsonl is written always.
    shard:            "fsdp" leaves each process its part of weights, gradients and optimiser state.
    """

    epochs: Positive = 30
    max_steps: Positive | None = None
    batch_size: Positive = 16
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: NonNegative = 0.05
    lr_batch: Positive | None = None
    momentum: Share = 0.9
    warmup_epochs: NonNegative = 1.0
    warmup_start_lr: NonNegative = 0.0
    end_lr: NonNegative = 0.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    new_lr_scale: Annotated[float, Field(gt=0)] = 1.0
    gate_lr_scale: Annotated[float, Field(gt=0)] = 1.0
    head_first: Annotated[int, Field(ge=0)] = 0
    trained_blocks: Annotated[int, Field(ge=0)] | None = None
    init_from: PathText | None = None
    new_head: bool = False
    label_smoothing: Share = 0.0
    mixup_alpha: NonNegative = 0.0
    cutmix_alpha: NonNegative = 0.0
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    accumulate: Positive = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    grad_checkpointing: bool = False
    compile: bool = False
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    class_balanced: bool = False
    patience: Positive | None = None
    max_nonfinite: Annotated[int, Field(ge=0)] = 0
    eval_every: Positive = 1
    checkpoint_every: Positive | None = None
    keep_last: Positive = 2
    released_every: Positive | None = None
    best_metric: Literal["top1", "top5", "map"] = "top1"
    resume: Literal["auto", "never"] = "never"
    trackers: tuple[str, ...] = ()
    shard: Literal["none", "fsdp"] = "none"


class EvalConfig(Section):
    """How videos are scored: `views` is crops×clips, as the published tables write it."""

    views: str = "1x1"
    batch_size: Positive = 16
    combine: Literal["probabilities", "logits"] = "probabilities"

    @field_validator("views", mode="before")
    @classmethod
    def _as_written(cls, views: Any) -> str:
        return str(views)  # YAML reads a lone 3 as a number

    @model_validator(mode="after")
    def _check_views(self) -> EvalConfig:
        parse_views(self.views)
        return self


class Config(Section):
    """Everything a run depends on."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    output: PathText = "runs/xvit"
    seed: Seed = 0
    device: str = "auto"


def load_config(path: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file (or the defaults), apply `key=value` overrides, validate the result.

    `path` is a file, or the name of one that ships with the package ("configs/demo/small.yaml",
    "demo/small"). Raises ConfigError naming the file or the key.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = read_yaml(path)
        try:
            make_config(values)
        except ConfigError as err:
            raise ConfigError(f"{path}: {err}") from err
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"an override is written key=value, got {item!r}")
        put(values, key, read_value(text))
    return make_config(values)


def make_config(values: Mapping[str, Any]) -> Config:
    """A validated Config from nested mappings. Raises ConfigError naming the first wrong key."""
    try:
        return Config.model_validate(values)
    except ValidationError as err:
        raise ConfigError(explain(err, Config)) from err


def write_yaml(config: Config, path: str | Path) -> None:
    """Write a configuration so that `load_config(path)` gives it back."""
    Path(path).write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf8")
