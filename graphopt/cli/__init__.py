"""The `graphopt` command: one file per verb, each a thin layer over the public API."""

from __future__ import annotations

from graphopt.cli.app import main

__all__ = ["main"]
