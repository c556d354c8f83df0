"""A trained model as a file that runs without this package: ONNX, int8 ONNX, or torch.export's .pt2."""

from __future__ import annotations

from xvit.export.files import FORMATS, export_model
from xvit.export.verify import Agreement, labelled_clips, verify_export, verify_stream

__all__ = ["FORMATS", "Agreement", "export_model", "labelled_clips", "verify_export", "verify_stream"]
