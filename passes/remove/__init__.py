"""Lossless passes: what they remove was computed for nothing; what they change is at most rounding."""
