"""Recurrent networks."""

from __future__ import annotations

from graphopt.backends.reference.emitter import Emitter, Lowering, Site

__all__ = ["LOWERINGS"]


def _options(emit: Emitter, site: Site) -> tuple[object, ...]:
    training = emit.training(site["mode"])
    return (site["has_biases"], site["layers"], site["dropout"], training, site["bidirectional"], site["batch_first"])


def _lstm(emit: Emitter, site: Site) -> object:
    result = emit.call("torch.lstm", site[0], [site[1], site[2]], list(site.operands[3:]), *_options(emit, site))
    return emit.unpack(result, 3)


def _one_state(function: str) -> Lowering:
    def lower(emit: Emitter, site: Site) -> object:
        return emit.unpack(emit.call(function, site[0], site[1], list(site.operands[2:]), *_options(emit, site)), 2)

    return lower


LOWERINGS: dict[str, Lowering] = {
    "lstm": _lstm,
    "gru": _one_state("torch.gru"),
    "rnn_tanh": _one_state("torch.rnn_tanh"),
    "rnn_relu": _one_state("torch.rnn_relu"),
}
