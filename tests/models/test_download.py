"""Downloads against a real server on loopback that misbehaves on demand."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import re
import socket
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from xvit.errors import WeightsError
from xvit.models import download
from xvit.models.download import fetch


def weight_file(size: int = 300_000, seed: int = 0) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", np.random.default_rng(seed).bytes(size))
    return file.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `content` at /file; `cut` bytes a reply, `answers` holds status codes to give first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = weight_file()
        self.cut: int | None = None
        self.answers: list[int] = []
        self.ranges = True
        self.seen: list[tuple[str, str | None]] = []

    def url(self, path: str = "/file") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.seen.append((self.path, wanted))
        if server.answers:
            self.plain(server.answers.pop(0))
        elif self.path == "/moved":
            self.plain(302, {"Location": "/file"})
        elif self.path == "/html":
            self.plain(200, {"Content-Type": "text/html"}, b"<html>log in first</html>")
        elif self.path == "/junk":
            self.plain(200, {"Content-Type": "application/octet-stream"}, b"not weights at all")
        elif self.path == "/missing":
            self.plain(404)
        else:
            self.file(wanted)

    def plain(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def file(self, wanted: str | None) -> None:
        server, start = self.server, 0
        tag = f'"{hashlib.sha256(server.content).hexdigest()[:16]}"'
        if wanted and server.ranges and self.headers.get("If-Range") == tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", tag)
        if start:
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cut])
        if server.cut is not None and server.cut < len(body):
            self.wfile.flush()
            self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_whole_download_is_recorded_and_not_repeated(server: Server, tmp_path: Path) -> None:
    path = fetch("w.pth", [server.url()], tmp_path)
    assert path.read_bytes() == server.content
    entry = json.loads((tmp_path / "lock.json").read_text())["w.pth"]
    sha256 = hashlib.sha256(server.content).hexdigest()
    assert entry == {"size": len(server.content), "sha256": sha256, "url": server.url()}
    assert fetch("w.pth", [server.url()], tmp_path) == path
    assert len(server.seen) == 1


def test_a_cut_connection_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cut = 100_000
    assert fetch("w.pth", [server.url()], tmp_path).read_bytes() == server.content
    assert [wanted for _, wanted in server.seen] == [None, *(f"bytes={n}00000-" for n in (1, 2, 3))]


def test_a_later_call_goes_on_too(server: Server, tmp_path: Path) -> None:
    server.cut, server.answers = 120_000, []
    part = tmp_path / "w.pth.part"

    class Killed(BaseException):
        pass

    def kill(*arguments: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download.time, "sleep", kill)
        with pytest.raises(Killed):
            fetch("w.pth", [server.url()], tmp_path)
    assert part.stat().st_size == 120_000
    assert not (tmp_path / "w.pth").exists()
    server.cut = None
    assert fetch("w.pth", [server.url()], tmp_path).read_bytes() == server.content
    assert server.seen[-1][1] == "bytes=120000-"
    assert not part.exists()


def test_a_file_that_changed_on_the_server_is_not_joined_to_the_old_part(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "w.pth.part").write_bytes(server.content[:1000])
    (tmp_path / "w.pth.part.from").write_text(json.dumps({"url": server.url(), "version": '"old"'}))
    assert fetch("w.pth", [server.url()], tmp_path).read_bytes() == server.content


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cut = False, 100_000
    with pytest.raises(WeightsError, match="the connection was cut"):
        fetch("w.pth", [server.url()], tmp_path)
    server.cut = None
    assert fetch("w.pth", [server.url()], tmp_path).read_bytes() == server.content


def test_redirects_and_passing_errors(server: Server, tmp_path: Path) -> None:
    server.answers = [500, 503]
    assert fetch("w.pth", [server.url("/moved")], tmp_path).read_bytes() == server.content
    assert [path for path, _ in server.seen] == ["/moved", "/moved", "/moved", "/file"]


@pytest.mark.parametrize(
    ("path", "answers", "reason"),
    [
        ("/missing", [], "HTTP 404"),
        ("/file", [500] * 10, "HTTP 500"),
        ("/html", [], "a web page"),
        ("/junk", [], "no weight file"),
    ],
)
def test_what_cannot_be_had_is_one_line_with_the_way_out(
    server: Server, tmp_path: Path, path: str, answers: list[int], reason: str
) -> None:
    server.answers = answers
    with pytest.raises(WeightsError) as caught:
        fetch("w.pth", [server.url(path)], tmp_path)
    text = str(caught.value)
    assert text.startswith("w.pth: cannot be downloaded")
    assert reason in text
    assert text.endswith(f"put the file into {tmp_path}")
    assert "\n" not in text
    assert not (tmp_path / "w.pth").exists()
    assert not (tmp_path / "lock.json").exists()


def test_a_name_that_nobody_knows_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PAUSE", 100.0)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(WeightsError, match="the name is not known; is there a network"):
        fetch("w.pth", ["http://files.example.org/w.pth"], tmp_path)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(WeightsError, match=r"no folder can be made there .*; set XVIT_HOME"):
        fetch("w.pth", [], tmp_path / "home" / "downloads")


def test_the_next_address_is_tried(server: Server, tmp_path: Path) -> None:
    urls = ["http://127.0.0.1:9/file", server.url("/missing"), server.url()]
    assert fetch("w.pth", urls, tmp_path).read_bytes() == server.content


def test_other_bytes_than_the_first_time_are_refused(server: Server, tmp_path: Path) -> None:
    path = fetch("w.pth", [server.url()], tmp_path)
    path.unlink()
    server.content = weight_file(seed=1)
    with pytest.raises(WeightsError, match="other bytes than the first time"):
        fetch("w.pth", [server.url()], tmp_path)
    assert not path.exists()
    path.write_bytes(server.content)
    with pytest.raises(WeightsError, match="changed since it was downloaded"):
        fetch("w.pth", [server.url()], tmp_path)


def test_offline_names_the_folder_and_takes_a_file_put_there_by_hand(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"offline mode is on; put the file into {tmp_path}"):
        fetch("w.pth", [server.url()], tmp_path, offline=True)
    (tmp_path / "w.pth").write_bytes(server.content)
    assert fetch("w.pth", [server.url()], tmp_path, offline=True) == tmp_path / "w.pth"
    assert "w.pth" in json.loads((tmp_path / "lock.json").read_text())
    assert server.seen == []


def _fetch_elsewhere(url: str, folder: Path) -> None:
    fetch("w.pth", [url], folder)


def test_two_processes_download_once(server: Server, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fetch_elsewhere, args=(server.url(), tmp_path)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(server.seen) == 1
