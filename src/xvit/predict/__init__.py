"""What happens in a video: files, folders, arrays and films."""

from __future__ import annotations

from xvit.predict.predictor import Predictor

__all__ = ["Predictor"]
