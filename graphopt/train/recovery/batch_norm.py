"""Batch norms after training: running statistics of the weights as they are now.

    mean', var' = averages over batches of what a batch norm in train mode computes

Each batch is run in train mode from statistics of zero, after which they are momentum times those of the batch; the
average is taken in float64. Cumulative averages (momentum None) are torch's own. The average of batch variances
leaves out how batches differ, so use batches as large as those that the model was trained with.

Source: Izmailov et al., "Averaging weights leads to wider optima", UAI 2018 (`torch.optim.swa_utils.update_bn`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from graphopt.train.recovery.data import TrainingBatch
from graphopt.train.recovery.network import Network

__all__ = ["reestimate_batch_norm"]


@dataclass(frozen=True, slots=True)
class _Statistics:
    """A running buffer, and how much of a batch goes into it."""

    buffer: torch.Tensor
    momentum: float


@torch.no_grad()
def reestimate_batch_norm(network: Network, batches: Iterable[TrainingBatch]) -> int:
    """Set the running statistics of all batch norms that follow the module's mode; returns how many batches were used.

    Nothing is changed where there are no such batch norms, or no batches.
    """
    statistics = list(_statistics(network))
    if not statistics:
        return 0
    sums = [torch.zeros_like(part.buffer, dtype=torch.float64) for part in statistics]
    before = [part.buffer.clone() for part in statistics]
    count = 0
    network.module.train()
    for batch in batches:
        for part in statistics:
            part.buffer.zero_()
        network.call(network.module, batch)
        for total, part in zip(sums, statistics, strict=True):
            total += part.buffer.double() / part.momentum
        count += 1
    network.module.eval()
    for part, total, old in zip(statistics, sums, before, strict=True):
        part.buffer.copy_(total / count if count else old)
    return count


def _statistics(network: Network) -> Iterator[_Statistics]:
    if network.graph is None:
        for part in network.module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.momentum:  # pyright: ignore[reportPrivateUsage]
                yield from (_Statistics(buffer, part.momentum) for buffer in (part.running_mean, part.running_var) if buffer is not None)
        return
    buffers = dict(network.module.named_buffers())
    seen: set[str] = set()
    for node in network.graph.nodes:
        momentum = node.attrs.get("momentum")
        if node.op != "batch_norm" or node.attrs["mode"] != "follow" or not isinstance(momentum, float) or not momentum:
            continue
        for operand in node.operands[3:5]:
            state = network.graph.state_of(operand)
            if state is not None and state.name in buffers and state.name not in seen:
                seen.add(state.name)
                yield _Statistics(buffers[state.name], momentum)
