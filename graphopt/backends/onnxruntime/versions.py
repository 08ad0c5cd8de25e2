"""Which ONNX we write."""

from __future__ import annotations

__all__ = ["IR_VERSION", "OPSET"]

OPSET = 23
"""The first opset with Attention and RMSNormalization; ONNX Runtime has run it since 1.23."""

IR_VERSION = 11
"""The file format that belongs to it."""
