"""What does a model cost in each form that it can be deployed in?

    python benchmarks/deploy.py                      # ViT-B/16, 16 frames, batch 1, 2 threads
    python benchmarks/deploy.py --model vit_small_patch16_224 --frames 4 --forms 'onnx fp32' 'onnx int8'

One XViT with random weights is saved as a run folder, as ONNX, as 8-bit ONNX and as .pt2. Every form is
loaded from its file by a process of its own, which stays; then all score the same clip in turn, in changing
order, so that a slow minute of the machine slows all. *load*: from the start of that process to the model
being ready, imports included. *first*: the first clip, with what is compiled or allocated only then. *clip*:
the median of the rounds after it; ratios are medians of the rounds' ratios. *peak*: the most memory the
process ever held. *differs*: the largest difference of a logit from eager float32's, over its largest logit.
A form that has taken --most seconds leaves the later rounds.

"timm" is timm's own ViT on every frame. "explicit softmax" is the form of the released code's attention:
shifted copies of keys and values, then softmax(q kᵀ) v with every matrix in memory, in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CLASSES = 400
TIMM, EAGER, EXPLICIT = "timm fp32", "eager fp32", "explicit softmax fp32"
Run = Callable[[Tensor], Tensor]
# The libraries of a form are imported by the process that loads it, since that is part of loading.


def load_timm(folder: Path) -> Run:
    from model import ImageModel

    model = ImageModel(CLASSES, json.loads((folder / "name.json").read_text()))
    model.load_state_dict(torch.load(folder / "timm.pt", weights_only=True))
    return model.eval()


def load_eager(folder: Path, dtype: torch.dtype = torch.float32, compiled: bool = False) -> Run:
    from xvit.models import load_model

    model = load_model(folder / "run").to(dtype)
    run: Run = torch.compile(model) if compiled else model
    return lambda frames: run(frames.to(dtype))


def load_explicit(folder: Path) -> Run:
    from xvit.models import load_model
    from xvit.models.mixing import SpaceTimeAttention

    model = load_model(folder / "run")
    for layer in model.backbone.blocks.modules():
        if isinstance(layer, SpaceTimeAttention):
            layer.forward = partial(explicit_attention, layer)  # type: ignore[method-assign]
    return model


def explicit_attention(layer: Any, x: Tensor, attn_mask: None = None, is_causal: bool = False) -> Tensor:
    """x: (B, T, N, C) -> (B, T, N, C), mixing its keys and values, each step a tensor of its own."""
    from xvit.models.mixing import mix_frames

    query, key, value = layer.qkv(x).chunk(3, dim=-1)
    key, value = (mix_frames(y, layer.mixing, layer.num_heads) for y in (key, value))
    heads = (*x.shape[:3], layer.num_heads, layer.head_dim)
    query, key, value = (y.reshape(heads).transpose(2, 3) for y in (query, key, value))
    weights = (query @ key.transpose(-2, -1) * layer.scale).softmax(dim=-1)  # (B, T, heads, N, N)
    return layer.proj((weights @ value).transpose(2, 3).reshape(x.shape))


def load_file(folder: Path, name: str) -> Run:
    from xvit.exported import load_exported

    return load_exported(folder / name, "cpu")


FORMS: dict[str, Callable[[Path], Run]] = {
    TIMM: load_timm,
    EAGER: load_eager,
    "eager bf16": partial(load_eager, dtype=torch.bfloat16),
    "compiled fp32": partial(load_eager, compiled=True),
    "compiled bf16": partial(load_eager, dtype=torch.bfloat16, compiled=True),
    "pt2 fp32": partial(load_file, name="model.pt2"),
    "onnx fp32": partial(load_file, name="model.onnx"),
    "onnx int8": partial(load_file, name="int8.onnx"),
    EXPLICIT: load_explicit,
}
FILES = {
    "pt2 fp32": ("pt2", "model.pt2"),
    "onnx fp32": ("onnx", "model.onnx"),
    "onnx int8": ("onnx-int8", "int8.onnx"),
}


def write_files(folder: Path, args: argparse.Namespace) -> None:
    """The same model as every form loads it."""
    from model import ImageModel

    from xvit import create_model
    from xvit.export import export_model
    from xvit.models import save_model

    (folder / "name.json").write_text(json.dumps(args.model))
    torch.save(ImageModel(CLASSES, args.model).state_dict(), folder / "timm.pt")
    model = create_model(args.model, num_classes=CLASSES, num_frames=args.frames).eval()
    save_model(model, folder / "run")
    torch.save(torch.randn(1, args.frames, 3, model.clip.size, model.clip.size), folder / "clip.pt")
    for form, (to, name) in FILES.items():
        if form in args.forms:
            started = time.perf_counter()
            export_model(model, folder / name, to)
            megabytes = (folder / name).stat().st_size / 1e6
            print(f"{form}: {megabytes:.0f} MB, written in {time.perf_counter() - started:.0f} s", flush=True)


def serve_form(name: str, folder: Path) -> None:
    """What a form's own process does: one clip for each line of input; at its end what it knows of itself."""
    run = FORMS[name](folder)
    print("ready", flush=True)
    clip, logits = torch.load(folder / "clip.pt", weights_only=True), torch.zeros(1)
    with torch.inference_mode():
        for _ in sys.stdin:
            started = time.perf_counter()
            logits = run(clip)
            print(time.perf_counter() - started, flush=True)
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    print(json.dumps({"peak": int(peak[1]) / 1e3, "logits": logits[0].tolist()}))


