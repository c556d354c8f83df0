"""`xvit serve`: a model for anyone with a browser."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from xvit.cli_predict import Device, Model, Precision
from xvit.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="address to listen at; 0.0.0.0 is every network")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes one that is free", min=0, max=65535)] = 8000,
    token: Annotated[
        str | None, typer.Option(help="ask clients for this", envvar="XVIT_TOKEN", show_envvar=True)
    ] = None,
    max_mb: Annotated[float, typer.Option(help="size of an upload", min=0.001)] = 200,
    max_seconds: Annotated[float, typer.Option(help="length of a video", min=0.001)] = 600,
    max_megapixels: Annotated[float, typer.Option(help="size of a frame", min=0.001)] = 9.5,
    max_views: Annotated[int, typer.Option(help="crops × clips of a prediction", min=1)] = 30,
    upload_seconds: Annotated[float, typer.Option(help="for sending a video", min=0.1)] = 120,
    idle_seconds: Annotated[float, typer.Option(help="without a word from a client", min=1)] = 10,
    request_seconds: Annotated[float, typer.Option(help="for answering a request", min=0.1)] = 120,
    decoder_mb: Annotated[int, typer.Option(help="memory of a decoding process", min=64)] = 1024,
    queue: Annotated[int, typer.Option(help="requests in the house", min=1)] = 32,
    workers: Annotated[int, typer.Option(help="videos decoded and scored at a time", min=1)] = 4,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> None:
    """A service with a page: what happens in the videos that are dropped on it."""
    from xvit.cli_predict import load_predictor

    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as err:
        raise ConfigError(f"xvit serve needs {err.name}: pip install 'xvit[web]'") from err
    from xvit.web.limits import Limits
    from xvit.web.server import serve as run

    if host not in LOOPBACK and not token:
        print(f"xvit: anybody who reaches {host} can use this service; --token asks for one", file=sys.stderr)
    limits = Limits(
        max_bytes=int(max_mb * 2**20),
        max_seconds=max_seconds,
        max_pixels=int(max_megapixels * 1e6),
        max_views=max_views,
        upload_seconds=upload_seconds,
        idle_seconds=idle_seconds,
        request_seconds=request_seconds,
        decoder_bytes=decoder_mb * 2**20,
        queue=queue,
        workers=workers,
    )
    predictor = load_predictor(model, device, precision)
    run(predictor, Path(model).name, host=host, port=port, token=token, limits=limits)
