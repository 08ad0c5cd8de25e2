"""Kernels: one algorithm each, as a dataclass that emits a call into `include/`."""
