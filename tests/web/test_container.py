"""The Dockerfile's lines, done without Docker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_line_of_the_dockerfile(trained: Path) -> None:
    if os.getuid() != 0 or not (shutil.which("unshare") and shutil.which("setpriv")):
        pytest.skip("needs root, unshare and setpriv")
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    # Through a shell: what setpriv itself starts still has root's rights to look into folders.
    command = ["sh", "-c", f"{sys.executable} -c ''"]
    other = ["setpriv", "--reuid", "10001", "--regid", "10001", "--clear-groups", *command]
    if subprocess.run(other, check=False, capture_output=True).returncode:
        pytest.skip("needs a Python that other users may run")
    found = subprocess.run(
        [sys.executable, "tools/check_container.py", str(trained), "--installed"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.endswith("healthy\nevery line holds\n")
