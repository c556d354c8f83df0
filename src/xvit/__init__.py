"""XViT: video recognition at the cost of an image transformer.

The public names below are imported on first use, so that `import xvit` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xvit.config import Config, Mixing, load_config
    from xvit.errors import VideoReadError, XViTError
    from xvit.models import XViT, create_model, list_models, load_model
    from xvit.models.hub import from_pretrained, push_to_hub, save_pretrained
    from xvit.predict import Predictor

__version__ = "0.1.0"

_HOMES = {
    "Config": "xvit.config",
    "Mixing": "xvit.config",
    "load_config": "xvit.config",
    "VideoReadError": "xvit.errors",
    "XViTError": "xvit.errors",
    "XViT": "xvit.models",
    "create_model": "xvit.models",
    "list_models": "xvit.models",
    "load_model": "xvit.models",
    "from_pretrained": "xvit.models.hub",
    "push_to_hub": "xvit.models.hub",
    "save_pretrained": "xvit.models.hub",
    "Predictor": "xvit.predict",
}
__all__ = [
    "Config",
    "Mixing",
    "Predictor",
    "VideoReadError",
    "XViT",
    "XViTError",
    "__version__",
    "create_model",
    "from_pretrained",
    "list_models",
    "load_config",
    "load_model",
    "push_to_hub",
    "save_pretrained",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'xvit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
