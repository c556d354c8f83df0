"""The original command, `tools/run_net.py`: train and test as the keys say, on any number of machines."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from xvit.compat import JOB_DEFAULTS, Settings, translate
from xvit.compat_settings import name_key, nest, read_settings
from xvit.config import Config, make_config
from xvit.config_files import flatten
from xvit.engine.signals import leaving_at_once
from xvit.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, then test, as `TRAIN.ENABLE` and `TEST.ENABLE` say. Raises XViTError."""
    parser = argparse.ArgumentParser(prog="run_net.py", description="Train and test an XViT.")
    parser.add_argument("--cfg", dest="config", help="a YAML file, today's or of the original code")
    parser.add_argument("--shard_id", type=int, help="number of this machine, from 0")
    parser.add_argument("--num_shards", type=int, help="number of machines")
    parser.add_argument("--init_method", default="tcp://localhost:9999", help="tcp://HOST:PORT of machine 0")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="KEY VALUE or KEY=VALUE")
    args = parser.parse_args(arguments)
    values, settings, given = read_settings(args.config, args.options)
    if args.num_shards is not None:
        settings["NUM_SHARDS"] = args.num_shards
    if args.shard_id is not None:
        settings["SHARD_ID"] = args.shard_id
    job = _read_job(settings)
    ours, notes = translate(settings)
    if "eval.combine" not in dict(flatten(values)):
        ours.setdefault("eval.combine", "logits")  # the released code adds up raw logits
    nest(values, ours | given)
    try:
        config = make_config(values)
    except ConfigError as err:
        raise ConfigError(name_key(str(err), settings)) from err
    gpus = job["NUM_GPUS"] if "NUM_GPUS" in settings else None
    again = ["python", sys.argv[0], *(sys.argv[1:] if arguments is None else arguments)]
    with leaving_at_once(again) if job["TRAIN.ENABLE"] else contextlib.nullcontext():
        _launch(gpus, job["NUM_SHARDS"], job["SHARD_ID"], args.init_method)
        for line in notes if _is_main() else ():
            print(f"note: {line}", file=sys.stderr)
        _run(config, job, again)


def _read_job(settings: Settings) -> Settings:
    """What `settings` say of the job itself, and the defaults. Raises ConfigError."""
    job = JOB_DEFAULTS | {key: value for key, value in settings.items() if key in JOB_DEFAULTS}
    for key, default in JOB_DEFAULTS.items():
        number = default is None or isinstance(default, int)  # 0 and 1 will do for a switch
        if job[key] != default and not isinstance(job[key], int if number else str):
            raise ConfigError(f"{key}: must be such as {default or 224!r}, got {job[key]!r}")
    for key, least in {"NUM_GPUS": 0, "NUM_SHARDS": 1, "SHARD_ID": 0}.items():
        if job[key] < least:
            raise ConfigError(f"{key} must be at least {least}, got {job[key]}")
    if job["SHARD_ID"] >= job["NUM_SHARDS"]:
        raise ConfigError(
            f"SHARD_ID is {job['SHARD_ID']} of {job['NUM_SHARDS']} machines (NUM_SHARDS), counted from 0"
        )
    return job


def _run(config: Config, job: Settings, again: Sequence[str]) -> None:
    from xvit.engine.processes import part
    from xvit.engine.protocol import evaluate_run
    from xvit.engine.results import table
    from xvit.engine.train import train
    from xvit.report import report_run
    from xvit.report.curves import conclude

    weights = job["TEST.CHECKPOINT_FILE_PATH"]
    if job["TRAIN.ENABLE"]:
        run = train(config, conclude=lambda folder: conclude(folder, again))
        if json.loads((run / "metrics.json").read_text(encoding="utf8"))["stopped"]:
            return part()  # who stops a training does not wait for its test
        weights = str(run)
    if job["TEST.ENABLE"]:
        if not weights:
            raise ConfigError("TEST.CHECKPOINT_FILE_PATH is not set: which weights are to be tested?")
        size = job["DATA.TEST_CROP_SIZE"]
        evaluated = evaluate_run(
            weights,
            data=config.data.root,
            views=config.eval.views,
            overrides=[f"eval.batch_size={config.eval.batch_size}", f"eval.combine={config.eval.combine}"]
            + [f"data.num_workers={config.data.num_workers}"]
            + ([f"data.size={size}"] if size else []),
            output=Path(config.output),
            command=shlex.join(again),
        )
        if _is_main():
            page = report_run(evaluated)
            print(table(evaluated.found))
            print(f"saved {page}")
    part()


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _launch(gpus: int | None, machines: int, number: int, address: str) -> None:
    """Replace this process by torchrun where several are asked for and none was launched yet."""
    if "RANK" in os.environ:
        return
    import torch

    present = torch.cuda.device_count()
    if gpus is not None and gpus > max(present, 1):
        print(
            f"NUM_GPUS is {gpus}, this machine has {present}: the global batch and the learning rate stay",
            file=sys.stderr,
        )
    processes = min(gpus if gpus is not None else present, present) or 1
    if processes * machines == 1:
        return
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if machines > 1 and not (host and port.isdecimal()):
        raise ConfigError(f"--init_method: must be such as tcp://HOST:9999, got {address}")
    command = [sys.executable, "-m", "torch.distributed.run"]
    command += ["--nproc-per-node", str(processes)]
    if machines == 1:
        command += ["--standalone"]  # finds a free port, so that two runs fit on one machine
    else:
        command += ["--nnodes", str(machines), "--node-rank", str(number)]
        command += ["--master-addr", host, "--master-port", port]
    sys.stderr.flush()
    os.execv(sys.executable, [*command, *sys.argv])
