"""Passes that set weights to zero, in patterns that backends have kernels for, and annotate the type of what they leave."""
