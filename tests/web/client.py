"""A client of the service that can also misbehave: plain sockets and hand-made requests."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any, NamedTuple

BOUNDARY = b"a-boundary-of-the-tests"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Talks to 127.0.0.1:`port`; `pid` is the service's process."""

    def __init__(self, port: int, pid: int) -> None:
        self.port, self.pid = port, pid
        self.address = f"http://127.0.0.1:{port}"

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        try:
            link.request(method, path, body, headers or {})
            reply = link.getresponse()
            return Answer(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        finally:
            link.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def send(self, path: str, video: Path | bytes, name: str | None = None, **headers: str) -> Answer:
        data = video if isinstance(video, bytes) else video.read_bytes()
        shown = name or ("clip.mp4" if isinstance(video, bytes) else video.name)
        body = form(data, shown)
        return self.ask("POST", path, body, {"Content-Type": content_type(), **headers})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


def content_type() -> str:
    return f"multipart/form-data; boundary={BOUNDARY.decode()}"


def form(data: bytes, name: str, field: str = "video") -> bytes:
    head = f'Content-Disposition: form-data; name="{field}"; filename="{name}"'.encode(
        "utf8", "surrogateescape"
    )
    return b"\r\n".join(
        [b"--" + BOUNDARY, head, b"Content-Type: video/mp4", b"", data, b"--" + BOUNDARY + b"--", b""]
    )


def start_of_request(path: str, length: int, body: bytes = b"") -> bytes:
    """The raw bytes of a POST that claims `length` bytes, and the first of them."""
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: {content_type()}",
        f"Content-Length: {length}",
    )
    head = "".join(f"{line}\r\n" for line in (*lines, ""))
    return head.encode() + body
