"""`xvit serve`: one process that listens, ends gently, and waits for nobody for ever."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from xvit.errors import ConfigError
from xvit.predict import Predictor
from xvit.web.app import make_app
from xvit.web.limits import Limits
from xvit.web.memory import share_arenas
from xvit.web.metrics import Metrics
from xvit.web.service import Service

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    predictor: Predictor, name: str, *, host: str, port: int, token: str | None, limits: Limits
) -> None:
    """Serve until SIGINT or SIGTERM, then finish what was accepted. Raises ConfigError."""
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    share_arenas()
    metrics = Metrics()
    app = make_app(
        Service(predictor, limits, metrics),
        name,
        metrics,
        token=token,
        hosts=LOOPBACK if host in LOOPBACK else None,
        on_ready=lambda: print(f"serving {name} at {address}, its API at {address}/docs", flush=True),
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again after it has ended gently
        signal.signal(number, lambda *_: None)
    make_server(app, limits).run(sockets=[listener])


def make_server(app: FastAPI, limits: Limits) -> uvicorn.Server:
    """Uvicorn with the limits that are its own to keep."""
    config = uvicorn.Config(
        app,
        http=ImpatientProtocol,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=math.ceil(limits.idle_seconds),
        timeout_graceful_shutdown=math.ceil(limits.upload_seconds + limits.request_seconds),
    )
    return uvicorn.Server(config)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as err:
        reason = getattr(err, "strerror", None) or str(err)
        raise ConfigError(f"--host {host} --port {port}: {reason}; --port 0 takes one that is free") from err


class ImpatientProtocol(H11Protocol):
    """Uvicorn's, which would wait for ever for the headers of a request. This one waits for them as long as
    for another request, and as long for the rest of an upload that is refused already."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self) -> None:
        at_work = self.cycle is not None and not self.cycle.response_complete
        if at_work and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif not at_work and self._timer is None:
            self._timer = self.loop.call_later(self.timeout_keep_alive, self.transport.close)
