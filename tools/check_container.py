"""The Dockerfile line by line without Docker: `python tools/check_container.py MODEL [--installed]`.

Every instruction is read and done: the build steps in a fresh virtual environment, on copies of the files
that the image would get; the command as the image's user, on a root file system that is read-only, with a
`/tmp` of its own, until the health check succeeds; then it has to end gently. `--installed` takes this
Python's environment instead of building one; `--build-arg NAME=VALUE` is Docker's. Needs Linux, root,
unshare and setpriv; makes the folder /model for the while.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KNOWN = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
MOUNT = Path("/model")  # where the image's command looks for it
Step = tuple[str, str]


def read_steps(path: Path) -> list[Step]:
    """(instruction, the rest of its line); SystemExit on one that is not known."""
    text = re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf8"))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    steps = [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]
    for name, rest in steps:
        if name not in KNOWN:
            raise SystemExit(f"Dockerfile: {name} {rest}: not known here; teach it to {Path(__file__).name}")
    return steps


class Image:
    """What the steps leave behind: environment, copied files, user, command."""

    def __init__(self, work: Path, installed: bool, arguments: list[str]) -> None:
        """arguments: NAME=VALUE, for ARG."""
        self.files, self.installed = work / "files", installed
        self.files.mkdir()
        self.arguments = dict(argument.split("=", 1) for argument in arguments)
        self.environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "2"}
        self.user = "0:0"
        self.health: list[str] = []
        self.entry: list[str] = []
        self.command: list[str] = []
        if installed:
            self.environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
        else:
            subprocess.run([sys.executable, "-m", "venv", str(work / "venv")], check=True)
            self.environment["PATH"] = f"{work / 'venv/bin'}:{os.environ['PATH']}"

    def do(self, name: str, rest: str) -> None:
        """One instruction."""
        print(f"== {name} {rest}", flush=True)
        match name:
            case "FROM":
                assert re.fullmatch(r"python:3\.\d+-slim", rest), "the base is not Python's own slim image"
            case "ARG":
                variable, _, default = rest.partition("=")
                self.environment[variable] = self.arguments.get(variable, default)
            case "ENV":
                for item in shlex.split(rest):
                    variable, _, value = item.partition("=")
                    self.environment[variable] = re.sub(r"\$(\w+)", lambda m: self.environment[m[1]], value)
            case "COPY":
                self._copy(*rest.split())
            case "RUN":
                self._run(rest)
            case "USER":
                self.user = rest
            case "HEALTHCHECK":
                self.health = json.loads(rest[rest.index("[") :])
            case "ENTRYPOINT":
                self.entry = json.loads(rest)
            case "CMD":
                self.command = json.loads(rest)

    def _copy(self, *names: str) -> None:
        *sources, target = names
        for source in sources:
            to = self.files / target
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, to / source)

    def _run(self, command: str) -> None:
        readme = "".join(p.read_text(encoding="utf8") for p in (ROOT / "README.md", ROOT / "docs/serving.md"))
        assert command in readme, f"{command}: not a command of the README"
        if not self.installed:
            subprocess.run(command, shell=True, cwd=self.files, env=self.environment, check=True)

    def start(self, model: Path) -> subprocess.Popen[bytes]:
        """The container's process; `/model` is the model, `/tmp` is empty, the rest can only be read."""
        uid, gid = self.user.split(":")
        MOUNT.mkdir(exist_ok=True)
        assert uid != "0", "the image runs as root"
        command = shlex.join([*self.entry, *self.command])
        mounts = " && ".join(
            (
                "mount --make-rprivate /",
                f"mount --bind {shlex.quote(str(model))} /model",
                "mount -o remount,ro,bind /model && mount -o remount,ro,bind /",
                "mount -t tmpfs tmpfs /tmp && cd /tmp",
                "! touch /written 2>/dev/null",
                f"exec setpriv --reuid {uid} --regid {gid} --clear-groups --no-new-privs {command}",
            )
        )
        return subprocess.Popen(["unshare", "--mount", "sh", "-c", mounts], env=self.environment)

    def healthy(self) -> bool:
        """Whether the health check succeeds."""
        found = subprocess.run(self.health, env=self.environment, capture_output=True, check=False)
        return found.returncode == 0


def main() -> None:
    """Do every step, then serve."""
    arguments = argparse.ArgumentParser(description="Check the Dockerfile line by line without Docker.")
    arguments.add_argument("model", type=Path, help="a run folder")
    arguments.add_argument("--installed", action="store_true", help="do not build an environment")
    arguments.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT.parent) as work:  # not in /tmp, which the service does not see
        os.chmod(work, 0o755)
        image = Image(Path(work), chosen.installed, chosen.build_arg)
        for name, rest in read_steps(ROOT / "Dockerfile"):
            image.do(name, rest)
        with image.start(chosen.model.resolve()) as process:
            try:
                end = time.monotonic() + 120
                while not image.healthy():
                    assert process.poll() is None, "the service ends by itself"
                    assert time.monotonic() < end, "the service does not become healthy"
                    time.sleep(0.5)
                print("healthy", flush=True)
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0, "the service does not end gently"
            finally:
                process.kill()
                MOUNT.rmdir()
    print("every line holds")


if __name__ == "__main__":
    main()
