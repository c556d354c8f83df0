"""Kinds of values that configuration keys take, and the section whose fields they are."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


def _as_path(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return os.path.expanduser(text)


PathText = Annotated[str, AfterValidator(_as_path)]  # ~ is the home folder, in files too


def no_switch(value: Any) -> Any:
    """Without this `train.lr=true` is a learning rate of 1."""
    if any(isinstance(item, bool) for item in (value if isinstance(value, list | tuple) else (value,))):
        raise ValueError("is no switch")
    return value


class Section(BaseModel):
    """Frozen; unknown keys, nan, inf, and true or false for anything but a switch are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_switches(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and get_origin(kind) is Literal:  # YAML takes yes and no for switches
            raise ValueError(f"is no switch but one of {', '.join(map(str, get_args(kind)))}")
        return value if kind is bool else no_switch(value)
