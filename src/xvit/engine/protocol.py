"""The evaluation of a trained model over a split, from folder to files: what `xvit eval` does."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from xvit import __version__
from xvit.config import ClipConfig, Config, load_config, parse_views
from xvit.data import Manifest, VideoDataset, load_manifest, make_loader
from xvit.data.manifest import only_numbers
from xvit.engine.evaluate import evaluate, view_order
from xvit.engine.journal import Journal
from xvit.engine.processes import meet
from xvit.engine.results import group_numbers, read_groups, results
from xvit.engine.runlog import ProgressLine
from xvit.engine.scores import Evaluation, write_predictions, write_scores
from xvit.engine.submission import write_submission
from xvit.errors import ConfigError, XViTWarning
from xvit.exported import ExportedModel, is_exported, load_exported
from xvit.models import XViT, load_model
from xvit.models.published import FILES, pull
from xvit.types import Batch


@dataclasses.dataclass(frozen=True)
class EvaluatedRun:
    """An evaluation with where it came from. `found` is what `results.json` holds."""

    evaluation: Evaluation
    found: dict[str, Any]
    folder: Path
    manifest: Manifest
    clip: ClipConfig


def evaluate_run(
    model: str | Path,
    *,
    data: str | None = None,
    views: str | None = None,
    split: str = "val",
    overrides: Sequence[str] = (),
    output: Path | None = None,
    stop_margin: float | None = None,
    top_k: Sequence[int] = (1, 5),
    groups: Path | None = None,
    command: str = "",
    quiet: bool = False,
) -> EvaluatedRun:
    """Score a split and write `scores.npz`, `predictions.csv` and `results.json`.

    `model` is a run folder, a weight file or a published name, `data` a folder of videos (default: the run's
    own), `views` crops×clips (default: the configuration's), `groups` a csv of recordings (`read_groups`).
    Files go to `output` (default: `eval` inside the run, beside the file, or in runs/NAME). A list without
    labels also gives a submission (`write_submission`). Interrupted, the same call goes on with what is not
    finished. Processes that torchrun started each score a part of the videos, and the first writes.
    """
    path = pull(str(model)) if str(model) in FILES else Path(model)
    network = load_exported(path) if is_exported(path) else load_model(path)
    config = load_config(path / "config.yaml" if (path / "config.yaml").is_file() else None, overrides)
    config = _settled(config, network, data, views, overrides)
    if config.data.root is None:
        raise ConfigError(f"{path} does not say where the videos are; add --data FOLDER")
    clip = _clip(network, config, overrides)
    classes = network.classes or _numbers(network)
    manifest = load_manifest(config.data, split, classes=classes)
    _tell_of_few_classes(manifest, classes)
    home = Path("runs", str(model)) if str(model) in FILES else path if path.is_dir() else path.parent
    folder = make_folder(output or home / "eval")
    recordings = read_groups(groups) if groups is not None else None
    group_numbers([record.video_id for record in manifest.records], recordings)  # refused before the work
    about = _about(config, manifest, clip, path, stop_margin)
    together = meet(config.device)
    rank, processes = (together.process_index, together.num_processes) if together else (0, 1)
    part = "" if processes == 1 else f".{rank}"
    journal = Journal(
        folder / f"unfinished{part}.bin", {**about, "torch": version("torch"), "processes": processes}
    )
    evaluation = _score(network, manifest, config, clip, journal, stop_margin, quiet, together)
    evaluation = dataclasses.replace(
        evaluation, seconds=evaluation.seconds + journal.seconds, not_on_disk=manifest.missing
    )
    found = {**results(evaluation, top_k=top_k, groups=recordings), **about, **_circumstances(command)}
    if rank == 0:
        write_evaluation(evaluation, found, folder)
    journal.close()
    if together is not None:
        together.wait_for_everyone()
    return EvaluatedRun(evaluation, found, folder, manifest, clip)


def _about(
    config: Config, manifest: Manifest, clip: ClipConfig, path: Path, stop_margin: float | None
) -> dict[str, Any]:
    """What decides the scores: the list, the weights, how videos become views and views scores."""
    return {
        "list": {
            "root": config.data.root,
            "split": manifest.split,
            "format": manifest.format,
            "sha256": manifest.digest,
        },
        "weights": {
            "path": str(path),
            "sha256": sha256(path / "model.safetensors" if path.is_dir() else path),
        },
        "config": {
            "eval": config.eval.model_dump(mode="json"),
            "clip": clip.model_dump(mode="json"),
            "stop_margin": stop_margin,
        },
    }


def make_folder(path: Path) -> Path:
    """The folder to write, made where it is not there. Raises ConfigError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ConfigError(f"{path}: no folder can be made there ({err.strerror}); name another") from err
    return path


def write_evaluation(evaluation: Evaluation, found: dict[str, Any], folder: Path) -> None:
    """Write `scores.npz`, `predictions.csv`, `results.json`, and without labels a submission."""
    write_scores(evaluation, folder / "scores.npz")
    write_predictions(evaluation, folder / "predictions.csv")
    if not evaluation.labels.shape[1]:
        write_submission(evaluation, folder)
    write_results(found, folder / "results.json")


def write_results(found: dict[str, Any], path: Path) -> None:
    """Write results as JSON; what is not a number is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    path.write_text(json.dumps(plain(found), indent=1, ensure_ascii=False) + "\n", encoding="utf8")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _score(
    network: XViT | ExportedModel,
    manifest: Manifest,
    config: Config,
    clip: ClipConfig,
    journal: Journal,
    stop_margin: float | None,
    quiet: bool,
    together: Accelerator | None,
) -> Evaluation:
    rank, processes = (together.process_index, together.num_processes) if together else (0, 1)
    crops, clips = parse_views(config.eval.views)
    finished = {int(row) for part in journal.finished for row in part.rows}
    own = range(rank, len(manifest.records), processes)
    rows = np.array([row for row in own if row not in finished], np.int64)
    rest = dataclasses.replace(manifest, records=[manifest.records[row] for row in rows.tolist()])
    dataset = VideoDataset(rest, clip, views=(crops, clips), on_error=config.data.on_error)
    videos = max(1, config.eval.batch_size // (crops * clips))
    loader = make_loader(dataset, batch_size=videos, shuffle=False, num_workers=config.data.num_workers)
    _place(network, config.device, together)
    with ProgressLine("eval", len(own), quiet=quiet or rank > 0) as bar:
        if finished:
            bar.advance(len(finished))
        return evaluate(
            network,
            _renumbered(loader, rows) if len(rows) else (),
            manifest=manifest,
            combine=config.eval.combine,
            clips_per_pass=config.eval.batch_size,
            view_order=view_order(crops, clips),
            stop_margin=stop_margin,
            accelerator=together,
            earlier=journal.finished,
            on_scored=journal.add,
            on_progress=bar.advance,
        )


def _place(network: XViT | ExportedModel, device: str, together: Accelerator | None) -> None:
    """Onto the device that a configuration names; the run may have been trained on one that is not here."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        network.to(together.device if together else device)
    except (RuntimeError, AssertionError) as err:
        reason = str(err).splitlines()[0]
        raise ConfigError(f"device: cannot use {device!r} here ({reason}); say device=auto") from err


def _settled(
    config: Config,
    network: XViT | ExportedModel,
    data: str | None,
    views: str | None,
    overrides: Sequence[str],
) -> Config:
    """The configuration with the command's own options, and the released files' way of adding up views."""
    changes = config.eval.model_dump()
    if views is not None:
        parse_views(views)
        changes["views"] = views
    chosen = any(item.startswith("eval.combine=") for item in overrides)
    if network.clip.clip_position == "released" and not chosen:
        # NOTE(parity): the released code adds up raw logits over views.
        changes["combine"] = "logits"
    root = {"root": data} if data is not None else {}
    return config.model_copy(
        update={"eval": type(config.eval)(**changes), "data": config.data.model_copy(update=root)}
    )


def _clip(network: XViT | ExportedModel, config: Config, overrides: Sequence[str]) -> ClipConfig:
    """The model's own input, but for what the command overrides."""
    keys = {item.partition("=")[0].removeprefix("data.") for item in overrides if item.startswith("data.")}
    changed = {key: getattr(config.data, key) for key in keys & set(ClipConfig.model_fields)}
    clip = ClipConfig(**{key: getattr(network.clip, key) for key in ClipConfig.model_fields} | changed)
    if isinstance(network, XViT):
        network.check_clip(clip)
    return clip


def _tell_of_few_classes(manifest: Manifest, classes: tuple[tuple[str, ...], ...]) -> None:
    """Labels of a model without class names are its numbers; of half of them they may be another set's."""
    for task, names in enumerate(classes if manifest.records[0].labels else ()):
        if not only_numbers(names):
            continue
        columns = slice(task, task + 1) if len(classes) > 1 else slice(None)
        highest = max(label for record in manifest.records for label in record.labels[columns])
        if 0 <= highest < len(names) // 2:
            warnings.warn(
                f"the model has {len(names)} classes without names, the labels end at {highest}: right only "
                "if they number the classes as the model does",
                XViTWarning,
                stacklevel=3,
            )


def _numbers(network: XViT | ExportedModel) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(str(k) for k in range(count)) for count in network.num_classes)


def _renumbered(loader: Iterable[Batch], rows: np.ndarray) -> Iterator[Batch]:
    """Batches of some of a list's rows, numbered as in the whole list."""
    for batch in loader:
        failures = tuple((int(rows[row]), reason) for row, reason in batch.failures)
        index = torch.from_numpy(rows[batch.index.numpy()])
        yield dataclasses.replace(batch, index=index, failures=failures)


def _circumstances(command: str) -> dict[str, Any]:
    versions = {name: version(name) for name in ("torch", "timm", "av", "numpy")}
    return {
        "command": command,
        "versions": {"xvit": __version__, "python": platform.python_version(), **versions},
    }
