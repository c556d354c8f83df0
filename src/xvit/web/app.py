"""The HTTP side: routes, and what a refusal looks like."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

import xvit
from xvit.errors import ConfigError, VideoReadError
from xvit.predict.segments import FORMATS
from xvit.web import answers, pages
from xvit.web.house import House
from xvit.web.limits import Deadline, Refused
from xvit.web.memory import give_back
from xvit.web.metrics import Measured, Metrics
from xvit.web.sample import render_sample
from xvit.web.service import Service
from xvit.web.uploads import FIELD, Upload, receive

QUIET_SECONDS = 0.5  # without a request, before free memory is given back

T = TypeVar("T")

UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    408: {"model": answers.Refusal, "description": "The upload is too slow"},
    413: {"model": answers.Refusal, "description": "The upload is too large"},
    415: {"model": answers.Refusal, "description": "Not a multipart upload"},
    422: {"model": answers.Refusal, "description": "Unreadable, or over a limit"},
    429: {"model": answers.Refusal, "description": "The queue is full; see Retry-After"},
}

TopK = Annotated[int, Query(ge=1, le=1000, description="classes to give")]
Views = Annotated[str, Query(max_length=8, description="crops×clips to score, such as 3x2")]
Window = Annotated[
    float | None, Query(ge=0.1, le=600, description="seconds a window spans; default: the model's clip")
]
Hop = Annotated[int | None, Query(ge=1, description="frames of a window from one to the next")]
Smooth = Annotated[int, Query(ge=1, le=99, description="windows averaged before segments are cut")]
MinScore = Annotated[float, Query(ge=0, le=1, description="leave out segments below")]
Format = Annotated[str, Query(pattern="^(json|srt|vtt|csv)$", description="json, srt, vtt or csv")]
Label = Annotated[str | None, Query(max_length=200, description="the class to explain; default: the best")]
Method = Annotated[str, Query(pattern="^(gradient|rollout)$", description="gradient or rollout")]
Seed = Annotated[int, Query(ge=0, lt=2**31)]


class Front:
    """The endpoints of one service."""

    def __init__(self, service: Service, name: str, metrics: Metrics, token: str | None) -> None:
        self.service, self.name, self.metrics, self.token = service, name, metrics, token
        self.house = House(service.limits, metrics)
        self._threads = CapacityLimiter(service.limits.queue)

    async def predict(self, request: Request, top_k: TopK = 5, views: Views = "1x1") -> Any:
        """What happens in a video: its best classes."""
        return await self._answer(request, self.service.predict, top_k=top_k, views=views)

    async def timeline(
        self,
        request: Request,
        window: Window = None,
        hop: Hop = None,
        smooth: Smooth = 3,
        min_score: MinScore = 0.0,
        format: Format = "json",
    ) -> Any:
        """What happens when: segments, and the scores of the leading classes over time."""
        found, answer = await self._answer(
            request, self.service.timeline, window=window, hop=hop, smooth=smooth, min_score=min_score
        )
        if format == "json":
            return answer
        return PlainTextResponse(FORMATS[format](found.segments(smooth, min_score)))

    async def explain(self, request: Request, label: Label = None, method: Method = "gradient") -> Any:
        """Where in space and time a decision came from: a map for every frame that was looked at."""
        return await self._answer(request, self.service.explain, label=label, method=method)

    async def _answer(self, request: Request, work: Callable[..., T], **options: Any) -> T:
        with self.house.upload():
            try:
                upload = await receive(request, self.service.limits)
            except ClientDisconnect:
                raise Refused(400, "the upload was broken off") from None
        try:
            with self.house.job():
                return await self._run(work, upload, options)
        finally:
            upload.close()
            asyncio.get_running_loop().call_later(QUIET_SECONDS, self._tidy_up)

    def _tidy_up(self) -> None:
        if not self.house.jobs:
            give_back()

    async def _run(self, work: Callable[..., T], upload: Upload, options: dict[str, Any]) -> T:
        deadline = Deadline(self.service.limits.request_seconds)
        call = partial(work, upload, deadline, **options)
        return await to_thread.run_sync(call, limiter=self._threads)

    def labels(self) -> dict[str, Any]:
        """The classes, one list a task; whether a video can have several of them."""
        return {"tasks": self.service.classes, "several_labels": self.service.several_labels}

    def health(self) -> dict[str, Any]:
        """Whether the service takes requests; needs no token."""
        return {"status": "ok", "model": self.name, "requests": self.house.uploads + self.house.jobs}

    def metrics_text(self) -> Response:
        """Counters in Prometheus' text format."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def sample(self, seed: Seed = 0) -> Response:
        """A short film of moving shapes, rendered for this request."""
        with self.house.job():
            film = await to_thread.run_sync(render_sample, seed, limiter=self._threads)
        return Response(film, media_type="video/mp4")

    def authorise(
        self,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        """Raises Refused with 401 where a token is asked for and another, or none, is sent."""
        if self.token is None:
            return
        sent = "" if credentials is None else credentials.credentials
        if not secrets.compare_digest(sent.encode(), self.token.encode()):
            raise Refused(401, "this service asks for its token: Authorization: Bearer TOKEN")


def make_app(
    service: Service,
    name: str,
    metrics: Metrics,
    *,
    token: str | None = None,
    hosts: Sequence[str] | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The application. hosts: names that it answers to, against pages that rebind theirs; None is any."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await to_thread.run_sync(service.decoders.wait_until_ready)
        on_ready()
        yield
        await to_thread.run_sync(service.close)

    front = Front(service, name, metrics, token)
    app = FastAPI(
        title=f"XViT: {name}",
        version=xvit.__version__,
        description="What happens in a video. A refusal is JSON: `detail` says why, `limit` names the limit.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(_routes(front))
    pages.add_pages(app, service, name, asks_token=token is not None)
    _explain_refusals(app, metrics)
    app.add_middleware(Measured, metrics=metrics)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    return app


def _routes(front: Front) -> APIRouter:
    routes = APIRouter()
    closed = APIRouter(
        dependencies=[Depends(front.authorise)],
        responses={401: {"model": answers.Refusal, "description": "The token is missing or wrong"}},
    )
    for path, endpoint, model in (
        ("/predict", front.predict, answers.Prediction),
        ("/timeline", front.timeline, answers.TimelineAnswer),
        ("/explain", front.explain, answers.ExplanationAnswer),
    ):
        closed.post(
            path,
            response_model=model,
            response_model_exclude_none=False,
            openapi_extra=UPLOAD,
            responses=REFUSALS,
        )(endpoint)
    closed.get("/labels", response_model=answers.Labels)(front.labels)
    closed.get("/metrics", response_class=PlainTextResponse)(front.metrics_text)
    closed.get("/sample", response_class=Response, responses={429: REFUSALS[429]})(front.sample)
    routes.get("/health", response_model=answers.Health)(front.health)
    routes.include_router(closed)
    return routes


def _explain_refusals(app: FastAPI, metrics: Metrics) -> None:
    def refuse(status: int, detail: str, limit: str | None = None, after: int | None = None) -> JSONResponse:
        if limit is not None:
            metrics.limits.labels(limit).inc()
        headers = {} if after is None else {"Retry-After": str(after)}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({"detail": detail, "limit": limit}, status, headers)

    async def refused(request: Request, err: Exception) -> JSONResponse:
        assert isinstance(err, Refused)
        return refuse(err.status, err.detail, err.limit, err.retry_after)

    async def unreadable(request: Request, err: Exception) -> JSONResponse:
        return refuse(422, " ".join(str(err).split()))

    async def invalid(request: Request, err: Exception) -> JSONResponse:
        assert isinstance(err, RequestValidationError)
        wrong = (f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in err.errors())
        return refuse(422, "; ".join(wrong))

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(VideoReadError, unreadable)
    app.add_exception_handler(ConfigError, unreadable)
    app.add_exception_handler(RequestValidationError, invalid)
