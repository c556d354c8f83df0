"""The demo's causal configuration, from training to a stream of frames."""

from __future__ import annotations

from pathlib import Path

import torch

from xvit.config import load_config
from xvit.data.synth import write_motion_set
from xvit.engine.train import train
from xvit.models import load_model
from xvit.models.streaming import StreamingXViT
from xvit.predict import Predictor


def test_a_trained_causal_model_streams(tmp_path: Path) -> None:
    write_motion_set(tmp_path / "motion", train_per_class=2, val_per_class=1, workers=1)
    config = load_config(
        "demo/causal",
        [
            f"data.root={tmp_path / 'motion'}",
            f"output={tmp_path / 'run'}",
            "data.num_workers=0",
            "train.max_steps=2",
            "train.batch_size=4",
        ],
    )
    run = train(config)
    model = load_model(run)
    frames = Predictor(model, "cpu").read(next((tmp_path / "motion").rglob("*.mp4")))[0]
    stream = StreamingXViT(model)
    for t in range(model.clip.num_frames):
        logits = stream(frames[None, t])
        with torch.inference_mode():
            expected = model(frames[None, : t + 1])
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
