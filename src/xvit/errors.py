"""Errors that are the user's to mend: one line each, naming the file, line or key and the way out."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any


class XViTError(Exception):
    """Base of all errors below; the command line prints its text and exits with code 2."""


class ConfigError(XViTError):
    """A configuration that cannot be used; the message names the key and the value."""


class DatasetError(XViTError):
    """A dataset that cannot be used; the message names the file and, where there is one, the line."""


class WeightsError(XViTError):
    """A weight file or run folder that cannot be used."""

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"{path}: {reason}")

    def __reduce__(self) -> tuple[type[WeightsError], tuple[str, str]]:
        return type(self), (self.path, self.reason)


class VideoReadError(XViTError):
    """A video that cannot be read: `path` and `reason`."""

    def __init__(self, path: str | Path, reason: str | None = None) -> None:
        if reason is None:  # DataLoader rebuilds a worker's error from its traceback, whose last line is ours
            last = str(path).strip().rpartition("\n")[2]
            path, _, reason = last.removeprefix(f"{type(self).__module__}.VideoReadError: ").partition(": ")
        self.path = str(path)
        self.reason = reason
        super().__init__(f"{path}: {reason}")

    def __reduce__(self) -> tuple[type[VideoReadError], tuple[str, str]]:
        # Loader workers pickle their errors; the default would call __init__ with the whole message.
        return type(self), (self.path, self.reason)


class XViTWarning(UserWarning):
    """What the user should know of but need not mend."""


def warn_in_one_line() -> None:
    """Print our warnings as the command line prints errors, without the place in the code."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, XViTWarning):
            print(f"xvit: {message}", file=sys.stderr)
        else:
            shown(message, category, *place)

    warnings.showwarning = show  # type: ignore[assignment]
