"""Decoding in processes of their own: `python -m xvit.web.sandbox` forks one for every video.

A hostile file meets FFmpeg in a process that has a limited memory, an alarm clock of the kernel's, no file to
write to, and nothing of anybody else's. The process it is forked from never touches a video and imports no
torch, so a fork takes milliseconds. Parent and child speak JSON and raw pixels; nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import av

from xvit.data.pyav import VideoFile, naming_errors
from xvit.errors import VideoReadError

# Containers that hold their video themselves. FFmpeg's playlists and manifests (HLS, DASH, concat, SDP, …)
# name other files and addresses, which it would open.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,av1,obu,ivf,flv,asf,ogg,gif,"
    "mjpeg,yuv4mpegpipe,dv,mxf,nut,rm,wtv,apng"
)
DEFAULT_FPS = 25.0  # where a file tells no rate
MOST_FPS = 240.0  # a header that claims more would make a film short that is long to decode
MESSAGE = 4096  # bytes of a job, at most
REQUEST = 2**20  # bytes of a list of frame numbers, at most


def main() -> None:
    """Fork a decoder for every job that comes through standard input, until that closes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the children
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=os.dup(0)) as control:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a decoder must not hear of other jobs
        control.send(b"ready")
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, MESSAGE, 2)
            if not message:
                return
            if os.fork() == 0:
                control.close()
                with suppress(Exception):  # the parent sees the end of the connection
                    decode(json.loads(message), *descriptors)
                os._exit(0)
            for descriptor in descriptors:
                os.close(descriptor)


def decode(job: Mapping[str, Any], channel: int, file: int) -> None:
    """Answer the reads of one video. job: seconds, bytes, max_seconds, max_pixels."""
    restrict(job["seconds"], job["bytes"])
    parent = Connection(channel)
    try:
        with open_checked(f"/proc/self/fd/{file}", job["max_seconds"], job["max_pixels"]) as video:
            about = video.info
            say(parent, frames=about.num_frames, fps=about.fps, height=about.height, width=about.width)
            while True:
                pixels = video.draw(json.loads(parent.recv_bytes(REQUEST)))
                say(parent)
                parent.send_bytes(pixels.reshape(-1).data)
    except EOFError:
        return
    except _Over as err:
        say(parent, error=str(err), limit=err.limit)
    except MemoryError:
        say(parent, error="out of memory", limit="decoder_bytes")
    except VideoReadError as err:
        short = isinstance(err.__cause__, MemoryError) or "Cannot allocate memory" in str(err.reason)
        say(parent, error=str(err.reason), limit="decoder_bytes" if short else None)


def restrict(seconds: float, memory: int) -> None:
    """Take from this process what decoding does not need. seconds: until the kernel ends it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    with open("/proc/self/statm", encoding="ascii") as statm:
        own = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + memory, own + memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def open_checked(path: str, max_seconds: float, max_pixels: int) -> VideoFile:
    """Open a video of a container that stands by itself, within limits. Raises VideoReadError."""
    with naming_errors(path), av.open(path, options={"format_whitelist": CONTAINERS}) as container:
        for stream in container.streams.video:
            _check_size(stream.width, stream.height, max_pixels)
    video = VideoFile(path)
    _check_size(video.info.width, video.info.height, max_pixels)
    seconds = video.info.num_frames / min(video.info.fps or DEFAULT_FPS, MOST_FPS)
    if seconds > max_seconds:
        raise _Over(f"the video lasts {seconds:.0f} s, more than {max_seconds:g} s", "max_seconds")
    return video


class _Over(Exception):
    def __init__(self, detail: str, limit: str) -> None:
        super().__init__(detail)
        self.limit = limit


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _Over(
            f"frames of {width} × {height} have more than {max_pixels / 1e6:.1f} million pixels",
            "max_pixels",
        )


def say(parent: Connection, **answer: Any) -> None:
    """One JSON message."""
    parent.send_bytes(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
