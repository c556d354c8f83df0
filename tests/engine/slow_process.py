"""Run by torchrun: a training with slow steps, one of which, in one of the processes, never ends.

Arguments: a folder for the processes' numbers, seconds a step, the process and its endless step (from 1), and
what `load_config` takes.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from xvit.config import load_config
from xvit.engine import signals
from xvit.engine import train as module
from xvit.report.curves import conclude

torch.set_num_threads(1)
signs, seconds, process, endless, *arguments = sys.argv[1:]
signals.GRACE_SECONDS = 1.0
real, steps = module.train_step, 0


def slow(*given: Any) -> module.StepResult:
    """`train_step`, later or never."""
    global steps
    steps += 1
    time.sleep(float(seconds))
    if (os.environ["RANK"], steps) == (process, int(endless)):
        Path(signs, "endless").touch()
        time.sleep(3600)
    return real(*given)


module.train_step = slow
Path(signs, f"process_{os.environ['RANK']}").write_text(str(os.getpid()))
module.train(
    load_config(arguments[0], arguments[1:]), conclude=lambda folder: conclude(folder, ["xvit", "train"])
)
