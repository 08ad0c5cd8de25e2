"""Runs a graph as a torch module, optionally compiled."""
