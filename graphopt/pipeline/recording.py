"""Values of a float64 run, kept so that only rewritten regions need to be run again.

    before:  %c = conv2d(%x, %w, none)      recorded: %x, %c, %b
             %b = batch_norm(%c, ...)
    after:   %b = conv2d(%x, %w_1, %b_1)    evaluated from the recorded %x, compared with the recorded old %b

The record follows the graph: values of new nodes join it, those of erased nodes leave it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.backends.reference.interpreter import Interpreter, bind_dims, state_tensor
from graphopt.errors import PassError
from graphopt.ir.dims import Expression, evaluate_dim, symbols_of
from graphopt.ir.graph import Graph, Node, Operand, Value
from graphopt.pipeline.randomness import seeded

if TYPE_CHECKING:
    import torch

__all__ = ["Probe", "RecordTooLargeError", "Recording", "Run", "as_tensor", "record", "run_outputs"]


class RecordTooLargeError(PassError):
    """The values of a run need more memory than the pass manager may keep."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Flat inputs; `special` ones hold NaN and infinities and are compared for exact passes only."""

    inputs: tuple[torch.Tensor, ...]
    special: bool = False


@dataclass(slots=True)
class Run:
    """One recorded run: the probe, the sizes of symbolic dimensions, the values, and the flat outputs."""

    probe: Probe
    dims: dict[str, int]
    values: dict[Value, torch.Tensor]
    outputs: tuple[torch.Tensor, ...] = ()


@dataclass(slots=True)
class Recording:
    """The values of all nodes of a graph on some probes."""

    runs: list[Run]
    bytes: int
    limit: int
    stale: bool = False
    """A pass that may round has changed values upstream of recorded ones."""

    def lookup(self, graph: Graph, operand: Operand, run: Run, fresh: Mapping[Value, torch.Tensor]) -> torch.Tensor | Operand:
        """The number behind an operand: a new value, a recorded one, a state, or a literal.

        Raises:
            KeyError: a value that is not recorded.
        """
        if not isinstance(operand, Value):
            return evaluate_dim(operand, run.dims) if isinstance(operand, Expression) else operand
        if operand in fresh:
            return fresh[operand]
        if operand in run.values:
            return run.values[operand]
        state = graph.state_of(operand)
        if state is None:
            raise KeyError(operand.name)
        return state_tensor(state, precise=True)

    def evaluate(self, graph: Graph, nodes: Sequence[Node], assumed: Mapping[Value, Value]) -> list[dict[Value, torch.Tensor]]:
        """Values of `nodes`, given in execution order, on each probe; those in `assumed` are taken from the record.

        Raises:
            KeyError: an operand is neither recorded nor computed before.
        """
        interpreter = Interpreter(graph, precise=True)
        found: list[dict[Value, torch.Tensor]] = []
        for run in self.runs:
            fresh: dict[Value, torch.Tensor] = {}
            for node in nodes:
                if node.results and node.results[0] in assumed:
                    fresh.update((result, run.values[assumed[result]]) for result in node.results)
                    continue
                operands = [self.lookup(graph, operand, run, fresh) for operand in node.operands]
                fresh.update(zip(node.results, interpreter.evaluate(node, operands, run.dims), strict=True))
            found.append(fresh)
        return found

    def extend(self, fresh: Sequence[Mapping[Value, torch.Tensor]]) -> None:
        """Take values of new nodes into the record.

        Raises:
            RecordTooLargeError: the record outgrows its limit.
        """
        for run, values in zip(self.runs, fresh, strict=True):
            for value, tensor in values.items():
                old = run.values.get(value)
                self.bytes += tensor.nbytes - (old.nbytes if old is not None else 0)
                run.values[value] = tensor
        self._check_size()

    def prune(self, graph: Graph) -> None:
        """Drop the values of erased nodes."""
        for run in self.runs:
            for value in [value for value in run.values if value.producer is not None and value.producer.graph is not graph]:
                self.bytes -= run.values.pop(value).nbytes

    def rename(self, mapping: Mapping[Value, Value]) -> None:
        """Move the record to a copy of the graph; values that the copy lacks are dropped."""
        for run in self.runs:
            run.values = {mapping[value]: tensor for value, tensor in run.values.items() if value in mapping}

    def _check_size(self) -> None:
        if self.bytes > self.limit:
            raise RecordTooLargeError(f"the values of a run need {self.bytes >> 20} MiB, {self.limit >> 20} MiB may be kept")


def record(graph: Graph, probes: Sequence[Probe], limit: int, keys: Mapping[Value, Value]) -> Recording:
    """Run a graph in float64 on each probe and keep all values, under the names that `keys` gives them.

    Raises:
        RecordTooLargeError: they need more than `limit` bytes; the run stops there.
    """
    recording = Recording([], 0, limit)
    for probe in probes:
        run = Run(probe, bind_dims(graph, probe.inputs), {})

        def keep(value: Value, tensor: torch.Tensor, run: Run = run) -> None:
            if graph.symbols:
                _bind(value, tensor, run.dims)
            if graph.state_of(value) is None and value in keys and keys[value] not in run.values:
                run.values[keys[value]] = tensor
                recording.bytes += tensor.nbytes
                if recording.bytes > limit:
                    raise RecordTooLargeError(f"the values of a run need more than the {limit >> 20} MiB that may be kept")

        for value, tensor in zip(graph.inputs, probe.inputs, strict=True):
            keep(value, tensor.double() if tensor.is_floating_point() else tensor)
        run.outputs = run_outputs(graph, probe.inputs, precise=True, on_value=keep)
        recording.runs.append(run)
    return recording


def run_outputs(
    graph: Graph, inputs: Sequence[torch.Tensor], *, precise: bool, on_value: Callable[[Value, torch.Tensor], None] | None = None
) -> tuple[torch.Tensor, ...]:
    """The flat outputs of one run; `on_value` sees the results of nodes as they are computed."""
    import torch

    with torch.no_grad(), seeded():  # nodes that draw random numbers draw the same ones in every run
        return Interpreter(graph, precise=precise).run(*inputs, on_value=on_value)


def _bind(value: Value, tensor: torch.Tensor, dims: dict[str, int]) -> None:
    """Learn sizes that only the run knows, from the result of an op with data-dependent shape."""
    for dim, size in zip(value.shape, tensor.shape, strict=False):
        if isinstance(dim, Expression):
            names = symbols_of(dim)
            if len(names) == 1 and dim.text in names and dim.text not in dims:
                dims[dim.text] = int(size)


def as_tensor(found: torch.Tensor | Operand, like: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or a literal spread over the shape of `like`."""
    import torch

    if isinstance(found, torch.Tensor):
        return found
    if isinstance(found, bool | int | float):
        return torch.full_like(like, found)
    raise PassError(f"a value was replaced by {found!r}, which is no number")
