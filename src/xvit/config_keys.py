"""Every key of a configuration with its default and its meaning, for people who look for one."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

WIDTH = 100


class Key(NamedTuple):
    """A key with dots, its default as YAML writes it, its values where they are named, its meaning."""

    name: str
    default: str
    choices: tuple[str, ...]
    meaning: str


def list_keys(config: BaseModel, word: str = "") -> list[Key]:
    """The keys of a configuration, defaults from `config` itself, that have `word` in name or meaning."""
    return [key for key in _keys(config) if word.lower() in f"{key.name} {key.meaning}".lower()]


def write_keys(keys: list[Key]) -> str:
    """Keys as text: `train.lr = 0.001`, then what it means."""
    lines = []
    for key in keys:
        choices = f"  ({' | '.join(key.choices)})" if key.choices else ""
        lines.append(f"{key.name}={key.default}{choices}")
        lines += textwrap.wrap(key.meaning, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def _keys(section: Any, prefix: str = "") -> Iterator[Key]:
    """In the order of the file; a section's own keys before those of the sections in it."""
    hints = typing.get_type_hints(type(section))
    names = [name for name in _names(section) if not _is_section(getattr(section, name))]
    meanings = _meanings(type(section))
    for name in names:
        choices = tuple(str(choice) for choice in _choices(hints[name]))
        yield Key(prefix + name, _as_yaml(getattr(section, name)), choices, meanings.get(name, ""))
    for name in _names(section):
        if name not in names:
            yield from _keys(getattr(section, name), f"{prefix}{name}.")


def _names(section: Any) -> list[str]:
    if isinstance(section, BaseModel):
        return list(type(section).model_fields)
    return [field.name for field in dataclasses.fields(section)]


def _is_section(value: Any) -> bool:
    return isinstance(value, BaseModel) or dataclasses.is_dataclass(value)


def _choices(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def _meanings(section: type) -> dict[str, str]:
    """What the docstrings of a section and of those it extends say: `name: meaning`, over several lines."""
    found: dict[str, str] = {}
    for kind in reversed(section.__mro__):
        name = ""
        for line in inspect.cleandoc(kind.__doc__ or "").splitlines():
            begins = re.match(r"(\w+):\s+(.*)", line)
            if begins:
                name, text = begins.groups()
                found[name] = text
            elif name and line.startswith("  "):
                found[name] += " " + line.strip()
            else:
                name = ""
    return {name: re.sub(r"\bNone\b", "null", text) for name, text in found.items()}


def _as_yaml(value: Any) -> str:
    value = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")
