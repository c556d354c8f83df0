"""The model: building, saving and loading it."""

from xvit.models.checkpoint import load_model, save_model
from xvit.models.xvit import XViT, build_model
from xvit.models.zoo import create_model, list_models

__all__ = ["XViT", "build_model", "create_model", "list_models", "load_model", "save_model"]
