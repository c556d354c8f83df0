"""`xvit stream`: a file as camera, a stream that is cut, a model that is too slow, a process stopped."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from live_server import live_server
from test_timeline import GROUPS, make_predictor

from xvit.cli import main
from xvit.data import open_video
from xvit.errors import ConfigError, VideoReadError
from xvit.models import save_model
from xvit.predict import Predictor
from xvit.predict.events import worth_telling
from xvit.predict.reader import Ticks
from xvit.predict.stream import Event, Watch
from xvit.predict.windows import Causal, SharedWindows, Windows, centre_crops, follow_stream

CAUSAL: dict[str, Any] = {"mixing": {"causal": True, "layout": "channels"}}
EVERY: dict[str, Any] = {"sampling": "dense", "frame_stride": 1, "num_frames": 4}


def write_film(path: Path, frames: int, rate: int = 25, codec: str = "mpeg4", scale: int = 1) -> Path:
    """48×32 times `scale`, no two frames alike."""
    rng = np.random.default_rng(0)
    with av.open(path, "w") as out:
        stream = out.add_stream(codec, rate=rate, width=48 * scale, height=32 * scale, pix_fmt="yuv420p")
        stream.codec_context.gop_size = 5
        for _ in range(frames):
            tile = rng.integers(0, 256, (4, 6, 3), np.uint8).repeat(8 * scale, 0).repeat(8 * scale, 1)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(tile, "rgb24")))
        out.mux(stream.encode())
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other are of no use to models this small, least of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def causal(**clip: Any) -> Predictor:
    return make_predictor({**EVERY, **clip}, **CAUSAL)


def slow(clf: Predictor, seconds: float) -> Predictor:
    clf.model.backbone.blocks[0].register_forward_pre_hook(lambda *_: time.sleep(seconds))
    return clf


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_film(tmp_path_factory.mktemp("film") / "ünï 名.mp4", 50))


def test_every_frame_of_a_file_gets_the_offline_answer(film: str) -> None:
    clf = causal()
    with Watch(clf, film, fast=True) as watch:
        events = list(watch)
    assert [event.time for event in events] == pytest.approx([i / 25 for i in range(50)], abs=1e-3)
    assert (watch.counts.received, watch.counts.picked, watch.counts.dropped) == (50, 50, 0)
    with open_video(film) as video:
        frames = centre_crops(video.read(range(50)), clf.model.clip)
    with torch.inference_mode():
        features = clf.model.forward_features(frames[None])
        for t, event in enumerate(events):
            scores = clf.model.forward_head(features[:, max(t - 3, 0) : t + 1]).softmax(-1)[0]
            assert event.score == pytest.approx(scores.max().item(), abs=1e-5)
            assert event.label == clf.model.classes[0][int(scores.argmax())]


def test_a_model_that_looks_ahead_scores_windows(film: str) -> None:
    clf = make_predictor({**EVERY, "num_frames": 8})
    with Watch(clf, film, fast=True, hop=4) as watch:
        events = list(watch)
    assert [event.time for event in events] == pytest.approx([i / 25 for i in range(7, 50, 4)], abs=1e-3)
    with open_video(film) as video:
        last = clf.scores(video.read(range(40, 48)))
    assert events[-1].score == pytest.approx(last.max().item(), abs=1e-5)


def test_what_follows_a_stream() -> None:
    assert isinstance(follow_stream(causal()), Causal)
    spatial: dict[str, Any] = {"attention": "spatial"}
    assert isinstance(follow_stream(make_predictor(**spatial, temporal_embedding="none")), Causal)
    assert isinstance(follow_stream(make_predictor(**spatial)), Windows)
    assert isinstance(follow_stream(make_predictor(**GROUPS)), SharedWindows)
    assert isinstance(follow_stream(make_predictor()), Windows)
    with pytest.raises(ConfigError, match="1 to 8 frames"):
        follow_stream(make_predictor(), 9)


def test_a_file_plays_in_real_time(film: str) -> None:
    clf = causal()
    list(Watch(clf, film, fast=True))  # warm
    began = time.monotonic()
    with Watch(clf, film) as watch:
        for event in watch:
            late = time.monotonic() - began - event.time
            assert late >= -0.01  # no answer comes before its frame is due
    assert 1.9 < time.monotonic() - began < 10
    assert watch.counts.picked == 50
    assert watch.counts.dropped < 25


def test_a_slow_model_drops_frames_and_does_not_fall_behind(film: str) -> None:
    clf = slow(causal(), 0.2)
    with Watch(clf, film) as watch:
        events = list(watch)
    counts = watch.counts
    assert counts.picked == 50
    assert counts.dropped > 25
    assert len(events) + counts.dropped == counts.picked
    assert events[-1].time > 1.8  # the end of the film was seen
    assert max(watch.latencies) < 2.0  # three answers' time, where 50 frames would take ten seconds
    assert events[-1].dropped == counts.dropped
    assert f"{counts.dropped} of them dropped" in watch.summary()


def test_frames_come_at_the_rate_of_training(film: str) -> None:
    for clip, expected in (
        ({"frame_stride": 3}, 3 / 25),  # of the stream's own frames
        ({"target_fps": 10.0, "frame_stride": 2}, 0.2),
        ({"sampling": "segment"}, 1.0),  # four frames over four seconds
    ):
        with Watch(causal(**clip), film, fast=True) as watch:
            times = [event.time for event in watch]
        ideal = np.arange(len(times)) * expected
        assert len(times) == int(1.96 / expected + 1e-6) + 1
        np.testing.assert_allclose(times, ideal, atol=0.021)
    with Watch(causal(), film, fast=True, window=2.0) as watch:
        assert [event.time for event in watch] == pytest.approx([0, 0.48, 1.0, 1.48], abs=0.041)


def test_a_stream_slower_than_training_says_so(film: str) -> None:
    lines: list[str] = []
    with Watch(causal(target_fps=50.0), film, fast=True, on_notice=lines.append) as watch:
        assert len(list(watch)) == 50
    assert lines == [f"{film}: has 25 frames a second, the model was trained on 50"]


def test_ticks_pass_over_pauses() -> None:
    ticks = Ticks(spacing=0.1, interval=0.04)
    times = [0.0, 0.04, 0.07, 0.11, 0.15, 0.19, 3.0, 3.04, 3.11]
    assert [t for t in times if ticks.pick(t)] == [0.0, 0.11, 0.19, 3.0, 3.11]


def test_a_cut_stream_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xvit.predict.reader.BACKOFF_SECONDS", (0.1, 1.0))
    source = write_film(tmp_path / "live.ts", 75, codec="mpeg2video")
    clf, lines = causal(), []
    resets: list[int] = []
    monkeypatch.setattr(Causal, "reset", lambda self: (resets.append(1), self._stream.reset())[1])
    with (
        live_server(source, seconds=3, cut_at=0.4, refuse=2) as address,
        Watch(clf, address, on_notice=lines.append, seconds=4.0) as watch,
    ):
        events = list(watch)
    assert watch.counts.reconnected == 1
    assert resets == [1]
    assert "secret" not in "".join(lines)
    assert ": lost: " in lines[0]
    assert "trying again in 0.1 s" in lines[0]
    assert "trying again in 0.2 s" in lines[1]
    assert "trying again in 0.4 s" in lines[2]
    assert lines[3].endswith("back after 3 attempts")
    times = np.array([event.time for event in events])
    assert (np.diff(times) > 0).all()
    assert np.diff(times).max() > 0.5  # the gap
    assert times[-1] > 2.5
    assert "lost and back 1 times" in watch.summary()


def test_a_stream_lost_for_good_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xvit.predict.reader.BACKOFF_SECONDS", (0.05, 0.1))
    source = write_film(tmp_path / "live.ts", 25, codec="mpeg2video")
    with live_server(source, seconds=0.5, cut_at=1.0, refuse=99) as address:
        watch = Watch(causal(), address, retries=2)
        with pytest.raises(VideoReadError, match=r"still lost after 2 attempts: .*5XX"), watch:
            list(watch)
    assert watch.counts.received > 10


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["xvit", "stream", *map(str, arguments)])
    with pytest.raises(SystemExit) as exited:
        main()
    return int(exited.value.code or 0)


def test_the_command_prints_and_writes(
    film: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(causal().model, tmp_path / "run")
    for name in ("out/events.jsonl", "out/events.csv"):
        target = tmp_path / name
        for _ in range(2):  # the second adds to the first
            code = run_cli(monkeypatch, tmp_path / "run", film, "--fast", "--output", target)
            assert code == 0
            captured = capsys.readouterr()
            assert len(captured.out.splitlines()) == 50
            assert captured.err.startswith("2.0 s, 50 frames, 50 at the model's rate, 0 of them dropped")
    rows = [json.loads(line) for line in (tmp_path / "out/events.jsonl").read_text().splitlines()]
    sheet = list(csv.DictReader((tmp_path / "out/events.csv").open()))
    assert len(rows) == len(sheet) == 100
    assert [float(row["score"]) for row in sheet] == pytest.approx([row["score"] for row in rows], abs=1e-5)
    assert set(rows[0]) == {"time", "clock", "label", "score", "latency", "dropped", "task"}
    assert run_cli(monkeypatch, tmp_path / "run", film, "--fast", "--seconds", 1) == 0
    assert len(capsys.readouterr().out.splitlines()) == 25


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("cam:7", (), "cam:7: no such camera (/dev/video7); "),
        ("gone.mp4", (), "gone.mp4: no such file"),
        ("rtsp://u:secret@127.0.0.1:1/x", (), "rtsp://127.0.0.1:1/x: cannot be opened: Connection refused"),
        ("foo://x", (), "foo://x: cannot be opened: Protocol not found"),
        ("http://127.0.0.1:1/x", ("--fast",), "--fast is for files"),
        ("a.mp4", ("--output", "events.txt"), "must end in .jsonl or .csv"),
        ("a.mp4", ("--format", "xml"), "--format must be one of table, jsonl, csv"),
    ],
)
def test_what_cannot_be_opened_says_so(
    source: str,
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_model(causal().model, tmp_path / "run")
    assert run_cli(monkeypatch, tmp_path / "run", source, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "secret" not in error
    assert len(error.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_signal_ends_the_process_cleanly(film: str, tmp_path: Path) -> None:
    save_model(causal().model, tmp_path / "run")
    long = write_film(tmp_path / "long.mp4", 500)
    command = [sys.executable, "-m", "xvit", "stream", str(tmp_path / "run"), str(long), "--format", "jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    for line in (first + out).splitlines():
        assert json.loads(line)["label"] in "abc"
    assert "dropped" in err
    assert "Traceback" not in err


def test_memory_does_not_grow(tmp_path: Path, peak_memory: Callable[[], Any]) -> None:
    clf = causal()
    long = str(write_film(tmp_path / "long.mp4", 300, scale=16))  # 590 kB a decoded frame
    with Watch(clf, long, fast=True, seconds=2) as watch:  # warm: 50 frames
        list(watch)
    with peak_memory() as peak, Watch(clf, long, fast=True) as watch:
        assert sum(1 for _ in watch) == 300
    assert peak.megabytes < 90  # kept frames would be 177 MB


def test_only_changes_are_told() -> None:
    def event(label: str, score: float, task: int = 0) -> Event:
        return Event(0.0, "", label, score, 0.0, 0, task)

    events = [event("a", 0.9), event("a", 0.8), event("b", 0.2), event("a", 0.7), event("b", 0.6)]
    found = list(worth_telling(events, changes=True, min_score=0.5))
    assert [(e.label, e.score) for e in found] == [("a", 0.9), ("a", 0.7), ("b", 0.6)]
    assert [e.score for e in worth_telling(events, changes=False, min_score=0.5)] == [0.9, 0.8, 0.7, 0.6]
    tasks = [event("x", 0.9, 0), event("y", 0.9, 1), event("x", 0.9, 0), event("y", 0.9, 1)]
    assert len(list(worth_telling(tasks, changes=True, min_score=0.0))) == 2
