"""Hostile requests: refused or harmless, and nothing of them remains."""

from __future__ import annotations

import gzip
import io
import os
import time
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from client import Answer, Client, content_type, form, start_of_request

from conftest import hosting, paint
from xvit.data.synth import write_video


def refused(answer: Answer, status: int, limit: str | None = None, detail: str = "") -> None:
    assert (answer.status, answer.json["limit"]) == (status, limit), answer.body
    assert detail in answer.json["detail"]


def bomb(side: int) -> bytes:
    """A GIF of a few bytes that claims side × side pixels."""
    size = side.to_bytes(2, "little")
    head = b"GIF89a" + size + size + b"\xf0\x00\x00" + b"\x00\x00\x00\xff\xff\xff"
    return head + b"\x2c" + bytes(4) + size + size + b"\x00\x02\x02\x4c\x01\x00\x3b"


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..\\..\\boot.ini",
        "/etc/cron.d/x",
        "a%2f..%2fb.mp4",
        "CON",
        "x" * 3000,
        "a\tb.mp4",
        "ö.mp4",
    ],
)
def test_names_are_only_names(service: Client, clips: Path, name: str) -> None:
    answer = service.send("/predict", clips / "red.mp4", name=name)
    assert answer.status == 200, answer.body
    assert len(answer.json["video"]) <= 200
    assert not set(answer.json["video"]) & set("/\\\t")


def test_html_in_names_stays_text(service: Client) -> None:
    answer = service.send("/predict", b"nothing", name="<img src=x onerror=alert(1)>.mp4")
    refused(answer, 422, None, "<img src=x onerror=alert(1)>.mp4: not a readable video")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_playlists_do_not_open_other_files(service: Client, clips: Path) -> None:
    secret = clips / "red.mp4"
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    concat = f"ffconcat version 1.0\nfile {secret}\n"
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    for text in (hls, concat, sdp):
        for name in ("a.mp4", "a.m3u8", "a.ffconcat", "a.sdp"):
            refused(service.send("/predict", text.encode(), name=name), 422, None, "not a readable video")


def test_bombs(service: Client, clips: Path) -> None:
    inside = io.BytesIO()
    with zipfile.ZipFile(inside, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.mp4", bytes(50_000_000))
    refused(service.send("/predict", inside.getvalue()), 422, None, "not a readable video")
    packed = gzip.compress(form(bytes(50_000_000), "a.mp4"))
    headers = {"Content-Type": content_type(), "Content-Encoding": "gzip"}
    refused(service.ask("POST", "/predict", packed, headers), 415)
    refused(service.send("/predict", bomb(9_000)), 422, "max_pixels", "9000 × 9000")
    assert service.send("/predict", bomb(20_000)).status == 422
    assert service.send("/predict", bomb(65_535)).status == 422
    endless = {"Content-Type": content_type()}
    refused(service.ask("POST", "/predict", form(b"", "x" * 100_000), endless), 400)


def test_a_bomb_within_the_size_meets_the_memory_limit(trained: Path) -> None:
    with hosting(trained, max_pixels=10**9, decoder_bytes=200 * 2**20) as client:
        refused(client.send("/predict", bomb(16_000)), 422, "decoder_bytes", "more than 200 MB")
        assert client.get("/health").json["status"] == "ok"


def test_limits_of_the_video(service: Client, trained: Path, clips: Path, tmp_path: Path) -> None:
    refused(service.send("/predict?views=9x9", clips / "red.mp4"), 422, "max_views")
    refused(service.send("/predict?views=many", clips / "red.mp4"), 422, None, "views")
    refused(service.send("/predict?top_k=0", clips / "red.mp4"), 422, None, "top_k")
    refused(service.send("/timeline?hop=99", clips / "red.mp4"), 422, None, "hop")
    with hosting(trained, max_seconds=3) as client:
        refused(client.send("/predict", clips / "film.mp4"), 422, "max_seconds", "lasts 4 s")
        assert client.send("/predict", clips / "red.mp4").status == 200


def test_time_is_limited(trained: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "long.mp4", np.tile(paint(["red"], side=256), (60, 1, 1, 1)))
    with hosting(trained, request_seconds=0.3) as client:
        started = time.monotonic()
        refused(client.send("/timeline?hop=1", tmp_path / "long.mp4"), 422, "request_seconds", "0.3 s")
        assert time.monotonic() - started < 15
        assert client.get("/health").json == {"status": "ok", "model": trained.name, "requests": 0}


def test_sizes(service: Client) -> None:
    refused(service.send("/predict", bytes(21 * 2**20)), 413, "max_bytes", "20 MB")
    with service.connect() as link:  # a claim of 2 GB
        link.sendall(start_of_request("/predict", 2**31))
        assert b" 413 " in link.recv(4096)
    with service.connect() as link:  # no claim at all: pieces that never end
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type()}\r\n"
        link.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        start = form(b"", "a.mp4").split(b"\r\n--")[0] + b"\r\n"
        link.sendall(b"%x\r\n%s\r\n" % (len(start), start))
        piece = b"100000\r\n" + bytes(2**20) + b"\r\n"
        try:
            for _ in range(24):
                link.sendall(piece)
            assert b" 413 " in link.recv(4096)
        except (BrokenPipeError, ConnectionResetError):
            pass  # closed in our face, which is a refusal as well
    assert service.get("/health").status == 200


