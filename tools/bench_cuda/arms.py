"""The ways to run one network on the GPU: each arm gives a function without arguments, on inputs that are on the device.

ours             our backend, which picks between library calls and emitted kernels by timing
eager            the module as it is
channels_last    eager with NHWC weights and images
compile          torch.compile in its default mode
max-autotune     torch.compile that tries kernels and captures CUDA graphs

And ours of networks that a pass has changed: `ours 2:4`, `ours blocks` and `ours shrunk`. Their errors are against the changed network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["ARMS", "CHANGED", "OURS", "PEERS", "Ready", "flat", "make", "precision"]

OURS = "ours"
PEERS = ("eager", "channels_last", "compile", "max-autotune")
CHANGED = {
    "ours 2:4": "sparsify-n-m{n=2, m=4}",
    "ours blocks": "sparsify-block{block=(32, 32), ratio=0.8}",
    "ours shrunk": "shrink-channels{ratio=0.5}",
}
ARMS = (OURS, *PEERS, *CHANGED)

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """A network that is ready: `run` launches it once, `outputs` gives its results; `changed` is the module that a pass made of it."""

    run: Callable[[], Any]
    outputs: Callable[[], list[torch.Tensor]]
    note: str = ""
    changed: torch.nn.Module | None = None


def precision(dtype: str) -> None:
    """Set how torch multiplies float32 matrices and convolutions, for the peers; ours sets it by itself."""
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    torch.backends.cudnn.allow_tf32 = dtype == "tf32"
    torch.backends.cudnn.benchmark = True  # what people who care for speed set


def make(arm: str, module: torch.nn.Module, given: Tensors, dtype: str) -> Ready:
    """Make a network ready for an arm; `given` are float32 (or integer) inputs on the device.

    Raises:
        ValueError: no such arm.
    """
    if arm == OURS or arm in CHANGED:
        return _ours(module, given, dtype, CHANGED.get(arm))
    if arm not in ARMS:
        raise ValueError(f"no arm is called '{arm}', there are {', '.join(ARMS)}")
    kind = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(dtype, torch.float32)
    copy = deepcopy(module).to("cuda", kind)
    inputs = tuple(tensor.to(kind) if tensor.is_floating_point() else tensor for tensor in given)
    if arm == "channels_last":
        copy = copy.to(memory_format=torch.channels_last)
        inputs = tuple(tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor for tensor in inputs)
    modes = {"compile": "default", "max-autotune": "max-autotune"}
    called: Any = torch.compile(copy, mode=modes[arm]) if arm in modes else copy

    def run() -> Any:
        with torch.inference_mode():
            return called(*inputs)

    return Ready(run, lambda: flat(run()))


def _ours(module: torch.nn.Module, given: Tensors, dtype: str, change: str | None) -> Ready:
    import graphopt

    graph = graphopt.capture(module, tuple(tensor.cpu() for tensor in given))
    if change is not None:
        graph = graphopt.optimize(graph, [change], check="off").graph
    executable = graphopt.lower(graphopt.optimize(graph, ["lossless"], check="off").graph, "cuda", dtype=dtype)
    executable.run(given)
    notes = [line for line in executable.report if line.startswith("not captured")]
    dense = sum("and runs dense" in line for line in executable.report)
    if change is not None and dense:
        annotated = sum(state.type.sparsity is not None for state in graph.states.values())
        notes.append(f"{dense} of {annotated} sparse weights run dense")
    changed = None if change is None else graph.to_module()
    return Ready(lambda: executable.run(given), lambda: list(executable.run(given)), "; ".join(notes), changed)


def flat(found: object) -> list[torch.Tensor]:
    """The tensors of a nest of tuples and lists, in order."""
    if isinstance(found, torch.Tensor):
        return [found]
    items: Sequence[object] = tuple(found) if isinstance(found, (tuple, list)) else ()
    return [tensor for item in items for tensor in flat(item)]
