"""Image weights by timm's names, from the Hugging Face hub or from what was fetched before."""

from __future__ import annotations

import contextlib
import socket
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import timm
from huggingface_hub import constants
from torch import Tensor

from xvit.errors import WeightsError

SECONDS = 5.0  # for a connection
WAY_OUT = "model.backbone_weights=FILE takes them from a file, model.backbone_weights=null begins without"


def timm_weights(name: str) -> dict[str, Tensor]:
    """The pretrained weights of timm's model `name`. Raises WeightsError with the way out."""
    try:
        with _no_patience_without_network():
            state: dict[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
    except RuntimeError as err:
        raise WeightsError(name, f"timm has no pretrained weights of it ({err}); {WAY_OUT}") from err
    except OSError as err:
        raise WeightsError(
            name, f"timm's weights are not on this machine and cannot be fetched (no network?); {WAY_OUT}"
        ) from err
    return state


@contextlib.contextmanager
def _no_patience_without_network() -> Iterator[None]:
    """The hub's client tries for a minute, a line a try, where there is no network at all."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(url: str) -> bool:
    if urllib.request.getproxies():  # names may be known to the proxy alone
        return True
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=SECONDS).close()
    except OSError:
        return False
    return True
