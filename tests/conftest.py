"""Triton decides when it is imported whether kernels are compiled or interpreted; tests interpret them, on CPU tensors.

On a machine with a GPU, `TRITON_INTERPRET=0 pytest -m cuda` runs the tests that need one.
"""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
