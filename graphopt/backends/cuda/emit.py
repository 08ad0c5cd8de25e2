"""A plan as Python: one module with the Triton kernels of the network, and the function that runs its steps.

    @triton.jit
    def kernel_0(x0, y): ...

    def run(memory, node):
        input0, b1 = memory["input0"], memory["b1"]
        kernel_0[(4,)](input0, b1, num_warps=4, num_stages=3)
        return (view(b1, (1, 64), (64, 1), 0),)

Identifiers are made of numbers only; text of the model appears in comments, cleaned to one line of ASCII.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from graphopt.backends.cuda.kernel import Call, Code, Launch, Literal, Work
from graphopt.backends.cuda.plan import Plan
from graphopt.backends.cuda.storage import Storage
from graphopt.backends.text import comment
from graphopt.errors import BackendError

__all__ = ["KernelCode", "emit", "kernels_of"]


class KernelCode:
    """Declarations by text: steps that differ in nothing but memory share their kernels."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self.declarations: list[str] = []

    def add(self, work: Work, title: str = "") -> Code:
        """The code of a step, under the name of an equal kernel where there is one."""
        plain = work.emit("kernel")
        if not plain.declarations.strip():
            return plain
        key = (work.algorithm, plain.declarations)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = f"kernel_{len(self._names)}"
            made = work.emit(name)
            self.declarations.append(f"# {comment(title or work.describe())}\n{made.declarations.strip()}\n")
            return made
        return work.emit(name)


HEADER = """import triton
import triton.language as tl

from graphopt.backends.cuda import functions as f
from graphopt.backends.cuda import library
from graphopt.backends.cuda.memory import at, laid_out, view
"""


def emit(plan: Plan) -> str:
    """The module of a plan; `run(memory, node)` takes tensors by the names of buffers, and the function that runs node
    `number` of the graph by the reference lowering."""
    code = KernelCode()
    body: list[str] = []
    drops = _last_readers(plan)
    for number, step in enumerate(plan.steps):
        title = f"{number}: {step.work.algorithm}  {step.work.describe()}" + (f"   {step.source}" if step.source else "")
        body.append(f"    # {comment(title)}")
        body += [f"    {_statement(item)}" for item in code.add(step.work, title).launches if not _is_empty(item)]
        if number in drops:
            body.append(f"    del {', '.join(drops[number])}")
    given = [name for name, buffer in plan.buffers.items() if buffer.kind != "torch"]
    lines = [
        f'"""{comment(plan.name).replace(chr(34), "_")}: {len(plan.steps)} steps, by graphopt. plan.txt tells the same in short."""',
        "",
    ]
    lines += [HEADER, "", *code.declarations, "", "def run(memory, node):"]
    lines += [f'    {name} = memory["{name}"]' for name in given]
    results = "".join(f"{_view(storage)}, " for storage in plan.outputs)
    return "\n".join([*lines, *body, f"    return ({results.rstrip()})"]) + "\n"


def kernels_of(works: Sequence[Work]) -> tuple[str, list[Code]]:
    """A module of kernels alone, without `run`, and the code of each piece of work."""
    code = KernelCode()
    made = [code.add(work) for work in works]
    return "\n".join([HEADER, "", *code.declarations]), made


def _is_empty(item: Launch | Call) -> bool:
    return isinstance(item, Launch) and 0 in item.grid


def _statement(item: Launch | Call) -> str:
    if isinstance(item, Launch):
        grid = f"({', '.join(map(str, item.grid))},)"
        arguments = ", ".join(_pointer(storage) for storage in item.arguments)
        return f"{item.function}[{grid}]({arguments}, num_warps={item.warps}, num_stages={item.stages})"
    arguments = [_view(given) if isinstance(given, Storage) else literal(given) for given in item.arguments]
    arguments += [f"{name}={literal(value)}" for name, value in item.constants]
    if isinstance(item.function, int):
        call = f"node({', '.join([str(item.function), *arguments])})"
        targets = "".join(f"{storage.buffer}, " for storage in item.results).rstrip()
        lines = [f"{targets} = {call}"] if item.results else [call]
        return "; ".join([*lines, *(f"{storage.buffer} = {_laid_out(storage.buffer, storage)}" for storage in item.results)])
    call = f"library.{item.function}({', '.join(arguments)})"
    if len(item.results) != 1:
        raise BackendError(f"library.{item.function} has {len(item.results)} results, needs one")
    return f"{item.results[0].buffer} = {_laid_out(call, item.results[0])}"


def _laid_out(text: str, storage: Storage) -> str:
    return f'laid_out({text}, "{storage.dtype.torch_name}", {storage.shape}, {storage.strides})'


def _pointer(storage: Storage) -> str:
    return storage.buffer if storage.offset == 0 else f"at({storage.buffer}, {storage.offset})"


def _view(storage: Storage) -> str:
    return f"view({storage.buffer}, {storage.shape}, {storage.strides}, {storage.offset})"


def literal(value: Literal) -> str:
    """A constant as Python text.

    Raises:
        BackendError: it is none of the types that a call may have.
    """
    match value:
        case None | bool() | int():
            return repr(value)
        case float():
            return repr(value) if math.isfinite(value) else f'float("{value}")'
        case str() if value.replace("_", "").isalnum() and value.isascii():
            return repr(value)
        case tuple():
            return "(" + "".join(f"{literal(item)}, " for item in value).rstrip() + ")"
        case _:
            raise BackendError(f"{value!r} can't be an argument of a library call")


def _last_readers(plan: Plan) -> Mapping[int, list[str]]:
    """Names of tensors of torch that nothing needs any more, by the step after which they go."""
    last: dict[str, int] = {}
    for number, step in enumerate(plan.steps):
        for storage in (*step.work.reads, *step.work.writes):
            last[storage.buffer] = number
    kept = {storage.buffer for storage in plan.outputs}
    found: dict[int, list[str]] = {}
    for name, number in last.items():
        if plan.buffers[name].kind == "torch" and name not in kept:
            found.setdefault(number, []).append(name)
    return found
