"""A model trained in seconds, and the service that runs it, as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from client import Client

from xvit.config import load_config
from xvit.data.synth import write_video
from xvit.engine.train import train
from xvit.predict import Predictor
from xvit.web.app import make_app
from xvit.web.limits import Limits
from xvit.web.metrics import Metrics
from xvit.web.server import make_server
from xvit.web.service import Service

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "<b>blue": (50, 60, 220)}
SETTINGS = [
    "model.backbone_args={patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2, weight_init: jax}",
    "model.head=mean",
    "data.num_frames=4",
    "data.num_workers=0",
    "train.epochs=8",
    "train.batch_size=12",
    "train.lr=3e-3",
    "train.eval_every=100",
    "device=cpu",
]


def paint(colours: list[str], seconds: float = 1.0, side: int = 48, seed: int = 0) -> np.ndarray:
    """uint8 (T, side, side, 3) at 8 frames a second: noise in one colour after the other."""
    rng = np.random.default_rng(seed)
    each = round(8 * seconds)
    noise = rng.integers(-35, 35, (len(colours) * each, side, side, 1))
    base = np.array([COLOURS[name] for name in colours for _ in range(each)])[:, None, None]
    return (base + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a model that tells three colours; one of them has a name that is HTML."""
    root = tmp_path_factory.mktemp("colours")
    for split, count in (("train", 12), ("val", 2)):
        rows = []
        for label, name in enumerate(COLOURS):
            (root / name).mkdir(exist_ok=True)
            for i in range(count):
                path = f"{name}/{split}_{i}.mp4"
                write_video(root / path, paint([name], seed=100 * label + i, side=32))
                rows.append(f"{path} {label}\n")
        (root / f"{split}.csv").write_text("".join(rows))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in COLOURS))
    run = train(load_config("demo/motion", [f"data.root={root}", f"output={root / 'run'}", *SETTINGS]))
    return Path(run)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """red.mp4, green.mp4, blue.mp4, a film that is red for two seconds and then blue, and a broken file."""
    root = tmp_path_factory.mktemp("clips")
    for name in COLOURS:
        write_video(root / f"{name.removeprefix('<b>')}.mp4", paint([name], seed=7))
    write_video(root / "film.mp4", paint(["red", "<b>blue"], seconds=2, seed=8))
    (root / "broken.mp4").write_bytes(b"no video at all " * 100)
    return root


@contextmanager
def serving(model: Path, *options: str, ends: bool = False) -> Iterator[Client]:
    """`xvit serve` on a free port; ends it gently, unless the caller does, and asks for exit code 0."""
    command = [sys.executable, "-m", "xvit", "serve", str(model), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
            assert found is not None
            yield Client(int(found[1]), process.pid)
            if not ends:
                process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


@contextmanager
def hosting(model: Path, token: str | None = None, **limits: float) -> Iterator[Client]:
    """The same service inside the tests' own process, which is quicker to start."""
    bounds, metrics = Limits(**limits), Metrics()  # type: ignore[arg-type]
    service = Service(Predictor.load(model, "cpu"), bounds, metrics)
    server = make_server(make_app(service, model.name, metrics, token=token), bounds)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Client(listener.getsockname()[1], os.getpid())
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def service(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service for all tests that need no settings of their own."""
    temporary = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        with serving(trained, "--max-mb", "20", "--idle-seconds", "2", "--upload-seconds", "4") as client:
            yield client
