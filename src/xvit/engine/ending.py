"""How a training ends: with its results written, also in the middle of a step that takes too long."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from xvit.engine.processes import Words
from xvit.engine.runlog import RunLog, to_json
from xvit.engine.setup import Run
from xvit.errors import VideoReadError, XViTError
from xvit.models import save_model

FIRST_SAVES_SECONDS = 15.0
OTHERS_LEAVE_SECONDS = 1.0


@contextlib.contextmanager
def mendable(folder: Path) -> Iterator[None]:
    """What the run's folder does not take outside of a checkpoint (log, model) as one line, such as on a full
    disk or where the folder is gone; the way on from an unreadable video.

    Raises XViTError.
    """
    try:
        yield
    except VideoReadError as err:
        raise VideoReadError(
            err.path,
            f"{err.reason}; data.on_error=skip leaves such videos out, `xvit data check` lists them all",
        ) from err
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            way = "make room and go on with train.resume=auto: the checkpoints are whole"
            raise XViTError(f"{folder}: {err.strerror}; {way}") from err
        if not str(err.filename).startswith(str(folder)):
            raise
        raise XViTError(
            f"{err.filename}: {err.strerror}; mend that and go on with train.resume=auto"
        ) from err


def give_up_step(
    run: Run, log: RunLog, steps: int, conclude: Callable[[Path], None] | None, words: Words | None
) -> None:
    """Save what the last whole step left and end the process, in the middle of the step that takes too long.

    Of several processes the first saves, whose weights are those of all, and the others end when it has.
    Where weights are in parts, or there are no `words`, none can do without the others: steps are waited for.
    """
    if run.sharded or (words is None and run.accelerator.num_processes > 1):
        return
    if words is not None and not run.is_main:
        _leave_after_first(run, words)
        return
    with run.changing:
        if run.finished:
            return
        run.alone, code = True, 0
        try:
            if run.step:  # before the first step there is nothing that starting again would not do
                run.save(run.step)
            finish(run, log, run.step, steps, stopped=True)
            if conclude is not None:
                conclude(run.folder)
        except (OSError, XViTError) as err:
            print(f"xvit: {err}", file=sys.stderr)
            code = 2
        if words is not None:
            words.put("saved")
            time.sleep(OTHERS_LEAVE_SECONDS)  # one that waits for this process would call its end an error
        _leave(code)


def _leave_after_first(run: Run, words: Words) -> None:
    deadline = time.monotonic() + FIRST_SAVES_SECONDS
    while not run.finished and time.monotonic() < deadline:
        if words.has("saved") or words.lost:
            _leave(0)
        time.sleep(0.1)


def _leave(code: int) -> NoReturn:
    for worker in multiprocessing.active_children():
        worker.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def finish(run: Run, log: RunLog, step: int, steps: int, *, stopped: bool) -> None:
    """Write the model and the final metrics."""
    with run.changing:
        write_results(run, log, step, steps, stopped)
        run.finished = True
    if not run.alone:
        run.accelerator.wait_for_everyone()
    for tracker in run.accelerator.trackers:
        tracker.finish()


def write_results(run: Run, log: RunLog, step: int, steps: int, stopped: bool) -> None:
    """The last event, the model, `metrics.json`."""
    metrics = {"step": step, "steps": steps, "stopped": stopped, **run.best, **run.metrics}
    metrics |= {"unreadable": run.all_unreadable(), "nonfinite": run.nonfinite}
    metrics["list_sha256"] = {"train": run.train_list.digest, "val": run.val_list.digest}
    log.write("end", **metrics)
    model = run.evaluated()
    if run.is_main:
        save_model(model, run.folder)
        text = to_json(metrics, indent=2) + "\n"
        (run.folder / "metrics.json").write_text(text, encoding="utf8")
