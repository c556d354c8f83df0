"""Training states on disk: written atomically, checked when read, the newest intact one wins.

A checkpoint is a folder `checkpoints/step_00000120` with `state.pt` and `sha256`. It is written under another
name, flushed to the disk and renamed, so that a kill at any moment leaves whole checkpoints only.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from xvit.errors import WeightsError, XViTError, XViTWarning

EARLIER = "checkpoints.earlier"
STATE, DIGEST = "state.pt", "sha256"
UNFINISHED = ".unfinished"
NAME = re.compile(r"step_\d{8}")


def save_checkpoint(run: Path, step: int, state: dict[str, Any], *, keep_last: int) -> Path:
    """Write `state` as the checkpoint of `step` and delete all but the newest `keep_last`.

    Raises XViTError where the disk is full or the folder cannot be written; older checkpoints stay.
    """
    target = run / "checkpoints" / f"step_{step:08}"
    draft = target.with_name(target.name + UNFINISHED)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        write_flushed(draft / STATE, content)
        write_flushed(draft / DIGEST, hashlib.sha256(content).hexdigest().encode())
        shutil.rmtree(target, ignore_errors=True)  # what there is of the same step
        os.replace(draft, target)
    except OSError as err:
        shutil.rmtree(draft, ignore_errors=True)
        raise XViTError(
            f"{target}: cannot save: {err.strerror}; the checkpoints before it are whole"
        ) from err
    for old in find_checkpoints(run)[keep_last:]:
        shutil.rmtree(old)
    return target


def find_checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, newest first, whole or not; other files there are not ours."""
    found = (run / "checkpoints").glob("step_*")
    return sorted((path for path in found if NAME.fullmatch(path.name) and path.is_dir()), reverse=True)


def set_aside(run: Path) -> None:
    """Make place for a run that begins anew: an earlier one's files go to `checkpoints.earlier`, or `.2`, ….

    Beside checkpoints of later steps the new ones would not be the newest, and files in the released code's
    layout would be written over.
    """
    ours, theirs = find_checkpoints(run), sorted((run / "checkpoints").glob("*.pyth"), reverse=True)
    if not (ours or theirs):
        return
    place, number = run / EARLIER, 1
    while place.exists():
        number += 1
        place = run / f"{EARLIER}.{number}"
    os.replace(run / "checkpoints", place)
    newest = place / (ours or theirs)[0].name
    hint = "" if ours else f"; train.init_from={newest} (TRAIN.CHECKPOINT_FILE_PATH) begins with its weights"
    warnings.warn(
        f"{run}: begins anew; its checkpoints ({newest.name} and earlier) are in {place.name} now{hint}",
        XViTWarning,
        stacklevel=2,
    )


def set_damaged_aside(run: Path, step: int) -> None:
    """Checkpoints of steps after the one that the run goes on from are damaged: they are to count no more."""
    for path in find_checkpoints(run):
        if int(path.name.removeprefix("step_")) > step:
            damaged = path.with_name(path.name + ".damaged")
            shutil.rmtree(damaged, ignore_errors=True)
            os.replace(path, damaged)


def load_newest(run: Path) -> dict[str, Any] | None:
    """The newest intact checkpoint's state, on the CPU; None where there is none. Warns of damaged ones."""
    found = find_checkpoints(run)
    for path in found:
        try:
            return read_checkpoint(path)
        except WeightsError as err:
            then = "there is none before it" if path == found[-1] else "trying the checkpoint before it"
            warnings.warn(f"{err}; {then}", XViTWarning, stacklevel=2)
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint folder. Raises WeightsError where it is damaged."""
    try:
        content, digest = (path / STATE).read_bytes(), (path / DIGEST).read_text()
    except OSError as err:
        raise WeightsError(path, f"a damaged checkpoint: {err.strerror}") from err
    if hashlib.sha256(content).hexdigest() != digest:
        raise WeightsError(path, "a damaged checkpoint: its content is not what was written")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
