"""What the service did, as Prometheus reads it."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; base-uri 'none'; "
        b"form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "xvit_requests", "Answers by route and status.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "xvit_request_seconds",
            "From the first byte of a request to its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.limits = Counter(
            "xvit_refused", "Requests refused, by the limit they were over.", ["limit"], registry=registry
        )
        self.batches = Histogram(
            "xvit_batch_videos",
            "Videos scored in one pass.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=registry,
        )
        self.waiting = Gauge("xvit_requests_in_house", "Requests that are not answered.", registry=registry)
        self.decoders_lost = Counter(
            "xvit_decoders_lost", "Decoding processes that died on a file.", registry=registry
        )

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)


class Measured:
    """Middleware: counts answers and their seconds; tells browsers to load nothing from elsewhere."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            # The route's own path: what a client made up must not become a label.
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.monotonic() - started)
