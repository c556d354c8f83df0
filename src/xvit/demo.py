"""The demo: a video model learns motion that no single frame shows, beside a control blind to time."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import xvit
from xvit.config import Config, load_config
from xvit.data import open_video
from xvit.data.synth import write_motion_set
from xvit.engine.protocol import evaluate_run
from xvit.engine.runlog import read_log
from xvit.engine.train import train
from xvit.errors import XViTError
from xvit.models import load_model
from xvit.models.cost import multiply_adds
from xvit.predict import Predictor
from xvit.report import Filmstrip, TrainedModel, filmstrip, one_per_class, write_demo_report

VIEWS = "1x3"
# The same size and steps; nothing in it sees the order of frames.
CONTROL = ("model.attention=spatial", "model.temporal_embedding=none", "model.head=mean")
NAMES = {"xvit": "XViT", "control": "time-blind control"}


@dataclass(frozen=True)
class DemoResult:
    """What the demo found: top-1 of both models on the val split, the report, and the seconds it took."""

    top1: dict[str, float]
    report: Path
    seconds: float


def run_demo(output: str | Path, *, seed: int = 0, overrides: tuple[str, ...] = ()) -> DemoResult:
    """Render the motion set, train and evaluate both models, predict an unseen file, write `report.html`."""
    started = time.monotonic()
    torch.set_num_threads(1)  # matrices this small gain nothing from more; another core decodes
    output = Path(output)
    console = Console()
    videos = output / "videos"
    console.print("Rendering videos of moving shapes; each exists once forwards and once backwards.")
    write_motion_set(videos, seed=seed)

    models = []
    for folder, changes in (("xvit", ()), ("control", CONTROL)):
        console.print(f"Training the {NAMES[folder]}.")
        config = load_config(
            "demo/motion",
            [f"data.root={videos}", f"output={output / folder}", f"seed={seed}", *overrides, *changes],
        )
        run = train(config)
        if json.loads((run / "metrics.json").read_text(encoding="utf8"))["stopped"]:
            raise XViTError("the demo was interrupted")
        models.append(measure(NAMES[folder], config, run))
    evaluation = models[0].evaluation

    unseen = output / "unseen"
    write_motion_set(unseen, seed=seed + 1, train_per_class=0, val_per_class=1)
    path = unseen / "left" / "val_00000.mp4"
    prediction = Predictor.load(output / "xvit")(path, views=VIEWS)
    console.print(f"An unseen file, {path}: {prediction[0]['label']} ({prediction[0]['score']:.2f})")

    strips = [
        filmstrip(evaluation, row, read_frames(videos / evaluation.video_id[row]))
        for row in one_per_class(evaluation)
    ]
    report = output / "report.html"
    seconds = time.monotonic() - started
    write_demo_report(
        report,
        models=models,
        strips=strips,
        prediction=Filmstrip(
            str(path),
            read_frames(path),
            ("left",),
            tuple((str(p["label"]), float(p["score"])) for p in prediction),
        ),
        facts={
            "videos": f"{evaluation.scores.shape[0]} for validation, {VIEWS} views each",
            "seed": str(seed),
            "time": f"{seconds:.0f} s on {torch.get_num_threads()} threads",
            "versions": f"xvit {xvit.__version__}, torch {torch.__version__}",
        },
    )
    console.print(summary_table(models))
    console.print(f"{seconds:.0f} s. Open {report} in a browser.")
    return DemoResult({m.name: m.evaluation.summary()["top1"] for m in models}, report, seconds)


def measure(name: str, config: Config, folder: Path) -> TrainedModel:
    """Evaluate a finished run and count its cost."""
    evaluation = evaluate_run(folder, views=VIEWS).evaluation
    model = load_model(folder)
    clips = torch.randn(64, config.data.num_frames, 3, config.data.size, config.data.size)
    return TrainedModel(
        name=name,
        parameters=sum(p.numel() for p in model.parameters()),
        multiply_adds=multiply_adds(model, clips[:1]),
        clips_per_second=clips_per_second(model, clips),
        log=read_log(folder),
        evaluation=evaluation,
    )


@torch.inference_mode()
def clips_per_second(model: nn.Module, clips: torch.Tensor, passes: int = 7) -> float:
    """Forward passes of `clips` (B, T, C, H, W): clips a second, the median over `passes`."""
    seconds = []
    for _ in range(passes):
        started = time.perf_counter()
        model(clips)
        seconds.append(time.perf_counter() - started)
    return len(clips) / statistics.median(seconds)


def read_frames(path: Path) -> np.ndarray:
    """All frames of a short video, (T, C, H, W) uint8."""
    with open_video(str(path)) as video:
        return video.read(range(video.info.num_frames)).numpy()


def summary_table(models: list[TrainedModel]) -> Table:
    """The figures of the report, for a terminal."""
    table = Table("model", "parameters", "multiply-adds/clip", "top-1", "clips/s")
    for model in models:
        table.add_row(
            model.name,
            f"{model.parameters / 1e6:.2f} M",
            f"{model.multiply_adds / 1e9:.3f} G",
            f"{100 * model.evaluation.summary()['top1']:.1f} %",
            f"{model.clips_per_second:.0f}",
        )
    return table
