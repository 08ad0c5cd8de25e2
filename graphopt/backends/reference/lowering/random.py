"""Dropouts: they draw random numbers when training and pass their input on otherwise."""

from __future__ import annotations

from graphopt.backends.reference.emitter import Lowering

__all__ = ["LOWERINGS"]


def _dropout(function: str) -> Lowering:
    return lambda emit, site: emit.call(function, site[0], site["p"], emit.training(site["mode"]))


LOWERINGS: dict[str, Lowering] = {
    "dropout": _dropout("F.dropout"),
    "feature_dropout": _dropout("torch.feature_dropout"),
    "alpha_dropout": _dropout("F.alpha_dropout"),
}
