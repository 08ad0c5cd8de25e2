"""A program on its device: memory that is allocated once, and the run, captured in one CUDA graph.

first run    the steps run one by one, which compiles kernels and has cuDNN choose its algorithms; then they are captured, by the same
             thread, as torch keeps those choices by thread
later runs   inputs are copied into their buffers, the graph is replayed, outputs are copied out; nothing waits for the GPU
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from graphopt.backends.cuda.device import settings
from graphopt.backends.cuda.lowering import Program
from graphopt.backends.cuda.memory import part
from graphopt.backends.cuda.module import load_module
from graphopt.backends.cuda.options import CudaOptions
from graphopt.backends.cuda.plan import Plan
from graphopt.backends.cuda.states import Weights
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import BackendError
from graphopt.ir.graph import Graph, Node, Operand, Value

__all__ = ["Runner", "allocate"]

Tensors = tuple[torch.Tensor, ...]


def allocate(program: Program, weights: Weights, device: torch.device) -> dict[str, torch.Tensor]:
    """Tensors by the names of buffers: inputs, parts of one arena, and states, which are those of all programs of the graph."""
    plan = _plan(program)
    arena = torch.zeros(plan.arena_bytes, dtype=torch.uint8, device=device)
    memory: dict[str, torch.Tensor] = {}
    for name, buffer in plan.buffers.items():
        storage, dtype = buffer.storage, getattr(torch, buffer.storage.dtype.torch_name)
        match buffer.kind:
            case "arena":
                memory[name] = part(arena, plan.offsets[name], dtype, storage.extent)
            case "state":
                memory[name] = weights.tensor(storage, program.identities[name], program.fills[name])
            case "input":
                memory[name] = torch.empty_strided(storage.shape, storage.strides, dtype=dtype, device=device).zero_()
            case _:
                pass  # torch allocates the results of its calls
    return memory


def _plan(program: Program) -> Plan:
    assert program.plan is not None, "a program without a plan has no runner"
    return program.plan


class Runner:
    """One program on one device. Who calls it makes runs take turns: the memory is there once."""

    def __init__(
        self, graph: Graph, program: Program, options: CudaOptions, device: torch.device, sizes: Mapping[str, int], weights: Weights
    ) -> None:
        self._options = options
        self._device = device
        self._sizes = dict(sizes)
        self._nodes: list[Node] = list(graph.nodes)
        self._interpreter = Interpreter(graph)
        self._module: Any = load_module(program.source)
        self._memory = allocate(program, weights, device)
        self._replay: Callable[[], object] | None = None
        self._results: Tensors = ()
        self._done: torch.cuda.Event | None = None
        self.note = ""
        """Why the run is not one CUDA graph; empty where it is."""

    def run(self, inputs: Sequence[torch.Tensor]) -> Tensors:
        """The planned outputs, in memory of their own; dtypes are those of the plan.

        Raises:
            BackendError: a step failed.
        """
        with torch.no_grad(), self._turn():
            for index, given in enumerate(inputs):
                self._memory[f"input{index}"].copy_(given, non_blocking=given.device == self._device)
            if self._replay is None:
                self._start()
            else:
                self._replay()
            return tuple(result.clone(memory_format=torch.contiguous_format) for result in self._results)

    @property
    def memory(self) -> Mapping[str, torch.Tensor]:
        """What lies in each buffer, results of library calls excepted."""
        return self._memory

    @contextmanager
    def _turn(self) -> Generator[None]:
        """On a GPU: on this program's device, behind the run before it, which another stream may have been told to do."""
        if self._device.type != "cuda":
            yield
            return
        with torch.cuda.device(self._device):
            if self._done is not None:
                torch.cuda.current_stream().wait_event(self._done)
            yield
            self._done = torch.cuda.Event()
            self._done.record()

    def _settings(self) -> AbstractContextManager[None]:
        return settings(tf32=self._options.dtype == "tf32", autotune=self._options.measure)

    def _start(self) -> None:
        with self._settings():
            if self._device.type != "cuda":
                self._results = self._step()
                self.note = "interpreted on the CPU"
                return
            self._capture()
        if self._replay is not None:
            self._replay()

    def _step(self) -> Tensors:
        return self._module.run(self._memory, self._node)

    def _capture(self) -> None:
        """Run once on a stream of its own, as capture wants it, then capture."""
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            self._results = self._step()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        torch.cuda.synchronize(self._device)
        captured = torch.cuda.CUDAGraph()
        try:
            # calls that other threads make meanwhile are theirs, and no part of this
            with torch.cuda.graph(captured, stream=stream, capture_error_mode="thread_local"):
                self._results = self._step()
        except RuntimeError as error:
            # an op that waits for the GPU can't be part of a graph: the steps go on being launched one by one
            self.note = f"not captured as a CUDA graph: {str(error).splitlines()[0]}"
            self._replay = self._again
            return
        self._replay = captured.replay

    def _again(self) -> None:
        with self._settings():
            self._results = self._step()

    def _node(self, number: int, *tensors: torch.Tensor) -> Tensors:
        """A node by the reference lowering, in the dtypes of the IR; results share no memory with operands."""
        node = self._nodes[number]
        given = iter(tensors)
        handles = [self._handle(operand, given) for operand in node.operands]
        results = self._interpreter.evaluate(node, handles, self._sizes)
        taken = {tensor.untyped_storage().data_ptr() for tensor in handles if isinstance(tensor, torch.Tensor)}
        fresh: list[torch.Tensor] = []
        for result in results:
            moved = result.to(self._device)
            if moved.untyped_storage().data_ptr() in taken:
                moved = moved.clone(memory_format=torch.contiguous_format)
            taken.add(moved.untyped_storage().data_ptr())
            fresh.append(moved)
        return tuple(fresh)

    def _handle(self, operand: Operand, given: Any) -> Any:
        if not isinstance(operand, Value):
            return operand
        tensor = next(given, None)
        if tensor is None:
            raise BackendError("a node got fewer tensors than it has operands")
        return tensor.to(getattr(torch, operand.type.dtype.torch_name))