def test_slow_clients_are_let_go(service: Client) -> None:
    with service.connect() as headers, service.connect() as body, service.connect() as drops:
        headers.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\n")
        body.sendall(start_of_request("/predict", 10_000, form(bytes(5000), "a.mp4")[:2000]))
        drops.sendall(start_of_request("/predict", 10_000, form(b"", "a.mp4")[:130]))
        answer, end = b"", time.monotonic() + 20
        drops.settimeout(0.3)
        while not answer and time.monotonic() < end:  # a byte now and then, never too late
            try:
                drops.sendall(b"x")
                answer = drops.recv(4096)
            except TimeoutError:
                continue
        assert b" 408 " in answer
        drops.settimeout(10)
        while b"4 s have passed" not in answer:
            answer += drops.recv(4096) or pytest.fail(f"closed after {answer!r}")
        assert b" 408 " in body.recv(4096)
        assert headers.recv(4096) == b""  # closed
    with service.connect() as silent:
        assert silent.recv(4096) == b""


def test_requests_that_are_no_uploads(service: Client, clips: Path) -> None:
    video = (clips / "red.mp4").read_bytes()
    refused(service.ask("POST", "/predict", video, {"Content-Type": "video/mp4"}), 415)
    headers = {"Content-Type": content_type()}
    refused(service.ask("POST", "/predict", form(video, "a.mp4", field="file"), headers), 400)
    refused(service.ask("POST", "/predict", b"no parts", headers), 400)
    two = form(video, "a.mp4").replace(b"--\r\n", b"\r\n") + form(video, "b.mp4")
    refused(service.ask("POST", "/predict", two, headers), 400)
    assert service.get("/static/..%2f..%2fapp.py").status == 404
    assert service.get("/nothing").status == 404


def test_other_hosts_names_are_refused(service: Client) -> None:
    assert service.get("/labels", Host="evil.example").status == 400
    assert service.get("/labels", Host=f"localhost:{service.port}").status == 200


def test_a_damaged_video_costs_its_own_request_only(service: Client, clips: Path) -> None:
    rng = np.random.default_rng(0)
    whole = bytearray((clips / "film.mp4").read_bytes())
    for _ in range(6):
        data = whole.copy()
        for place in rng.integers(0, len(data), 200):
            data[place] = rng.integers(256)
        assert service.send("/predict", bytes(data)).status in (200, 422)
    with av.open(str(clips / "red.mp4")) as container:  # our own files are untouched
        assert container.streams.video[0].frames == 8
    assert service.send("/predict", clips / "red.mp4").status == 200


def test_nothing_remains(service: Client, clips: Path) -> None:
    before = open_uploads(service)  # the test's own process has such files too
    assert service.send("/predict", clips / "red.mp4").status == 200
    with service.connect() as link:  # leaves in the middle
        link.sendall(start_of_request("/predict", 3_000_000, form(bytes(2_900_000), "a.mp4")[:2_500_000]))
    end = time.monotonic() + 10
    while time.monotonic() < end:
        time.sleep(0.1)
        if open_uploads(service) == before and service.get("/health").json["requests"] == 0:
            break
    assert open_uploads(service) == before
    assert service.get("/health").json["requests"] == 0


def open_uploads(service: Client) -> list[str]:
    """Temporary files that the service has, with a name or without."""
    folder = Path(f"/proc/{service.pid}/fd")
    held = [os.readlink(entry) for entry in folder.iterdir() if entry.exists() or entry.is_symlink()]
    return [name for name in held if "deleted" in name]
