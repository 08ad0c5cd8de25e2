"""A lowered graph that runs: sessions, with reference steps in between where an op has no form in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.backends.base import Executable
from graphopt.backends.calling import flatten_call, restore_output
from graphopt.backends.onnxruntime.dtypes import numpy_dtype, tensor_to_array
from graphopt.backends.onnxruntime.model import Layout
from graphopt.backends.onnxruntime.options import SessionOptions
from graphopt.backends.onnxruntime.records import Array
from graphopt.backends.onnxruntime.signature import bind_shapes, check_arrays
from graphopt.backends.onnxruntime.steps import Environment, ForeignStep, NativeStep, Step, array_to_tensor
from graphopt.errors import RunInputError
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import DType

__all__ = ["OnnxRuntimeExecutable"]


class OnnxRuntimeExecutable(Executable):
    """A graph in ONNX Runtime.

    Torch tensors in give torch tensors out, numpy arrays in give numpy arrays out, and then torch is not
    loaded unless a node needs the reference interpreter. Inputs on the CPU are shared with ONNX Runtime.
    `report` has one line for each node that does not run natively.
    """

    def __init__(self, graph: Graph, steps: Sequence[Step], layout: Layout, options: SessionOptions) -> None:
        lines = [
            f"%{node.name} = {node.op} runs in the reference interpreter: {reason}"
            for step in steps
            if isinstance(step, ForeignStep)
            for node, reason in zip(step.nodes, step.reasons, strict=True)
        ]
        super().__init__(graph, lines)
        self.steps = tuple(steps)
        self.layout = layout
        self.options = options
        self._static = _static_signature(graph)
        self._last: list[list[Value]] = _last_reads(graph, self.steps)

    def run(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """The flat outputs for flat inputs, torch tensors or numpy arrays.

        Raises:
            RunInputError: number, dtype or shape of the inputs do not fit.
            SymbolError: a size is outside the range of its symbol.
            BackendError: an op failed.
        """
        arrays = [self._array(index, given) for index, given in enumerate(inputs)]
        outputs = self._run_arrays(arrays)
        if inputs and all(isinstance(given, np.ndarray) for given in inputs):
            return outputs
        return tuple(array_to_tensor(array) for array in outputs)

    def _run_arrays(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        dims: dict[str, int] = {}
        if [(array.dtype, array.shape) for array in arrays] != self._static:  # a static signature is compared at once
            check_arrays(self.graph, arrays)
            dims = bind_shapes(self.graph, arrays)
        environment = Environment(self.graph, dict(zip(self.graph.inputs, arrays, strict=True)), dims)
        for step, finished in zip(self.steps, self._last, strict=True):
            step.run(environment)
            for value in finished:
                environment.values.pop(value, None)
        given = {id(array) for array in arrays}
        found = [environment.read(output) for output in self.graph.outputs]
        return tuple(array.copy() if id(array) in given else array for array in found)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run with the model's own arguments.

        Raises:
            RunInputError: the arguments do not fit the call that was captured.
        """
        flat = flatten_call(self.graph, args, kwargs)
        return restore_output(self.graph.structure, self.run(flat))

    def save(self, path: str | Path) -> None:
        """Write a folder that `graphopt.load` reads back, without torch where every node is native.

        Raises:
            ArtifactError: something else stands there, or the disk refuses.
        """
        from graphopt.backends.onnxruntime.artifact import save

        save(self, Path(path))

    @property
    def segments(self) -> int:
        """Number of ONNX Runtime sessions."""
        return sum(isinstance(step, NativeStep) for step in self.steps)

    def _array(self, index: int, given: Any) -> Array:
        if isinstance(given, np.ndarray):
            return np.ascontiguousarray(given).reshape(given.shape)
        module = type(given).__module__
        dtype = _torch_dtype(given) if module == "torch" or module.startswith("torch.") else None
        if dtype is None:
            value = self.graph.inputs[index].type.text if index < len(self.graph.inputs) else "fewer inputs"
            what = getattr(given, "dtype", None)
            shown = f"{type(given).__name__} of {what}" if what is not None else type(given).__name__
            raise RunInputError(f"input {index} is a {shown}, needs a torch tensor or numpy array {value}")
        kept = "on the meta device" if given.is_meta else "nested" if given.is_nested else str(given.layout).removeprefix("torch.")
        if kept != "strided":
            value = f"%{self.graph.inputs[index].name}" if index < len(self.graph.inputs) else "one too many"
            raise RunInputError(
                f"input {index} ({value}) is a tensor {kept}, needs dense numbers",
                fix="pass a tensor with numbers" if given.is_meta else "pass x.to_dense()",
            )
        return tensor_to_array(given, dtype)


_BY_TORCH_NAME = {f"torch.{dtype.torch_name}": dtype for dtype in DType}


def _torch_dtype(given: Any) -> DType | None:
    return _BY_TORCH_NAME.get(str(getattr(given, "dtype", "")))


def _static_signature(graph: Graph) -> list[tuple[np.dtype[Any], tuple[int, ...]]] | None:
    """Dtypes and shapes of the inputs, where no symbol is in them or anywhere else."""
    if graph.symbols or any(value.type.dtype.kind == "complex" for value in graph.inputs):
        return None
    return [(numpy_dtype(value.type.dtype), value.type.static_shape) for value in graph.inputs]


def _last_reads(graph: Graph, steps: Sequence[Step]) -> list[list[Value]]:
    """For each step the values that nothing after it reads."""
    seen = {output for output in graph.outputs if isinstance(output, Value)}
    result: list[list[Value]] = []
    for step in reversed(steps):
        fresh = [value for value in dict.fromkeys(step.reads()) if value not in seen]
        seen.update(fresh)
        result.append(fresh)
    return result[::-1]
