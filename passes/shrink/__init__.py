"""Passes that make a network smaller: fewer channels, neurons, heads, layers, smaller kernels and pools."""
