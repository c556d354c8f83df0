"""What the authors published: results, and the weight files that can be fetched by name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from xvit.errors import ConfigError, WeightsError
from xvit.models.download import fetch

AUTHORS = "https://www.adrianbulat.com/downloads/NeurIPS2021/models/"


@dataclass(frozen=True)
class Published:
    """A published result; none of these numbers was measured here.

    views: crops×clips. top1, top5: percent; for EPIC-100 the action's top-1. file: the authors' weight file,
    None where they gave only the number. source: "README" of their code, or "paper".
    """

    name: str
    data: str
    num_frames: int
    views: str
    top1: float
    top5: float | None
    source: str
    file: str | None = None


K600 = "xvit_base_patch16_16x16.k600"
SSV2 = "xvit_base_patch16_16x16.ssv2"

PUBLISHED = (
    Published(K600, "Kinetics-600", 16, "3x1", 84.51, 96.26, "README", "xvit_b16_16_k600.pth"),
    Published(K600, "Kinetics-600", 16, "3x2", 84.71, 96.39, "README", "xvit_b16_16_k600.pth"),
    # The README says "32x2"; the configuration beside it has 3 crops and 2 clips.
    Published(SSV2, "SSv2", 16, "3x2", 67.19, 91.00, "README", "xvit_b16_16_ss2.pth"),
    Published("xvit_base_patch16_8", "Kinetics-400", 8, "3x1", 78.5, 93.7, "paper"),
    Published("xvit_base_patch16_16", "Kinetics-400", 16, "3x1", 80.2, 94.7, "paper"),
    Published("xvit_base_patch16_8", "SSv2", 8, "3x1", 63.4, 89.6, "paper"),
    Published("xvit_base_patch16_16", "SSv2", 16, "3x1", 65.2, 90.6, "paper"),
    Published("xvit_base_patch16_32", "SSv2", 32, "3x1", 65.4, 90.7, "paper"),
    Published("xvit_base_patch16_8", "EPIC-100 action", 8, "3x1", 41.5, None, "paper"),
    Published("xvit_base_patch16_16", "EPIC-100 action", 16, "3x1", 44.3, None, "paper"),
)
FILES = {row.name: row.file for row in PUBLISHED if row.file is not None}


def home() -> Path:
    """Where fetched weights are kept: XVIT_HOME, by default `xvit` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("XVIT_HOME") or f"{cache}/xvit").expanduser()


def pull(name: str) -> Path:
    """The folder of a published model in our layout; fetched and converted the first time.

    `XVIT_HOME/zoo.yaml` may hold `mirrors:` (addresses that are asked before the authors') and
    `offline: true`; XVIT_MIRRORS (separated by spaces) and XVIT_OFFLINE=1 say the same. Raises WeightsError
    or ConfigError.
    """
    # Here, because conversion builds on loading, and loading by name on this file.
    from xvit.models.convert import convert_weights

    if name not in FILES:
        raise WeightsError(name, f"no published file of this name; there are {', '.join(FILES)}")
    mirrors, offline = _settings()
    urls = [f"{base.rstrip('/')}/{FILES[name]}" for base in (*mirrors, AUTHORS)]
    downloaded = fetch(FILES[name], urls, home() / "downloads", offline=offline)
    folder = home() / "models" / name
    if not (folder / "config.json").exists():  # written last
        convert_weights(downloaded, folder)
    return folder


def is_cached(name: str) -> bool:
    """Whether `pull(name)` would need no network."""
    return name in FILES and (home() / "downloads" / FILES[name]).exists()


def _settings() -> tuple[list[str], bool]:
    file = home() / "zoo.yaml"
    values: Any = {}
    if file.exists():
        try:
            values = yaml.safe_load(file.read_text(encoding="utf8")) or {}
        except yaml.YAMLError as err:
            raise ConfigError(f"{file}: not YAML") from err
        if not isinstance(values, dict) or not values.keys() <= {"mirrors", "offline"}:
            raise ConfigError(f"{file}: the keys are mirrors and offline")
    mirrors, source = os.environ.get("XVIT_MIRRORS", "").split(), "XVIT_MIRRORS"
    if not mirrors:
        listed = values.get("mirrors") or []
        mirrors, source = [listed] if isinstance(listed, str) else list(listed), str(file)
    for address in mirrors:
        if not str(address).startswith(("http://", "https://", "file://")):
            raise ConfigError(f"{source}: a mirror begins with https:// or http://, got {str(address)!r}")
    offline = os.environ.get("XVIT_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    return mirrors, offline or bool(values.get("offline", False))
