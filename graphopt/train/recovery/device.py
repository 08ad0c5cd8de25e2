"""Where a recovery runs: one device, or several processes through `accelerate` where that is installed.

The same script runs on one device with `python script.py` and on several with `accelerate launch script.py`, or `torchrun`. On one
device both ways compute the same, bit for bit.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from graphopt.errors import UsageError

__all__ = ["Runtime", "runtime"]


class Runtime:
    """The plain one: this process alone, on torch's current accelerator or the CPU."""

    rank = 0
    world = 1

    def __init__(self) -> None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        self.device = found or torch.device("cpu")

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """The module and the optimizer as they are to be used in the loop."""
        return module, optimizer

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of a loss."""
        loss.backward()

    def precision(self) -> AbstractContextManager[Any]:
        """Mixed precision, where it was asked for."""
        return nullcontext()

    def local(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Gradients are summed over processes with the last piece of a batch only."""
        del module, last
        return nullcontext()

    def mean(self, value: float) -> float:
        """The mean over all processes, which wait for each other."""
        return value

    def first(self, value: float) -> float:
        """What the first process says."""
        return value

    def align(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers: each has seen other batches in its batch norms."""


class _Accelerated(Runtime):
    """Through `accelerate.Accelerator`, which reads how it was launched from the environment."""

    def __init__(self) -> None:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs

        # accelerate has to be told that there is no GPU: else processes of torchrun would each train on all of the data, apart
        on_cpus = "LOCAL_RANK" in os.environ and not torch.accelerator.is_available()
        self._accelerator: Any = Accelerator(cpu=on_cpus, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
        self.device = self._accelerator.device
        self.rank, self.world = self._accelerator.process_index, self._accelerator.num_processes

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        return self._accelerator.prepare(module, optimizer)

    def backward(self, loss: torch.Tensor) -> None:
        self._accelerator.backward(loss)

    def precision(self) -> AbstractContextManager[Any]:
        return self._accelerator.autocast()

    def local(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self._accelerator.no_sync(module)

    def mean(self, value: float) -> float:
        if self.world == 1:
            return value
        return float(self._accelerator.reduce(torch.tensor(value, dtype=torch.float64, device=self.device), reduction="mean"))

    def first(self, value: float) -> float:
        from accelerate.utils import broadcast_object_list

        return float(broadcast_object_list([value], from_process=0)[0])

    def align(self, module: nn.Module) -> None:
        from accelerate.utils import broadcast

        if self.world > 1:
            for buffer in module.buffers():
                buffer.copy_(broadcast(buffer, from_process=0))


def runtime(*, accelerate: bool | None = None) -> Runtime:
    """The runtime of this process: through `accelerate` where it is installed, unless `accelerate` is False.

    Raises:
        UsageError: `accelerate` is True and not installed.
    """
    installed = find_spec("accelerate") is not None
    if accelerate and not installed:
        raise UsageError("accelerate=True needs the package accelerate, which is not installed", fix="pip install accelerate")
    wanted = installed if accelerate is None else accelerate
    return _Accelerated() if wanted else Runtime()
