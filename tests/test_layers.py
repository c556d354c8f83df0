"""Imports point down only; the command line's top imports no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "xvit"
LAYERS = [  # top to bottom
    {"__main__"},
    {"cli", "cli_original"},
    {"cli_explain", "cli_serve", "cli_stream"},
    {"cli_data", "cli_eval", "cli_export", "cli_models", "cli_predict"},
    {"compat_settings"},
    {"compat"},
    {"demo"},
    {"export", "web"},
    {"visualize"},
    {"predict", "report"},
    {"engine"},
    {"models", "data", "exported"},
    {"config"},
    {"config_errors", "config_files", "config_keys", "config_values"},
    {"errors", "types"},
]
ANYWHERE = {"__init__"}


def layer_of(room: str) -> int:
    return next(i for i, rooms in enumerate(LAYERS) if room in rooms)


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path.name}: relative import"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "xvit"
                else [node.module]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("xvit.")}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_down(path: Path) -> None:
    room = path.relative_to(SRC).parts[0].removesuffix(".py")
    if room in ANYWHERE:
        return
    for target in imported_rooms(path) - {room}:
        assert layer_of(target) > layer_of(room), f"{room} imports {target}, which is not below it"


@pytest.mark.parametrize("module", ["xvit", "xvit.cli", "xvit.config"])
def test_surface_imports_without_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
