"""The emitter that writes a graph as Python statements. See `graphopt.capture.source`.

    %layer1.0.conv1: f32[...] = conv2d(%x, %layer1.0.conv1.weight, none) {...}
    ->  layer1_0_conv1 = F.conv2d(x, self.state("layer1.0.conv1.weight"), None, stride=(1, 1), ...)

Names of the graph reach the text in two ways only: as identifiers made by `identifier`, and as string
literals made by `repr`.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch._ops import OpOverload

from graphopt.backends.calling import identifier
from graphopt.backends.reference import functions
from graphopt.backends.reference.binding import Solution, solve
from graphopt.backends.reference.emitter import AttributeEmitter
from graphopt.backends.reference.lowering import lower_node
from graphopt.errors import LoweringError
from graphopt.ir.attributes import Attribute
from graphopt.ir.dims import Dim, Expression, Symbol
from graphopt.ir.graph import Graph, Node, Operand, Value
from graphopt.ir.types import DType

__all__ = ["RESERVED_NAMES", "Names", "SourceEmitter", "Text", "literal"]

_WIDTH = 120
_INDENT = "    "

_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "truediv": "/",
    "floordiv": "//",
    "mod": "%",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
}

RESERVED_NAMES = frozenset({"F", "Mapping", "Any", "Callable", "Path", "load_file", "nn", "self", "torch", *functions.__all__})
"""Names that the written file uses itself."""


@dataclass(frozen=True, slots=True)
class Text:
    """A Python expression. `atom` needs no brackets beside an operator; `head(parts)` is how a call can be wrapped."""

    code: str
    atom: bool = True
    head: str = ""
    parts: tuple[str, ...] = ()


class Names:
    """Hands out free local names."""

    def __init__(self, taken: frozenset[str] | set[str]) -> None:
        self._taken = set(taken) | set(dir(builtins)) | RESERVED_NAMES
        self._suffixes: dict[str, int] = {}

    def fresh(self, hint: str) -> str:
        """An identifier that resembles `hint` and that nothing else is called."""
        base = identifier(hint)
        name, number = base, self._suffixes.get(base, 0)
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._suffixes[base] = number
        self._taken.add(name)
        return name


def literal(value: Any) -> str:
    """A handle, number, string or container of them as Python text."""
    match value:
        case Text():
            return value.code
        case float() if math.isnan(value):
            return "torch.nan"
        case float() if math.isinf(value):
            return "torch.inf" if value > 0 else "-torch.inf"
        case tuple():
            items = [literal(item) for item in value]
            return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
        case list():
            return f"[{', '.join(literal(item) for item in value)}]"
        case Mapping():
            return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
        case None | bool() | int() | float():
            return repr(value)
        case str():
            return _quoted(value)
        case _:
            return str(value)  # torch.contiguous_format and its like, which lower_opaque takes from a fixed table


def _quoted(text: str) -> str:
    shown = ascii(text)
    return f'"{shown[1:-1]}"' if shown.startswith("'") and '"' not in shown and "\\'" not in shown else shown


class SourceEmitter(AttributeEmitter):
    """Writes statements; handles are `Text` and plain values."""

    precise = False

    def __init__(
        self,
        graph: Graph,
        inputs: Sequence[str],
        names: Names,
        *,
        depth: int,
        states: Mapping[Value, str],
        sizes: Mapping[str, str] | None = None,
        helpers: set[str] | None = None,
        device: str | None = None,
    ) -> None:
        self._graph = graph
        self._names = names
        self._depth = depth
        self._states = states
        self._values: dict[Value, str] = dict(zip(graph.inputs, inputs, strict=True))
        self._sizes: dict[str, str] = dict(sizes or {})
        self._size_lines: dict[str, str] = {}
        self._used: set[str] = set()
        self._outer_device = device
        self._device_name = device or names.fresh("device")
        self.helpers: set[str] = set() if helpers is None else helpers
        self._lines: list[str] = []
        self._results: tuple[str, ...] = ()
        for solution in solve(graph.inputs, self._sizes):
            self._add_size(solution)
        self._preamble = list(self._size_lines.values())

    def run(self) -> tuple[list[str], list[Text]]:
        """The statements of the body, and one expression per output."""
        ends = _last_uses(self._graph)
        sections = _sections(self._graph)
        section, ending = "", list[str]()
        for node in self._graph.nodes:
            if sections[node] != section:
                self._end_section(ending)
                section, ending = sections[node], []
                self._lines += ["", self._line(f"# {ascii(section)[1:-1]}")] if section else [""]
            self._statement(node)
            ending += [self._values[value] for value in ends.get(node, ()) if value in self._values]
        outputs = [self._output(operand) for operand in self._graph.outputs]
        return self._assemble(), outputs

    def call(self, function: str | OpOverload, *args: Any, **kwargs: Any) -> Any:
        """The text of a call."""
        if isinstance(function, OpOverload):
            return _call_text(f"torch.ops.{function}", args, kwargs)
        if function.startswith("."):
            return _call_text(f"{_bracketed(args[0])}{function}", args[1:], kwargs)
        namespace, _, name = function.partition(".")
        if namespace == "operator" and name in _INFIX:
            return Text(f"{_bracketed(args[0])} {_INFIX[name]} {_bracketed(args[1])}", atom=False)
        if function == "operator.getitem":
            return Text(f"{_bracketed(args[0])}[{_index_text(args[1])}]")
        if namespace == "helper":
            self.helpers.add(name)
            return _call_text(name, args, kwargs)
        return _call_text(f"torch.{function}" if namespace == "linalg" else function, args, kwargs)

    def unpack(self, value: Any, count: int) -> tuple[Any, ...]:
        """A statement that assigns the items of the expression to the node's names."""
        assert count == len(self._results), "only the last call of a lowering returns several tensors"
        if count == 0:
            self._lines.append(self._line(value.code))
        else:
            left = ", ".join(self._results) + ("," if count == 1 else "")
            self._assign(left, value)
        return tuple(Text(name) for name in self._results)

    def dim(self, dim: Dim) -> Any:
        """An integer, or the expression that computes the dimension."""
        return self._compute(dim) if isinstance(dim, Expression) else dim

    def dtype(self, dtype: DType) -> Any:
        """`torch.float32`."""
        return Text(f"torch.{dtype.torch_name}")

    def training(self, mode: Attribute) -> Any:
        """The module's flag where the op follows it."""
        return Text("self.training") if mode == "follow" else mode == "train"

    def device(self) -> Any:
        """The local that holds the device."""
        self._used.add(self._device_name)
        return Text(self._device_name)

    def running(self, value: Any) -> Any:
        """The module's own buffer."""
        return value

    def state(self, name: str) -> Any:
        """`self.state("conv1.weight")`."""
        found = self._graph.states.get(name)
        return None if found is None else Text(f"self.state({_quoted(self._states[found.value])})")

    def branch(self, node: Node, predicate: Any, operands: Sequence[Any]) -> tuple[Any, ...]:
        """Both regions as local functions, and the call that picks one."""
        functions_ = [self._define(region, name) for region, name in zip(node.regions, ("then", "otherwise"), strict=True)]
        result = self.call("helper.cond", predicate, *(Text(name) for name in functions_), tuple(operands))
        return self.unpack(result, len(node.results))

    def _define(self, region: Graph, hint: str) -> str:
        name = self._names.fresh(hint)
        inputs = [self._names.fresh(value.name) for value in region.inputs]
        inner = SourceEmitter(
            region,
            inputs,
            self._names,
            depth=self._depth + 1,
            states=self._states,
            sizes=self._sizes,
            helpers=self.helpers,
            device=self._device_name,
        )
        lines, outputs = inner.run()
        self._used |= inner._used
        # torch.cond takes no branch that hands an input on unchanged
        returned = literal(
            tuple(
                Text(f"{output.code}.clone()") if output.code in inputs or output.code.startswith("self.state(") else output
                for output in outputs
            )
        )
        self._lines += [self._line(f"def {name}({', '.join(inputs)}):"), *lines, f"{_INDENT}{self._line(f'return {returned}')}"]
        return name

    def _statement(self, node: Node) -> None:
        self._results = tuple(self._names.fresh(value.name) for value in node.results)
        results = lower_node(self, node, [self._operand(operand) for operand in node.operands])
        for name, handle in zip(self._results, results, strict=True):
            if handle.code != name:
                self._assign(name, handle)
        self._values.update(zip(node.results, self._results, strict=True))
        if any(not isinstance(dim, int) for value in node.results for dim in value.type.shape):
            for solution in solve(node.results, self._sizes):
                self._lines.append(self._add_size(solution))

    def _assign(self, left: str, value: Text) -> None:
        line = self._line(f"{left} = {value.code}")
        if len(line) <= _WIDTH or not value.parts:
            self._lines.append(line)
            return
        self._lines.append(self._line(f"{left} = {value.head}("))
        self._lines += _filled(value.parts, _INDENT * (self._depth + 1))
        self._lines.append(self._line(")"))

    def _line(self, text: str) -> str:
        return f"{_INDENT * self._depth}{text}"

    def _end_section(self, ending: list[str]) -> None:
        """Values that are not read any more are let go, so that memory is no higher than it has to be."""
        line: list[str] = []
        for name in ending:
            if len(", ".join([*line, name])) > _WIDTH - 20:
                self._lines.append(self._line(f"del {', '.join(line)}"))
                line = []
            line.append(name)
        if line:
            self._lines.append(self._line(f"del {', '.join(line)}"))

    def _operand(self, operand: Operand) -> Any:
        if isinstance(operand, Expression):
            return self._compute(operand)
        if not isinstance(operand, Value):
            return operand
        if operand in self._values:
            return Text(self._values[operand])
        found = self.state(operand.name) if self._graph.state_of(operand) is not None else None
        if found is None:
            raise LoweringError(f"%{operand.name} is read before it is computed", fix="verify the graph with graphopt.ops.verify")
        return found

    def _output(self, operand: Operand) -> Text:
        handle = self._operand(operand)
        return handle if isinstance(operand, Value) else self.call("torch.tensor", handle, device=self.device())

    def _add_size(self, solution: Solution) -> str:
        """The statement that reads a symbol's size; it is kept only where something uses the name."""
        name = self._names.fresh(solution.symbol)
        self._sizes[solution.symbol] = name
        length = f"{self._values[solution.value]}.size({solution.axis})"
        if solution.offset:
            length = f"({length} - {solution.offset})"
        code = f"{length} // {solution.factor}" if solution.factor != 1 else length
        self._size_lines[name] = self._line(f"{name} = {code}")
        return self._size_lines[name]

    def _compute(self, dim: Dim) -> Any:
        if not isinstance(dim, Expression):
            return dim
        total: Any = None
        for monomial, coefficient in dim.terms:
            factors: list[Any] = [self._atom(atom) for atom in monomial]
            if coefficient != 1 or not factors:
                factors.insert(0, coefficient)
            term = factors[0]
            for factor in factors[1:]:
                term = self.call("operator.mul", term, factor)
            total = term if total is None else self.call("operator.add", total, term)
        return total

    def _atom(self, atom: Any) -> Text:
        if isinstance(atom, Symbol):
            if atom.name not in self._sizes:
                known = ", ".join(sorted(self._sizes)) or "none"
                raise LoweringError(
                    f"dimension '{atom.name}' follows from no input of graph '{self._graph.name}'; known: {known}",
                    fix="capture with a fixed size there, or with an input that has it as an axis",
                )
            self._used.add(self._sizes[atom.name])
            return Text(self._sizes[atom.name])
        if atom.operator in ("min", "max"):
            return self.call(f"torch.sym_{atom.operator}", self._compute(atom.left), self._compute(atom.right))
        return self.call(
            {"//": "operator.floordiv", "%": "operator.mod"}[atom.operator], self._compute(atom.left), self._compute(atom.right)
        )

    def _assemble(self) -> list[str]:
        unused = {line for name, line in self._size_lines.items() if name not in self._used}
        head = list(self._preamble)
        if self._device_name in self._used and self._outer_device is None:
            head.insert(0, self._line(f"{self._device_name} = {self._device_text()}"))
        return [line for line in [*head, *self._lines] if line not in unused]

    def _device_text(self) -> str:
        """Where the tensors are: with the first state that is read, else with the first input."""
        for state in self._graph.states.values():
            if state.value.use_count:
                return f"self.state({_quoted(self._states[state.value])}).device"
        return f"{self._values[self._graph.inputs[0]]}.device" if self._graph.inputs else 'torch.device("cpu")'


