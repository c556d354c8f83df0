"""One file from the network to a folder: resumed, atomic, checked against what came the first time."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from xvit.errors import WeightsError

LOCK = "lock.json"  # {file: {"size", "sha256", "url"}} beside the files
CHUNK = 1 << 20
ATTEMPTS = 5  # in a row that bring nothing new, for each address
PAUSE = 1.0  # seconds before the second attempt; then two, three, …
TIMEOUT = 30.0


class _Refused(Exception):
    """An address that will not give the file; the next one is tried."""


def fetch(name: str, urls: Sequence[str], folder: Path, *, offline: bool = False) -> Path:
    """The file `name` in `folder`, downloaded from the first of `urls` that has it, unless it is there.

    An interrupted download goes on where it stopped; the file appears under its name only when whole. Size
    and SHA-256 are recorded in the folder's `lock.json` the first time and checked ever after. Proxies are
    taken from the environment. Raises WeightsError: one line with the file and the folder to put it in.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise WeightsError(folder, f"no folder can be made there ({err.strerror}); set XVIT_HOME") from err
    target = folder / name
    with FileLock(folder / f".{name}.lock"):
        if target.exists():
            _check(target, folder, "", name)
            return target
        by_hand = f"put the file into {folder}"
        if offline:
            raise WeightsError(name, f"not here, and offline mode is on; {by_hand}")
        reasons = []
        for url in urls:
            part = folder / f"{name}.part"
            try:
                _download(url, part)
                _check(part, folder, url, name)
            except _Refused as err:
                reasons.append(f"{url}: {err}")
                continue
            os.replace(part, target)
            return target
        raise WeightsError(name, f"cannot be downloaded ({'; '.join(reasons)}); {by_hand}")


def _download(url: str, part: Path) -> None:
    """Fill `part` from `url`, going on where it ends. Raises _Refused."""
    label, failures = part.with_suffix("").name, 0
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                if _transfer(url, part, bar, task):
                    return
                reason = "the connection was cut"
            except urllib.error.HTTPError as err:
                err.close()
                reason = f"HTTP {err.code}"
                if err.code == 416:  # what is here is longer than the file: not its beginning
                    part.unlink(missing_ok=True)
                elif err.code < 500 and err.code not in (408, 429):
                    raise _Refused(reason) from err
            except (OSError, http.client.HTTPException) as err:
                cause = getattr(err, "reason", err)
                reason = str(cause) or type(err).__name__
                if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME and not before:
                    raise _Refused("the name is not known; is there a network?") from err
            after = part.stat().st_size if part.exists() else 0
            failures = 0 if after > before else failures + 1
            if failures == ATTEMPTS:
                raise _Refused(reason)
            time.sleep(PAUSE * failures)


def _transfer(url: str, part: Path, bar: Progress, task: TaskID) -> bool:
    """One request; True when the file is whole."""
    note = part.with_name(part.name + ".from")  # which version of which address the part belongs to
    have = part.stat().st_size if part.exists() and note.exists() else 0
    headers = {"User-Agent": "xvit", "Accept-Encoding": "identity"}
    known = json.loads(note.read_text()) if have else {}
    if have and known.get("url") == url and known.get("version"):
        headers |= {"Range": f"bytes={have}-", "If-Range": known["version"]}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as reply:
        if "html" in reply.headers.get("Content-Type", ""):
            raise _Refused("answers with a web page, not with the file")
        total = _total(reply)
        resumed = reply.status == 206 and _range_start(reply) == have
        if reply.status == 206 and not resumed:
            raise http.client.HTTPException("answers with another part than was asked for")
        version = reply.headers.get("ETag") or reply.headers.get("Last-Modified")
        # A weak tag promises only that the meaning is the same, so its parts cannot be joined.
        strong = version if version and not version.startswith("W/") else None
        note.write_text(json.dumps({"url": url, "version": strong}))
        bar.update(task, total=total, completed=have if resumed else 0)
        with part.open("ab" if resumed else "wb") as file:
            _copy(reply, file, bar, task)
    size = part.stat().st_size
    if total is not None and size > total:
        part.unlink()
        return False
    if total is not None and size < total:
        return False
    note.unlink()
    return True


def _copy(reply: http.client.HTTPResponse, file: BinaryIO, bar: Progress, task: TaskID) -> None:
    while chunk := reply.read1(CHUNK):
        file.write(chunk)
        bar.advance(task, len(chunk))
    file.flush()
    os.fsync(file.fileno())


def _total(reply: http.client.HTTPResponse) -> int | None:
    whole = re.fullmatch(r"bytes \d+-\d+/(\d+)", reply.headers.get("Content-Range", ""))
    if whole:
        return int(whole[1])
    length = reply.headers.get("Content-Length")
    return int(length) if length is not None else None


def _range_start(reply: http.client.HTTPResponse) -> int | None:
    start = re.match(r"bytes (\d+)-", reply.headers.get("Content-Range", ""))
    return int(start[1]) if start else None


def _check(file: Path, folder: Path, url: str, name: str) -> None:
    """Compare a whole file with the lock or enter it there. Raises WeightsError; _Refused for a new one."""
    lock = folder / LOCK
    with FileLock(folder / f".{LOCK}.lock"):
        entries = json.loads(lock.read_text(encoding="utf8")) if lock.exists() else {}
        found = {"size": file.stat().st_size, "sha256": _sha256(file)}
        expected = entries.get(name)
        if expected is None:
            if not _looks_like_weights(file):
                if url:
                    file.unlink()
                    raise _Refused("answers with something that is no weight file")
                raise WeightsError(file, "not a weight file; delete it to have it downloaded")
            entries[name] = {**found, "url": url}
            partial = lock.with_name(f"{LOCK}.part")
            partial.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n", encoding="utf8")
            os.replace(partial, lock)
        elif any(found[key] != expected[key] for key in found):
            if url:
                file.unlink()
                raise _Refused(
                    f"other bytes than the first time (sha256 {expected['sha256'][:12]}… in {lock})"
                )
            raise WeightsError(
                file,
                f"changed since it was downloaded (sha256 in {lock}); delete it to have it downloaded anew",
            )


def _looks_like_weights(file: Path) -> bool:
    with file.open("rb") as opened:
        start = opened.read(1)
    return start == b"\x80" or zipfile.is_zipfile(file)  # torch's older pickles; its zip files, whole


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
