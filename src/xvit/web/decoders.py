"""The service's side of decoding: a FrameSource whose decoder is another process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import BinaryIO, Self

import numpy as np
import torch

from xvit.errors import VideoReadError
from xvit.types import VideoInfo
from xvit.web.limits import Deadline, Limits, Refused

ANSWER = 2**16  # bytes of a message, at most
AT_ONCE = 8  # frames; what both sides hold in memory


class Decoders:
    """Gives every video a process, forked from one that waits; that one is replaced should it ever die."""

    def __init__(self, limits: Limits, on_lost: Callable[[], None] = lambda: None) -> None:
        """on_lost: told when a decoder died on its file."""
        self.limits, self.on_lost = limits, on_lost
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # A session of its own: the terminal's Ctrl-C must not reach what is still at work.
            self._forker = subprocess.Popen(
                [sys.executable, "-m", "xvit.web.sandbox"], stdin=theirs.fileno(), start_new_session=True
            )
        self._control = ours

    def wait_until_ready(self) -> None:
        """Returns when the first fork can be made; RuntimeError where it never will."""
        if self._control.recv(5) != b"ready":
            raise RuntimeError("the decoder process does not start")

    def open(self, file: BinaryIO, name: str, deadline: Deadline) -> IsolatedVideo:
        """Open an upload in a process of its own. Raises Refused, VideoReadError."""
        limits = self.limits
        job = {
            "seconds": deadline.left + 1,  # the refusal here comes first
            "bytes": limits.decoder_bytes,
            "max_seconds": limits.max_seconds,
            "max_pixels": limits.max_pixels,
        }
        ours, theirs = socket.socketpair()
        with theirs:
            self._send(json.dumps(job).encode(), [theirs.fileno(), file.fileno()])
        return IsolatedVideo(Connection(ours.detach()), name, self, deadline)

    def _send(self, job: bytes, descriptors: list[int]) -> None:
        with self._lock:
            try:
                socket.send_fds(self._control, [job], descriptors)
            except OSError:
                self._stop()
                self._start()
                self.wait_until_ready()
                socket.send_fds(self._control, [job], descriptors)

    def _stop(self) -> None:
        self._control.close()
        self._forker.wait()

    def close(self) -> None:
        """Let the waiting process go; decoders at work finish."""
        with self._lock:
            self._stop()


class IsolatedVideo:
    """An upload as a FrameSource. Raises Refused beyond a limit or at the deadline, else VideoReadError."""

    def __init__(self, child: Connection, name: str, decoders: Decoders, deadline: Deadline) -> None:
        self._child, self._name, self._decoders, self._deadline = child, name, decoders, deadline
        try:
            about = self._answer()
            self.info = VideoInfo(about["frames"], about["fps"], about["height"], about["width"])
        except BaseException:
            self.close()
            raise

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """See FrameSource.read."""
        out = np.empty((len(indices), self.info.height, self.info.width, 3), np.uint8)
        for first in range(0, len(indices), AT_ONCE):
            part = [int(i) for i in indices[first : first + AT_ONCE]]
            try:
                self._child.send_bytes(json.dumps(part).encode())
                self._answer()
                self._child.recv_bytes_into(out[first : first + len(part)].reshape(-1).data)
            except (EOFError, OSError) as err:
                raise self._lost() from err
        return torch.from_numpy(out).permute(0, 3, 1, 2)

    def _answer(self) -> dict[str, int]:
        try:
            if not self._child.poll(self._deadline.left):
                raise self._deadline.refusal()
            answer = json.loads(self._child.recv_bytes(ANSWER))
        except (EOFError, OSError) as err:
            raise self._lost() from err
        if answer.get("limit") == "decoder_bytes":
            raise self._beyond_memory()
        if answer.get("limit"):
            raise Refused(422, f"{self._name}: {answer['error']}", answer["limit"])
        if "error" in answer:
            raise VideoReadError(self._name, answer["error"])
        return answer

    def _lost(self) -> Exception:
        if self._deadline.over:
            return self._deadline.refusal()
        self._decoders.on_lost()
        return VideoReadError(self._name, "the decoder does not survive this file")

    def _beyond_memory(self) -> Refused:
        megabytes = self._decoders.limits.decoder_bytes / 2**20
        return Refused(
            422, f"{self._name}: decoding needs more than {megabytes:.0f} MB of memory", "decoder_bytes"
        )

    def close(self) -> None:
        """End the process: it stops at its next word to us, or at its alarm."""
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
