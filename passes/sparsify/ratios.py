"""How the zeros of a network are shared out among its layers.

    layer          every layer has the ratio
    erk            dense weights in proportion to (n_in + n_out + taps along each axis) / (n_in n_out taps): small layers stay
                   dense, large ones pay (Erdos-Renyi kernel; Evci et al., Rigging the Lottery, ICML 2020, section 3)
    uniform-plus   the first layer dense, the last at most 0.8, the others alike (Gale et al., The State of Sparsity in
                   Deep Neural Networks, 2019, section 5)

With the last two the ratio is that of all these layers' weights together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from graphopt.errors import PassError
from graphopt.passes.sparsify.layers import Layer
from graphopt.passes.sparsify.patterns import NOfM
from graphopt.passes.sparsify.scores import WeightScores

__all__ = ["Sharing", "layers_within", "shared_ratios"]

Sharing = Literal["layer", "erk", "uniform-plus"]

_MOST_OF_LAST = 0.8


def shared_ratios(layers: Sequence[Layer], ratio: float, sharing: Sharing) -> dict[Layer, float]:
    """The ratio of each layer; a layer that stays dense has 0.

    Raises:
        PassError: so many zeros do not fit beside what has to stay dense.
    """
    if sharing == "erk":
        return _erdos_renyi(layers, ratio)
    if sharing == "uniform-plus":
        return _uniform_plus(layers, ratio)
    return dict.fromkeys(layers, ratio)


def layers_within(layers: Sequence[Layer], pattern: NOfM, score: WeightScores, ratio: float) -> set[Layer]:
    """The layers that may have N of M weights, so that zeros are at most `ratio` of all: those that lose the least part of their scores."""
    share = 1 - pattern.n / pattern.m
    left = ratio * sum(layer.elements for layer in layers) + 1e-6
    if ratio >= share:
        return set(layers)
    allowed: set[Layer] = set()
    for layer in sorted(layers, key=lambda layer: _lost(layer, pattern, score)):
        if share * layer.elements <= left:
            allowed.add(layer)
            left -= share * layer.elements
    return allowed


def _lost(layer: Layer, pattern: NOfM, score: WeightScores) -> float:
    """The part of the scores that goes."""
    scores = score(layer)
    scores = scores - scores.min().clamp_max(0)
    total = float(scores.sum())
    return float(torch.where(pattern.goes(scores, layer, 1.0), scores, 0.0).sum()) / total if total else 0.0


def _erdos_renyi(layers: Sequence[Layer], ratio: float) -> dict[Layer, float]:
    raw = {layer: sum(layer.shape) / layer.elements for layer in layers}
    dense: set[Layer] = set()
    while True:
        rest = [layer for layer in layers if layer not in dense]
        kept = (1 - ratio) * sum(layer.elements for layer in layers) - sum(layer.elements for layer in dense)
        scale = kept / sum(raw[layer] * layer.elements for layer in rest) if rest else 0.0
        over = [layer for layer in rest if scale * raw[layer] > 1]
        if not over:
            return {layer: 0.0 if layer in dense else 1 - scale * raw[layer] for layer in layers}
        dense.update(over)


def _uniform_plus(layers: Sequence[Layer], ratio: float) -> dict[Layer, float]:
    total = sum(layer.elements for layer in layers)
    others = sum(layer.elements for layer in layers if not layer.first and not layer.last)
    last = sum(layer.elements for layer in layers if layer.last and not layer.first)
    common = ratio * total / (others + last) if others + last else 0.0
    ending = min(common, _MOST_OF_LAST)
    if common > _MOST_OF_LAST and others:
        common = (ratio * total - ending * last) / others
    if common > 1 or (common > _MOST_OF_LAST and not others) or not others + last:
        most = (others + _MOST_OF_LAST * last) / total if total else 0.0
        raise PassError(
            f"ratio {ratio} does not fit: scope 'uniform-plus' keeps the first layer dense and 0.2 of the last, which leaves {most:.4f}",
            fix=f"ask for a ratio of at most {int(most * 1e4) / 1e4}, or use another scope",
        )
    return {layer: 0.0 if layer.first else ending if layer.last else common for layer in layers}
