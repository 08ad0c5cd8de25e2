"""A network compiled for this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from graphopt.backends.base import Executable
from graphopt.backends.calling import flatten_call, restore_output
from graphopt.backends.cpu.emit import emit, weight_chunks
from graphopt.backends.cpu.isa import available_cores
from graphopt.backends.cpu.library import Library, allocate
from graphopt.backends.cpu.lowering import NativeSegment, Program, plan, reader
from graphopt.backends.cpu.options import CpuOptions
from graphopt.backends.cpu.replay import SavedStep
from graphopt.backends.cpu.toolchain import build
from graphopt.backends.partition import Segment
from graphopt.errors import RunInputError
from graphopt.ir.dims import evaluate_dim
from graphopt.ir.graph import Graph, Operand, Value

if TYPE_CHECKING:
    from graphopt.backends.reference.interpreter import Interpreter

__all__ = ["CpuExecutable", "Native"]

Array = numpy.ndarray[Any, numpy.dtype[Any]]

MOST_UNITS = 8
"""Compilers at once for one network; each reads the headers again, which takes a second."""


class Native:
    """A compiled segment with its weights in memory."""

    def __init__(self, graph: Graph, segment: NativeSegment, options: CpuOptions) -> None:
        self.segment = segment
        plan = segment.plan
        weights = allocate(plan.weights_bytes)
        for offset, array in weight_chunks(plan, reader(graph, segment.derived)):
            weights[offset : offset + array.nbytes] = array.reshape(-1).view(numpy.uint8)
        self._library = Library(build(emit(plan, units=min(available_cores(), MOST_UNITS)), options.isa), weights, options.thread_count)
        self._outputs = [(storage.shape, numpy.dtype(storage.dtype.torch_name)) for storage in plan.outputs]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for contiguous inputs of the plan's dtypes and shapes."""
        outputs = [numpy.empty(shape, dtype) for shape, dtype in self._outputs]
        self._library.run([array.ctypes.data for array in inputs], [array.ctypes.data for array in outputs])
        return outputs

    def profile(self, inputs: Sequence[Array]) -> list[tuple[str, float, int]]:
        """(description, seconds, floating-point operations) of each step of one run."""
        outputs = [numpy.empty(shape, dtype) for shape, dtype in self._outputs]
        seconds = self._library.profile([array.ctypes.data for array in inputs], [array.ctypes.data for array in outputs])
        return [
            (f"{step.kernel.algorithm} {step.kernel.describe()}", taken, step.kernel.flops)
            for step, taken in zip(self.segment.plan.steps, seconds, strict=True)
        ]


