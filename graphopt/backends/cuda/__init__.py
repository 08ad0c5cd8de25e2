"""Emits Triton kernels and library calls for one network, captured as one CUDA graph."""
