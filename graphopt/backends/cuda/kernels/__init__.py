"""Families of Triton kernels, one file each."""
