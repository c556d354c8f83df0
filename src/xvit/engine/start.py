"""What a training starts from: its lists of videos and its model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from xvit.config import Config, load_config, write_yaml
from xvit.config_files import flatten
from xvit.data import Manifest, load_manifest
from xvit.engine.checkpoint import set_aside, set_damaged_aside
from xvit.engine.optim import freeze
from xvit.errors import ConfigError, DatasetError, WeightsError
from xvit.models import XViT, build_model, load_model
from xvit.models.convert import check_released
from xvit.models.transfer import fit_weights

# What a resumed run may have otherwise without a word: it changes no step.
MAY_CHANGE = {"device", "output", "data.num_workers", "eval.batch_size"} | {
    f"train.{name}"
    for name in (
        "max_steps",
        "resume",
        "checkpoint_every",
        "keep_last",
        "released_every",
        "trackers",
        "shard",
    )
}


def make_model(config: Config, train_list: Manifest) -> XViT:
    """The model of `config`, warm-started and frozen as it says."""
    model = build_model(
        config.model,
        num_classes=train_list.num_classes,
        clip=config.data,
        classes=train_list.classes,
        several_labels=train_list.several_labels,
    )
    depth, trained = len(model.backbone.blocks), config.train.trained_blocks
    if trained is not None and trained > depth:
        raise ConfigError(
            f"train.trained_blocks: the model has {depth} blocks, got {trained}; null trains all of it"
        )
    if config.train.init_from is None and config.train.new_head:
        raise ConfigError("train.new_head replaces the classifier of train.init_from, which is not set")
    if config.train.init_from is not None:
        checkpoints = Path(config.output, "checkpoints").resolve()
        if Path(config.train.init_from).resolve().is_relative_to(checkpoints):
            raise ConfigError(
                f"train.init_from: {config.train.init_from} is where this run writes its checkpoints; "
                "choose another output"
            )
        warm_start(model, config.train.init_from, new_head=config.train.new_head)
    if config.train.released_every is not None:
        check_released_layout(model)
    model.set_grad_checkpointing(config.train.grad_checkpointing)
    freeze(model, config.train.trained_blocks)
    return model


def check_released_layout(model: XViT) -> None:
    """Refuse before any training what `train.released_every` could not write. Raises ConfigError."""
    try:
        check_released(model)
    except WeightsError as err:
        raise ConfigError(
            f"train.released_every (TRAIN.CHECKPOINT_PERIOD): {err.reason}; or say train.released_every=null"
        ) from err


def warm_start(model: XViT, path: str, *, new_head: bool) -> None:
    """Take the weights of another of our or the authors' models; with `new_head` all but its classifier.

    See `fit_weights` for what is brought to this model's frames, size and extras. Raises WeightsError listing
    what does not fit.
    """
    try:
        source = fit_weights(load_model(path), model, new_head=new_head)
    except WeightsError as err:
        raise WeightsError(
            path,
            f"{err.reason}; train.init_from takes a run folder, a file of it or the authors' file "
            "(image weights go to model.backbone_weights)",
        ) from err
    own = model.state_dict()
    wrong = sorted(own.keys() ^ source.keys())
    wrong += sorted(n for n in own.keys() & source.keys() if own[n].shape != source[n].shape)
    if wrong:
        rest = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        hint = ""
        if not new_head and any(name.startswith("head.") for name in wrong):
            hint = "; train.new_head=true begins a new classifier, or head where the heads differ"
        named = ", ".join(f"{name} {_shape(source, name)} for {_shape(own, name)}" for name in wrong[:4])
        raise WeightsError(path, f"does not fit the model of this run: {named}{rest}{hint}")
    model.load_state_dict(source)


def _shape(state: Mapping[str, Tensor], name: str) -> str:
    return "x".join(map(str, state[name].shape)) if name in state else "nothing"


def load_lists(config: Config) -> tuple[Manifest, Manifest]:
    """The train and val lists of `data.root`. Raises DatasetError on empty or contradicting ones."""
    if config.data.root is None:
        raise ConfigError("data.root is not set; add data.root=FOLDER, the folder that holds your videos")
    train_list = load_manifest(config.data, "train")
    inside = Path(config.output).resolve().is_relative_to(Path(config.data.root).resolve())
    if train_list.format == "class_folders" and inside:
        raise ConfigError(
            f"output: {config.output} is in data.root, where it would be a class; choose another folder"
        )
    val_list = load_manifest(config.data, "val", classes=train_list.classes)
    for manifest in (train_list, val_list):
        if not manifest.records:
            raise DatasetError(f"{config.data.root}: no videos in the {manifest.split} split")
    if config.train.best_metric == "map" and not train_list.several_labels:
        raise ConfigError(
            "train.best_metric=map is for videos of several labels; here it must be top1 or top5"
        )
    if len(train_list.classes) == 1 and len(train_list.classes[0]) == 1:
        name = train_list.classes[0][0]
        raise DatasetError(
            f"{config.data.root}: only one class, {name!r}: is this the folder above the classes?"
        )
    for task, names in enumerate(train_list.classes):
        columns = slice(task, task + 1) if len(train_list.classes) > 1 else slice(None)
        known = {label for record in train_list.records for label in record.labels[columns]}
        unseen = {label for record in val_list.records for label in record.labels[columns]} - known - {-1}
        if unseen:
            raise DatasetError(
                f"{config.data.root}: the class {names[min(unseen)]!r} is in val but not in train"
            )
    return train_list, val_list


def claim(folder: Path, config: Config, step: int | None) -> None:
    """Make the run's folder, write its config.yaml, and leave the checkpoint of `step`, from which the run
    goes on, as its newest: none where it begins anew. Raises ConfigError where that cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_yaml(config, folder / "config.yaml")
        if step is None:
            set_aside(folder)
        else:
            set_damaged_aside(folder, step)
    except OSError as err:
        raise ConfigError(f"output: cannot write to {folder}: {err.strerror}") from err


def notes_on_resuming(folder: Path, config: Config, resumed: bool) -> list[str]:
    """What somebody who goes on with `folder` may not have meant; its config.yaml is still that of before."""
    changed = changed_settings(folder, config) if resumed else []
    return [f"resumed with another setting: {line}" for line in changed]


def changed_settings(folder: Path, config: Config) -> list[str]:
    """How `config` differs from the run's own, in what changes a step."""
    try:
        before = dict(flatten(load_config(folder / "config.yaml").model_dump(mode="json")))
    except ConfigError:  # of an older version, or gone
        return []
    now = dict(flatten(config.model_dump(mode="json")))
    changed = [key for key in now if before.get(key) != now[key] and key not in MAY_CHANGE]
    return [f"{key} was {before.get(key)}, is {now[key]}" for key in changed]


def of_another(what: str, folder: Path, config: Config) -> WeightsError:
    """The error of a checkpoint in `folder` that `config` cannot go on from, with what differs."""
    changed = "".join(f" ({line})" for line in changed_settings(folder, config)[:3])
    way = "choose another output or train.resume=never"
    return WeightsError(folder, f"its checkpoint is of another {what}{changed}; {way}")
