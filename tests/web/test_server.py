"""The service as a process: tokens, a full house, the end, and a load."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from client import Answer, Client, form, start_of_request

from conftest import hosting, paint, serving
from xvit.data.synth import write_video
from xvit.web.batching import Batcher


def test_a_token_is_asked_for(trained: Path, clips: Path) -> None:
    with hosting(trained, "s3cret") as client:
        assert client.send("/predict", clips / "red.mp4").status == 401
        assert client.get("/metrics").status == 401
        assert client.get("/labels", Authorization="Bearer wrong").status == 401
        assert client.send("/predict", clips / "red.mp4", Authorization="Bearer s3cret").status == 200
        assert client.get("/health").status == client.get("/").status == client.get("/docs").status == 200


def test_metrics_and_the_description(service: Client, clips: Path) -> None:
    service.send("/predict", clips / "red.mp4")
    text = service.get("/metrics").body.decode()
    assert 'xvit_requests_total{route="/predict",status="200"}' in text
    assert "xvit_batch_videos_count" in text
    assert "process_resident_memory_bytes" in text
    described = service.get("/openapi.json").json["paths"]
    assert set(described) == {
        "/predict",
        "/timeline",
        "/explain",
        "/labels",
        "/health",
        "/metrics",
        "/sample",
    }
    page = service.get("/docs").body.decode()
    assert all(path in page for path in described)
    assert service.get("/labels").json == {
        "tasks": [["red", "green", "<b>blue"]],
        "several_labels": False,
    }


@pytest.mark.parametrize("path", ["/timeline", "/sample"])
def test_a_full_house_answers_429(trained: Path, clips: Path, path: str) -> None:
    with hosting(trained, queue=1, workers=1) as client, ThreadPoolExecutor(6) as pool:

        def ask(_: int) -> Answer:
            return client.get(path) if path == "/sample" else client.send(path, clips / "film.mp4")

        answers = list(pool.map(ask, range(24)))
        found = Counter(answer.status for answer in answers)
        assert set(found) == {200, 429}
        late = next(answer for answer in answers if answer.status == 429)
        assert int(late.headers["retry-after"]) >= 1
        assert late.json["limit"] == "queue"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_the_end_finishes_what_was_accepted(trained: Path, tmp_path: Path, how: int) -> None:
    write_video(tmp_path / "long.mp4", np.tile(paint(["red"], side=128), (40, 1, 1, 1)))
    body = form((tmp_path / "long.mp4").read_bytes(), "long.mp4")
    with serving(trained, ends=True) as client, client.connect() as link:
        link.sendall(start_of_request("/timeline?hop=1", len(body), body[: len(body) // 2]))
        while client.get("/health").json["requests"] == 0:
            time.sleep(0.01)
        subprocess.run(["kill", f"-{int(how)}", str(client.pid)], check=True)
        time.sleep(0.3)
        link.sendall(body[len(body) // 2 :])
        answer = b""
        while piece := link.recv(2**16):
            answer += piece
        assert b" 200 OK" in answer[:40]
        assert b'"segments":[{' in answer


def test_a_port_that_is_taken(service: Client, trained: Path) -> None:
    command = [sys.executable, "-m", "xvit", "serve", str(trained), "--port", str(service.port)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 2
    assert found.stderr.startswith(f"xvit: --host 127.0.0.1 --port {service.port}: ")


def test_what_waits_is_scored_together() -> None:
    import torch

    gate, sizes = threading.Event(), []

    def score(videos: list[torch.Tensor]) -> list[torch.Tensor]:
        gate.wait(10)
        sizes.append(len(videos))
        return [video.sum().view(1) for video in videos]

    batcher = Batcher(score, max_views=4)  # type: ignore[arg-type]
    clips = [torch.full((1 + (i == 3), 2), float(i)) for i in range(6)]
    found = [batcher.submit(clip) for clip in clips]
    time.sleep(0.05)
    gate.set()
    batcher.close()  # everything is scored first
    assert [float(f.result(0)) for f in found] == [float(c.sum()) for c in clips]
    assert max(sizes) > 1
    assert sum(sizes) == 6


def resident(pid: int) -> int:
    """Bytes that a process and its children hold."""
    pids = [str(pid), *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    pages = (int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in pids)
    return 4096 * sum(pages)


@pytest.mark.slow
def test_load(
    trained: Path, clips: Path, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = [path for path in sorted((shared / "videos/odd").glob("*/*")) if path.is_file()]
    good = [clips / f"{name}.mp4" for name in ("red", "green", "blue", "film")]
    asked = [path for pair in zip(odd, itertools.cycle(good)) for path in pair]
    asked = list(itertools.islice(itertools.cycle(asked), 200))
    assert set(odd) <= set(asked)
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    monkeypatch.setenv("TMPDIR", str(uploads))
    with serving(trained, "--queue", "6") as client, ThreadPoolExecutor(8) as pool:
        for path in (*good, *odd[:24]):  # what is allocated once
            client.send("/predict", path)
        time.sleep(1)
        before, there = resident(client.pid), set(uploads.iterdir())  # libraries of a training may leave some
        full: list[int] = []  # seconds that a full house told somebody to wait

        def ask(job: tuple[str, Path]) -> int:
            while (answer := client.send(*job)).status == 429:
                full.append(int(answer.headers["retry-after"]))
                time.sleep(0.2)
            return answer.status

        routes = itertools.cycle(("/predict?views=3x2", "/predict", "/timeline"))
        jobs = list(zip(itertools.islice(routes, 200), asked, strict=True))
        statuses = list(pool.map(ask, jobs))
        found = Counter(statuses)
        assert set(found) <= {200, 413, 415, 422}, found
        assert found[200] >= 150, found
        wrong = {p.name: s for (_, p), s in zip(jobs, statuses, strict=True) if p in good and s != 200}
        assert wrong == {}
        time.sleep(1)
        assert client.get("/health").json["requests"] == 0
        after = resident(client.pid)
        told = f"{dict(found)}, 429 {len(full)} times, memory {before / 2**20:.0f} -> {after / 2**20:.0f} MB"
        print(told)
        assert after <= 1.1 * before, told
        assert set(uploads.iterdir()) == there
