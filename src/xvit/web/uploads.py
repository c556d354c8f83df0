"""A request's file: streamed to a temporary file that has no name, so that nothing can be left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import PurePosixPath

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from xvit.web.limits import Deadline, Limits, Refused

FIELD = "video"
NAME_LENGTH = 200


class Upload:
    """An open binary `file` that is in no folder, and the `name` its sender gave it, for messages."""

    def __init__(self, form: UploadFile) -> None:
        spooled = form.file
        spooled.fileno()  # rolls a small file over to the disk, where another process can read it
        spooled.flush()
        self.file = spooled
        self.name = plain_name(form.filename or "video")

    def close(self) -> None:
        """The kernel removes the file with its last descriptor."""
        self.file.close()


async def receive(request: Request, limits: Limits) -> Upload:
    """The file of a multipart request. Raises Refused."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Refused(415, f'send multipart/form-data with the file as "{FIELD}"')
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refused(415, "a compressed request body is not taken; send the video as it is")
    _check_size(int(request.headers.get("content-length", 0)), limits)
    stream = _limited(request, limits)
    try:
        form = await MultiPartParser(request.headers, stream, max_files=1, max_fields=8).parse()
    except MultiPartException as err:
        raise Refused(400, f"the upload is not whole: {err.message}") from err
    file = form.get(FIELD)
    if not isinstance(file, UploadFile):
        await form.close()
        raise Refused(400, f'no file "{FIELD}" in the upload')
    return Upload(file)


async def _limited(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The request's body, as long as it comes steadily and is not too much."""
    deadline, size = Deadline(limits.upload_seconds), 0
    pieces = aiter(request.stream())
    while True:
        try:
            piece = await asyncio.wait_for(anext(pieces), min(limits.idle_seconds, deadline.left))
        except StopAsyncIteration:
            return
        except TimeoutError:
            limit = "upload_seconds" if deadline.over else "idle_seconds"
            raise Refused(
                408, f"the upload is too slow: {getattr(limits, limit):g} s have passed", limit
            ) from None
        size += len(piece)
        _check_size(size, limits)
        yield piece


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.max_bytes:
        raise Refused(413, f"the upload is larger than {limits.max_bytes / 2**20:g} MB", "max_bytes")


def plain_name(name: str) -> str:
    """The last part of a file name on any system, on one line."""
    last = PurePosixPath(name.replace("\\", "/")).name
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in last)
    return shown[:NAME_LENGTH] or "video"
