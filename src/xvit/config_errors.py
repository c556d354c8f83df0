"""What is wrong with a configuration, in the user's words: which key, and which one was meant."""

from __future__ import annotations

import difflib
import types
import typing
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(err: ValidationError, config: type[BaseModel]) -> str:
    """The first problem of a validation of `config`, as one line in the user's words."""
    problem = err.errors()[0]
    # Union members ("tuple[int, ...]") appear in the location; keys are what the user can find again.
    known = {name for section in _sections(config) for name in _field_types(section)}
    location = [str(part) for part in problem["loc"] if isinstance(part, int) or str(part) in known]
    key = ".".join(location)
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        key = ".".join(str(part) for part in problem["loc"])
        return f"unknown key {key}{_nearest(key, config)}"
    value = problem["input"]
    bound = problem.get("ctx", {})
    match problem["type"]:
        case "greater_than" if bound["gt"] == 0:
            return f"{key} must be positive, got {value}"
        case "greater_than_equal":
            return f"{key} must be at least {bound['ge']}, got {value}"
        case "less_than_equal":
            return f"{key} must be at most {bound['le']}, got {value}"
        case "literal_error":
            return f"{key} must be {bound['expected']}, got {value!r}"
        case "tuple_type":
            return f"{key}: should be a list in brackets, got {value!r}"
        case "model_type" | "dict_type" | "dataclass_type":
            return f"{key} is a section with keys of its own, got {value!r}"
    text = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key}: {text}, got {value!r}" if key else text


def _nearest(key: str, config: type[BaseModel]) -> str:
    names = all_keys(config)
    word = key.rsplit(".", 1)[-1]
    near = [name for name in names if _stands_for(name.rsplit(".", 1)[-1], word)][:1]
    near = near or difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    if not near:  # the right word in the wrong section
        near = [name for name in names if name.rsplit(".", 1)[-1] == word][:1]
    return f"; did you mean {near[0]}?" if near else "; xvit train --keys all lists those there are"


def _stands_for(one: str, other: str) -> bool:
    """Whether one of two words is made of the other's initials, as lr of learning_rate's."""
    return any(
        "".join(part[:1] for part in long.split("_")) == short
        for long, short in ((one, other), (other, one))
        if "_" in long
    )


def _field_types(section: type) -> dict[str, Any]:
    if issubclass(section, BaseModel):
        return {name: field.annotation for name, field in section.model_fields.items()}
    return typing.get_type_hints(section)


def _sections(section: type) -> list[type]:
    inner = [t for t in _field_types(section).values() if _is_section(t)]
    return [section, *(s for t in inner for s in _sections(t))]


def all_keys(section: type, prefix: str = "") -> list[str]:
    """Every key below a section, sections included, with dots."""
    keys = []
    for name, annotation in _field_types(section).items():
        keys.append(prefix + name)
        if _is_section(annotation):
            keys += all_keys(annotation, f"{prefix}{name}.")
    return keys


def _is_section(annotation: Any) -> bool:
    if isinstance(annotation, types.UnionType) or not isinstance(annotation, type):
        return False
    return issubclass(annotation, BaseModel) or hasattr(annotation, "__pydantic_config__")
