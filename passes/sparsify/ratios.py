"""How the zeros of a network are shared out among its layers.

    layer          every layer has the ratio
    global         one ranking of the weights, or blocks of them, of all layers; a layer of small weights has more zeros
    erk            dense weights in proportion to (n_in + n_out + taps along each axis) / (n_in n_out taps): small layers stay
                   dense, large ones pay (Erdos-Renyi kernel; Evci et al., Rigging the Lottery, ICML 2020, section 3)
    uniform-plus   the first layer dense, the last at most 0.8, the others alike (Gale et al., The State of Sparsity in
                   Deep Neural Networks, 2019, section 5)

With the last three the ratio is that of all these layers' weights together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from graphopt.errors import PassError
from graphopt.passes.sparsify.layers import Layer
from graphopt.passes.sparsify.patterns import NOfM, UnitPattern, lowest
from graphopt.passes.sparsify.scores import WeightScores
from graphopt.pipeline.passes import weakened

__all__ = ["Sharing", "layers_within", "ranked_ratios", "ranked_together", "shared_ratios", "weaker_within"]

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


def ranked_ratios(layers: Sequence[Layer], pattern: UnitPattern, score: WeightScores, ratio: float) -> dict[Layer, float]:
    """The ratio of each layer that one ranking of all of them gives."""
    return {layer: float(goes.double().mean()) for layer, goes in ranked_together(layers, pattern, score, ratio)}


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


def weaker_within(pattern: NOfM, ratio: float, strength: float) -> float:
    """A fraction of the `ratio` of `layers_within`; one above what N of M takes means no more than that, so no try is lost on it."""
    return weakened(min(ratio, 1 - pattern.n / pattern.m), strength)


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


def ranked_together(
    layers: Sequence[Layer], pattern: UnitPattern, score: WeightScores, ratio: float, limit: float | None = None
) -> list[tuple[Layer, torch.Tensor]]:
    """One ranking of the units of all layers: [(layer, mask of what goes)]. Units that reach `limit`, a root mean square, stay."""
    found = [pattern.unit_scores((scores := score(layer)).reshape(scores.shape[0], -1)) for layer in layers]
    goes = lowest(torch.cat([units.flatten() for units, _ in found]), torch.cat([sizes.flatten() for _, sizes in found]), ratio)
    result: list[tuple[Layer, torch.Tensor]] = []
    start = 0
    for layer, (units, _) in zip(layers, found, strict=True):
        mask = goes[start : start + units.numel()].reshape(units.shape)
        start += units.numel()
        if limit is not None:
            mask = mask & (units < limit * limit)
        result.append((layer, pattern.spread(mask, layer.shape[0], layer.elements // layer.shape[0]).reshape(layer.shape)))
    return result
