"""The evaluation of a trained model over a split, with its files: what `xvit eval` does."""

from __future__ import annotations

from pathlib import Path

from xvit.config import Config, load_config, parse_views
from xvit.data import VideoDataset, load_manifest, make_loader
from xvit.engine.evaluate import evaluate
from xvit.engine.runlog import ProgressLine
from xvit.engine.scores import Evaluation, write_predictions, write_scores
from xvit.errors import ConfigError
from xvit.models import load_model


def evaluate_run(
    model: str | Path,
    *,
    data: str | None = None,
    views: str = "1x1",
    split: str = "val",
    output: Path | None = None,
    quiet: bool = False,
) -> tuple[Evaluation, Path]:
    """Score a split over `views` (crops×clips) and write the results; returns them and their folder.

    `model` is a run folder or a weight file, `data` a folder of videos (default: the run's own). Writes
    `scores.npz` and `predictions.csv` to `output` (default: `eval` inside the run or beside the file).
    """
    path = Path(model)
    network = load_model(path)
    config = load_config(path / "config.yaml") if (path / "config.yaml").exists() else Config()
    data_config = config.data.model_copy(update={"root": data} if data else {})
    if data_config.root is None:
        raise ConfigError(f"{path} does not say where the videos are; add --data FOLDER")
    manifest = load_manifest(data_config, split, classes=network.classes)
    dataset = VideoDataset(manifest, network.clip, views=parse_views(views), on_error=data_config.on_error)
    loader = make_loader(
        dataset, batch_size=config.eval.batch_size, shuffle=False, num_workers=data_config.num_workers
    )
    with ProgressLine("eval", len(dataset), quiet=quiet) as bar:
        evaluation = evaluate(
            network,
            loader,
            manifest=manifest,
            combine=config.eval.combine,
            clips_per_pass=config.eval.batch_size,
            on_progress=bar.advance,
        )
    folder = output or (path if path.is_dir() else path.parent) / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    write_scores(evaluation, folder / "scores.npz")
    write_predictions(evaluation, folder / "predictions.csv")
    return evaluation, folder
