"""Live video: cameras, network streams, and files played as if they were live."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from xvit.data.pyav import Upright, choose_stream, draw_rgb, naming_errors
from xvit.errors import VideoReadError

SILENCE_SECONDS = 10.0  # without data, after which a camera or a network stream counts as lost
MAX_FPS = 1000.0  # beyond, a header tells the clock's ticks and not frames


@dataclass(frozen=True)
class LiveSource:
    """What the user named, and how FFmpeg opens it.

    name: for people, without the password of an address.
    """

    name: str
    address: str
    kind: Literal["camera", "network", "file"]
    format: str | None = None

    @property
    def bursts(self) -> bool:
        """Whether frames come faster than they were taken, so that they have to be held back: from files,
        and over HTTP, which hands out whole segments at once."""
        return self.kind == "file" or self.address.startswith("http")


def find_source(name: str) -> LiveSource:
    """`cam:0`, `cam:DEVICE`, an address such as `rtsp://…` or `http://…`, or a file.

    Raises VideoReadError where there is no such camera.
    """
    if name.startswith("cam:"):
        return _camera(name, name.removeprefix("cam:"))
    if re.match(r"[a-z][a-z0-9+.-]+://", name, re.IGNORECASE):
        return LiveSource(re.sub(r"//[^/@]*@", "//", name), name, "network")
    return LiveSource(name, name, "file")


def _camera(name: str, device: str) -> LiveSource:
    if sys.platform == "darwin":
        return LiveSource(name, device, "camera", "avfoundation")
    if sys.platform == "win32":
        return LiveSource(name, f"video={device}", "camera", "dshow")
    path = f"/dev/video{device}" if device.isdecimal() else device
    if not device or not Path(path).exists():
        found = sorted(str(p) for p in Path("/dev").glob("video*"))
        known = f"there is {', '.join(found)}" if found else "this machine has none"
        raise VideoReadError(name, f"no such camera ({path}); {known}")
    return LiveSource(name, path, "camera", "video4linux2,v4l2")


class LiveVideo:
    """An open source; iterating gives its frames as they come, with their seconds since the first.

    fps: what the source announces, None where it does not. duration: seconds; None where it has no end.
    damaged: packets so far that could not be decoded.
    """

    def __init__(self, source: LiveSource) -> None:
        """Raises VideoReadError."""
        self.name = source.name
        self.damaged = 0
        self.seconds = 0.0
        options = {"rtsp_transport": "tcp"} if source.address.startswith("rtsp") else {}
        timeout = None if source.kind == "file" else SILENCE_SECONDS
        with naming_errors(self.name, "cannot be opened"):
            self._container = av.open(source.address, format=source.format, options=options, timeout=timeout)
            self._stream = choose_stream(self._container, self.name)
        if source.kind != "file":
            self._stream.thread_type = "SLICE"  # threads over frames would hold back one frame each
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate and 0 < rate <= MAX_FPS else None
        length = self._container.duration
        self.duration = length / av.time_base if length and length > 0 else None

    @property
    def complete(self) -> bool:
        """Whether the frames have come to the end that the source announced."""
        return self.duration is not None and self.seconds > self.duration - max(1.0, 0.02 * self.duration)

    def __iter__(self) -> Iterator[tuple[float, av.VideoFrame]]:
        first: float | None = None
        for count, frame in enumerate(self._frames()):
            time = frame.time
            if time is None:
                time = count / (self.fps or 25.0)
            first = time if first is None else first
            self.seconds = time - first
            yield self.seconds, frame

    def _frames(self) -> Iterator[av.VideoFrame]:
        """Raises VideoReadError where the source breaks off; a damaged packet costs its frames only."""
        packets = self._container.demux(self._stream)
        while True:
            with naming_errors(self.name, "broke off"):
                packet = next(packets, None)
            if packet is None:
                return
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self.damaged += 1
                continue
            yield from frames

    def close(self) -> None:
        """Close the source."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Painter:
    """Turns a stream's frames into upright pictures; one for each thread."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> torch.Tensor:
        """(C, H, W) uint8, RGB, at the size this frame has. Raises VideoReadError."""
        with naming_errors("this stream", "a frame cannot be converted to RGB"):
            pixels = draw_rgb(frame, self._reformatter, (frame.width, frame.height), Upright.of(frame))
        return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
