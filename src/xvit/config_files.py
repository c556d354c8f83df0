"""Configuration files, the user's or one that ships with the package, and values on the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from xvit.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: the last would silently replace the first, a whole section too."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"{key.value} stands here a second time"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The nested mapping in a YAML file. Raises ConfigError."""
    file = _find(path)
    try:
        values = yaml.load(file.read_text(encoding="utf8"), _Loader)
    except yaml.MarkedYAMLError as err:
        line = f":{err.problem_mark.line + 1}" if err.problem_mark else ""
        raise ConfigError(f"{file}{line}: not YAML: {err.problem}") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(f"{file}: not YAML text") from err
    except OSError as err:
        raise ConfigError(f"{file}: {err.strerror}") from err
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{file}: expected keys such as `model:` and `data:` at the top")
    return values


def _find(path: str | Path) -> Path:
    file = Path(path)
    if file.exists():
        return file
    packaged = str(path).removeprefix("configs/").removesuffix(".yaml") + ".yaml"
    for root in (resources.files("xvit") / "configs", Path(__file__).parents[2] / "configs"):
        candidate = Path(str(root)) / packaged
        if candidate.exists():
            return candidate
    way = "; a file comes before key=value, such as finetune/small_data" if "=" in str(path) else ""
    raise ConfigError(f"{path}: no such configuration file{way}")


def read_value(text: str) -> Any:
    """A value as YAML reads it; a string that happens to hold YAML's punctuation stays one."""
    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        return text


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested sections. Raises ConfigError where a section is a value."""
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key}: {parent} is a value, not a section")
    values[last] = value


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested sections: what `put` takes."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
