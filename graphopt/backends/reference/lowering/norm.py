"""Normalisations."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.backends.reference.emitter import Emitter, Lowering, Site
from graphopt.ir.graph import Value

__all__ = ["LOWERINGS"]

_RUNNING_MEAN = "running_mean"
_BATCHES_TRACKED = "num_batches_tracked"


def _batch_norm(emit: Emitter, site: Site) -> object:
    x, weight, bias, mean, variance = (site[index] for index in range(5))
    training = emit.training(site["mode"])
    if mean is not None and training is not False:
        mean, variance = emit.running(mean), emit.running(variance)
    tracked = _batches_tracked(emit, site)
    if tracked is None and site["momentum"] is not None:
        use_batch = True if mean is None else training
        return emit.call("F.batch_norm", x, mean, variance, weight, bias, use_batch, site["momentum"], site["eps"])
    return emit.call("helper.batch_norm", x, weight, bias, mean, variance, tracked, training, site["momentum"], site["eps"])


def _batches_tracked(emit: Emitter, site: Site) -> Any:
    """The counter beside the running mean, which the module and not the op knows of."""
    mean = site.node.operands[3]
    if site["mode"] != "follow" or not isinstance(mean, Value) or not mean.name.endswith(_RUNNING_MEAN):
        return None
    tracked = emit.state(mean.name.removesuffix(_RUNNING_MEAN) + _BATCHES_TRACKED)
    return None if tracked is None else emit.running(tracked)


def _instance_norm(emit: Emitter, site: Site) -> object:
    x, weight, bias, mean, variance = (site[index] for index in range(5))
    training: Any = True
    if mean is not None:
        training = emit.training(site["mode"])
        mean, variance = emit.running(mean), emit.running(variance)
    momentum = 0.0 if site["momentum"] is None else site["momentum"]
    return emit.call("F.instance_norm", x, mean, variance, weight, bias, training, momentum, site["eps"])


def _rms_norm(emit: Emitter, site: Site) -> object:
    eps = site["eps"]
    if eps is None and emit.precise:
        # The default is the epsilon of the type that torch accumulates in, which is part of the model and not of rounding.
        dtype = getattr(torch, site.type(0).dtype.torch_name)
        eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    return emit.call("F.rms_norm", site[0], site["normalized_shape"], site[1], eps)


LOWERINGS: dict[str, Lowering] = {
    "batch_norm": _batch_norm,
    "layer_norm": lambda emit, site: emit.call("F.layer_norm", site[0], site["normalized_shape"], site[1], site[2], site["eps"]),
    "group_norm": lambda emit, site: emit.call("F.group_norm", site[0], site["groups"], site[1], site[2], site["eps"]),
    "instance_norm": _instance_norm,
    "rms_norm": _rms_norm,
    "softmax": lambda emit, site: emit.call("torch.softmax", site[0], dim=site["axis"]),
    "log_softmax": lambda emit, site: emit.call("torch.log_softmax", site[0], dim=site["axis"]),
    "weight_norm": lambda emit, site: emit.call("torch._weight_norm", site[0], site[1], site["axis"]),
}