def _filled(parts: Sequence[str], indent: str) -> list[str]:
    """Arguments, as many to a line as fit."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 2 <= _WIDTH:
            lines[-1] += f" {part},"
        else:
            lines.append(f"{indent}{part},")
    return lines


def _sections(graph: Graph) -> dict[Node, str]:
    """For each node the module that it stands in: of a leaf module's op the module around it."""
    holders: set[str] = set()
    for node in graph.nodes:
        path = node.source.module
        while path := path.rpartition(".")[0]:
            if path in holders:
                break
            holders.add(path)
    return {
        node: node.source.module if node.source.module in holders else node.source.module.rpartition(".")[0] or node.source.module
        for node in graph.nodes
    }


def _call_text(head: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Text:
    parts = (*(literal(arg) for arg in args), *(f"{name}={literal(value)}" for name, value in kwargs.items()))
    return Text(f"{head}({', '.join(parts)})", True, head, parts)


def _bracketed(value: Any) -> str:
    if isinstance(value, Text):
        return value.code if value.atom else f"({value.code})"
    return literal(value)


def _index_text(index: Any) -> str:
    entries = index if isinstance(index, tuple) else (index,)
    shown = [_slice_text(entry) if isinstance(entry, slice) else literal(entry) for entry in entries]
    return ", ".join(shown) + ("," if len(shown) == 1 and isinstance(index, tuple) and not isinstance(entries[0], slice) else "")


def _slice_text(entry: slice) -> str:
    ends = [entry.start, entry.stop] if entry.step is None else [entry.start, entry.stop, entry.step]
    return ":".join("" if end is None else literal(end) for end in ends)


def _last_uses(graph: Graph) -> dict[Node, list[Value]]:
    """For each node, the results of nodes that nobody reads after it, in the order in which they were made."""
    seen: set[Value] = {operand for operand in graph.outputs if isinstance(operand, Value)}
    last: dict[Node, list[Value]] = {}
    for node in graph.reversed_nodes:
        ending = [value for value in (*node.results, *node.operands) if isinstance(value, Value) and value.producer is not None]
        fresh = list(dict.fromkeys(value for value in ending if value not in seen))
        seen.update(fresh)
        last[node] = fresh
    return last