class Form:
    """The process of one form; `seconds` by round, the first round being number 0."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        self.name = name
        self.seconds: dict[int, float] = {}
        started = time.perf_counter()
        command = [sys.executable, __file__, "--threads", str(threads), "--own", name, str(folder)]
        self._errors = (folder / f"{name}.log").open("w+")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        self._hear()
        self.load = time.perf_counter() - started

    def _hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise SystemExit(f"{self.name} failed:\n{self._errors.read()}")
        return line

    def score(self, number: int) -> None:
        """One clip, as round `number`."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.seconds[number] = float(self._hear())

    def end(self) -> None:
        """Let the process go, with its last words: `peak` in MB and `logits`."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        words = json.loads(self._hear())
        self._process.wait()
        self._errors.close()
        self.peak, self.logits = float(words["peak"]), torch.tensor(words["logits"])

    def over(self, other: Form) -> float:
        """The median of the rounds' ratios; of a form that left after its first clip, that one's."""
        rounds = sorted(self.seconds.keys() & other.seconds.keys())
        return statistics.median(self.seconds[n] / other.seconds[n] for n in rounds[1:] or rounds)

    @property
    def clip(self) -> float:
        """The median after the first."""
        later = [spent for number, spent in self.seconds.items() if number]
        return statistics.median(later or self.seconds.values())


def alternate(forms: list[Form], runs: int, most: float) -> None:
    """The first clip of all, then `runs` rounds, the order turned round every time."""
    for number in range(runs + 1):
        for form in forms if number % 2 else forms[::-1]:
            if sum(form.seconds.values()) < most:
                form.score(number)
                time.sleep(0.1)  # threads of the one before stop spinning


def report(forms: list[Form]) -> None:
    known = {form.name: form for form in forms}
    bases = [known[name] for name in (TIMM, EAGER, EXPLICIT) if name in known]
    heads = "".join(f"  over {base.name.rpartition(' ')[0]:>16}" for base in bases)
    print(f"{'form':22}{'load s':>8}{'first s':>9}{'clip s':>9}{'peak MB':>9}{'differs':>9}{heads}")
    for form in forms:
        differs = "-"
        if form.name != TIMM and EAGER in known:
            right = known[EAGER].logits
            differs = f"{float((form.logits - right).abs().max() / right.abs().max()):.1e}"
        ratios = "".join(f"  {form.over(base):>21.3f}" for base in bases)
        print(
            f"{form.name:22}{form.load:8.1f}{form.seconds[0]:9.2f}{form.clip:9.3f}{form.peak:9.0f}{differs:>9}"
            f"{ratios}  ({len(form.seconds) - 1} rounds)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), metavar="FORM")
    parser.add_argument("--own", nargs=2, metavar=("FORM", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    if args.own:
        serve_form(args.own[0], Path(args.own[1]))
        return
    print(f"{args.model}, {args.frames} frames, batch 1, {args.threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), args)
        forms = [Form(name, Path(folder), args.threads) for name in args.forms]
        alternate(forms, args.runs, args.most)
        for form in forms:
            form.end()
    report(forms)


if __name__ == "__main__":
    main()