class CpuExecutable(Executable):
    """A graph as machine code of its own.

    Torch tensors in give torch tensors out, numpy arrays give numpy arrays. A graph with symbolic sizes is planned and
    compiled once for each set of sizes that it meets. `report` says which kernel each layer got, and what runs in the
    reference interpreter and why.
    """

    def __init__(
        self, graph: Graph, options: CpuOptions, saved: Mapping[tuple[tuple[str, int], ...], Sequence[SavedStep]] | None = None
    ) -> None:
        """`saved` are choices by sizes, of an executable that is loaded."""
        super().__init__(graph)
        self.options = options
        self._saved = saved or {}
        self._programs: dict[tuple[tuple[str, int], ...], tuple[Program, list[Native | Segment]]] = {}
        self._interpreter: Interpreter | None = None
        self._static = (
            [
                (value.type.static_shape, numpy.dtype(value.type.dtype.torch_name))
                if value.type.is_static and value.type.dtype.kind != "complex"
                else None
                for value in graph.inputs
            ]
            if all(value.type.dtype.torch_name in _NUMPY for value in graph.inputs)
            else None
        )
        if not graph.symbols:
            self.program({})

    @property
    def report(self) -> tuple[str, ...]:
        """One line per step of each plan, and one per node that is not native."""
        lines: list[str] = []
        for program, _ in self._programs.values():
            for segment in program.segments:
                if isinstance(segment, NativeSegment):
                    lines += [
                        f"{step.source}: {step.kernel.algorithm} {step.kernel.describe()}" + (f" ({step.reason})" if step.reason else "")
                        for step in segment.plan.steps
                    ]
            lines += [f"%{name} = {op} runs in the reference interpreter: {reason}" for name, op, reason in program.foreign]
        return tuple(lines)

    @property
    def programs(self) -> Mapping[tuple[tuple[str, int], ...], Program]:
        """The programs so far, by sizes of the symbols."""
        return {sizes: program for sizes, (program, _) in self._programs.items()}

    @property
    def plan(self) -> str:
        """The text of every plan so far."""
        return "".join(program.text for program, _ in self._programs.values())

    def program(self, sizes: Mapping[str, int]) -> tuple[Program, list[Native | Segment]]:
        """The program for those sizes, made where it is new."""
        key = tuple(sorted(sizes.items()))
        found = self._programs.get(key)
        if found is None:
            program = plan(self.graph, sizes, self.options, self._saved.get(key, ()))
            steps = [segment if isinstance(segment, Segment) else Native(self.graph, segment, self.options) for segment in program.segments]
            found = self._programs[key] = (program, steps)
        return found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run with the model's own arguments.

        Raises:
            RunInputError: the arguments do not fit the call that was captured.
        """
        flat = flatten_call(self.graph, args, kwargs)
        return restore_output(self.graph.structure, self.run(flat))

    def run(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """The flat outputs for flat inputs, torch tensors or numpy arrays.

        Raises:
            RunInputError: number, dtype or shape of the inputs do not fit.
            SymbolError: a size is outside the range of its symbol.
        """
        arrays, sizes = self._arrays(inputs)
        outputs = self._run(arrays, sizes)
        if inputs and all(isinstance(given, numpy.ndarray) for given in inputs):
            return outputs
        import torch

        return tuple(torch.from_numpy(output) for output in outputs)

    def profile(self, inputs: Sequence[Any]) -> list[tuple[str, float, int]]:
        """(step, seconds, floating-point operations) of one run, for graphs that are native throughout.

        Raises:
            RunInputError: the inputs do not fit, or part of the graph is not native.
        """
        arrays, sizes = self._arrays(inputs)
        steps = self.program(sizes)[1]
        if len(steps) != 1 or not isinstance(steps[0], Native):
            raise RunInputError(
                "only a graph that is native throughout can be profiled",
                fix="profile a graph without the nodes that executable.report shows in the reference interpreter",
            )
        by_value = dict(zip(self.graph.inputs, arrays, strict=True))
        return steps[0].profile([by_value[value] for value in steps[0].segment.inputs])

    def _arrays(self, inputs: Sequence[Any]) -> tuple[list[Array], dict[str, int]]:
        arrays = [self._array(given) for given in inputs]
        if self._static is not None and not self.graph.symbols and [(array.shape, array.dtype) for array in arrays] == self._static:
            return arrays, {}
        import torch

        from graphopt.backends.reference.binding import bind_dims, check_inputs

        tensors = [given if isinstance(given, torch.Tensor) else self._tensor(index, given) for index, given in enumerate(inputs)]
        check_inputs(self.graph, tensors)
        sizes = bind_dims(self.graph, tensors)
        return arrays, sizes

    def _array(self, given: Any) -> Array:
        if isinstance(given, numpy.ndarray):
            return given if given.flags.c_contiguous else numpy.ascontiguousarray(given).reshape(given.shape)
        import torch

        if isinstance(given, torch.Tensor) and given.layout is torch.strided and not given.is_meta and not given.is_nested:
            tensor = given.detach().cpu().contiguous()
            if str(tensor.dtype).removeprefix("torch.") in _NUMPY:
                return tensor.numpy()
        return numpy.empty(0)  # the check that follows names what is wrong

    def _run(self, arrays: Sequence[Array], sizes: dict[str, int]) -> tuple[Array, ...]:
        steps = self.program(sizes)[1]
        values: dict[Value, Array] = dict(zip(self.graph.inputs, arrays, strict=True))
        for step in steps:
            if isinstance(step, Native):
                found = step.run([values[value] for value in step.segment.inputs])
                values.update(zip(step.segment.outputs, found, strict=True))
            else:
                self._foreign(step, values, sizes)
        given = {id(array) for array in arrays}
        outputs: list[Array] = []
        for operand in self.graph.outputs:
            array = self._read(operand, values, sizes)
            outputs.append(array.copy() if id(array) in given or not array.flags.writeable else array)
        return tuple(outputs)

    def _read(self, operand: Operand, values: Mapping[Value, Array], sizes: Mapping[str, int]) -> Array:
        if isinstance(operand, Value):
            return values[operand] if operand in values else reader(self.graph, {})(operand.name).copy()
        if operand is None or isinstance(operand, (bool, int, float)):
            return numpy.asarray(operand)
        return numpy.asarray(evaluate_dim(operand, sizes))

    def _foreign(self, segment: Segment, values: dict[Value, Array], sizes: dict[str, int]) -> None:
        import torch

        from graphopt.backends.reference.binding import bind_results
        from graphopt.backends.reference.interpreter import Interpreter, state_tensor

        if self._interpreter is None:
            self._interpreter = Interpreter(self.graph)
        tensors: dict[Value, torch.Tensor] = {}

        def handle(operand: Operand) -> Any:
            if not isinstance(operand, Value):
                return operand
            if operand in tensors:
                return tensors[operand]
            if operand in values:
                return torch.from_numpy(values[operand])
            state = self.graph.state_of(operand)
            assert state is not None, "a value is an input, a state or made before"
            return state_tensor(state)

        with torch.no_grad():
            for node in segment.nodes:
                results = self._interpreter.evaluate(node, [handle(operand) for operand in node.operands], sizes)
                bind_results(node.results, results, sizes)
                tensors.update(zip(node.results, results, strict=True))
        for value, tensor in tensors.items():
            values[value] = tensor.detach().contiguous().numpy()

    def save(self, path: str | Path) -> None:
        """Write a folder that `graphopt.load` reads back and rebuilds for its own machine.

        Raises:
            ArtifactError: something else stands there, or the disk refuses.
        """
        from graphopt.backends.cpu.artifact import save

        save(self, Path(path))


_NUMPY = frozenset({"float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool"})
