"""docs/paper.md names things that exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from tiny import ARGS

from xvit.config import Mixing, load_config
from xvit.models import build_model

TEXT = (Path(__file__).parents[2] / "docs" / "paper.md").read_text(encoding="utf8")
OVERRIDES = sorted(
    {words for words in re.findall(r"`([^`]*)`", TEXT) if re.match(r"(model|data)\.\S+=", words)}
)


def test_names() -> None:
    names = re.findall(r"models/(\w+)\.py::([\w.]+)", TEXT)
    assert len(names) > 8
    for module, name in names:
        thing = importlib.import_module(f"xvit.models.{module}")
        for part in name.split("."):
            thing = getattr(thing, part)
    for name in re.findall(r"`Mixing\.(\w+)`", TEXT):
        assert name in Mixing.__dataclass_fields__


@pytest.mark.parametrize("words", OVERRIDES)
def test_overrides(words: str) -> None:
    config = load_config(None, words.split())
    small = {"name": "vit_tiny_patch16_224", "backbone_args": ARGS | {"img_size": 16}}
    build_model(config.model.model_copy(update=small), num_classes=2, clip=config.data)


def test_every_ablation_is_there() -> None:
    assert len(OVERRIDES) > 25
