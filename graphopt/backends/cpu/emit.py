"""A plan as C++: one file for the network, one namespace per step, and the weights blob.

Identifiers are made of numbers only; text of the model appears in comments, cleaned to one line of ASCII.
The steps are spread over units, so that several compilers can work on one file: unit k compiles the steps
of `#if GRAPHOPT_UNIT == k`, the last unit has the run function and the C interface.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.backends.cpu.kernel import C_TYPES, ReadState
from graphopt.backends.cpu.plan import Plan, Step
from graphopt.backends.cpu.storage import Storage
from graphopt.backends.text import comment
from graphopt.errors import BackendError

if TYPE_CHECKING:
    import numpy

__all__ = ["Sources", "emit", "emit_candidates", "headers", "needed_headers", "weight_chunks"]


@dataclass(frozen=True)
class Sources:
    """Text of the network: `network.cpp` and the headers by file name; the number of units."""

    files: dict[str, str]
    units: int


class _StepPointers:
    """`Pointers` of one step."""

    scratch = "worker.scratch"
    shared = "run.shared"

    def __init__(self, plan: Plan, packed: dict[tuple[int, int], int], states: dict[str, int], number: int) -> None:
        self._plan = plan
        self._packed = packed
        self._states = states
        self._number = number

    def read(self, storage: Storage) -> str:
        return self._pointer(storage, "const ")

    def write(self, storage: Storage) -> str:
        return self._pointer(storage, "")

    def packed(self, index: int = 0) -> str:
        c_type = C_TYPES[self._plan.steps[self._number].kernel.packed[index].dtype]
        return f"at<const {c_type}>(run.weights, {self._packed[self._number, index]})"

    def _pointer(self, storage: Storage, const: str) -> str:
        buffer = self._plan.buffers[storage.buffer]
        c_type = C_TYPES[storage.dtype.text]
        offset = storage.offset * storage.dtype.bytes
        match buffer.kind:
            case "input":
                base = f"run.inputs[{buffer.index}]"
            case "output":
                base = f"run.outputs[{buffer.index}]"
            case "state":
                base, offset = "run.weights", offset + self._states[buffer.state]
            case _:
                base, offset = "run.arena", offset + self._plan.offsets[buffer.name]
        if const == "" and buffer.kind in ("input", "state"):
            raise BackendError(f"step {self._number} writes {storage.text}, which is not its own")
        return f"at<{const}{c_type}>({base}, {offset})"


def headers() -> dict[str, str]:
    """All headers of `include/` by file name."""
    folder = resources.files("graphopt.backends.cpu") / "include"
    return {item.name: item.read_text() for item in folder.iterdir() if item.name.endswith((".hpp", ".h"))}


def needed_headers(names: Sequence[str], available: Mapping[str, str]) -> list[str]:
    """The headers and what they include."""
    found: dict[str, None] = {}
    queue = list(names)
    while queue:
        name = queue.pop()
        if name in found:
            continue
        if name not in available:
            raise BackendError(f"no header is called {name}")
        found[name] = None
        queue += re.findall(r'#include "([^"]+)"', available[name])
    return list(found)


def emit(plan: Plan, units: int = 2, labels: Mapping[str, str] | None = None) -> Sources:
    """The C++ of a plan. `labels` are what the C interface calls inputs and outputs, by buffer, where that is another name;
    letters, digits, `_` and `.` only."""
    body = [
        "// All steps in order; nobody starts a step before everyone has ended the one before.",
        "void steps(const Run& run, const Worker& worker) {",
    ]
    for number in range(len(plan.steps)):
        body += [f"  step_{number}::call(run, worker);", f"  worker.done({number});"]
    return _sources(plan, [*body, "}"], units, (), labels or {})


def emit_candidates(plan: Plan, cold_bytes: int, units: int = 2) -> Sources:
    """A program that times one step of a plan: input 0 is {step, repeats}, output 0 gets the seconds of each call."""
    cold_at = plan.arena_bytes - cold_bytes
    body = [
        "void steps(const Run& run, const Worker& worker) {",
        "  const int32_t* which = at<const int32_t>(run.inputs[0], 0);",
        "  double* seconds = at<double>(run.outputs[0], 0);",
        f"  const Cold cold{{{cold_at}, {cold_bytes}}};",
        "  switch (which[0]) {",
    ]
    for number, step in enumerate(plan.steps):
        warm = dict.fromkeys(storage.buffer for storage in step.kernel.reads if storage.buffer in plan.offsets)
        ranges = ", ".join(f"{{{plan.offsets[name]}, {plan.buffers[name].bytes}}}" for name in warm)
        body.append(f"    case {number}: time_step(run, worker, step_{number}::call, {{{ranges}}}, cold, which[1], seconds); break;")
    return _sources(plan, [*body, "    default: break;", "  }", "}"], units, ("measure.hpp",), {})


def _sources(plan: Plan, steps: list[str], units: int, extra: tuple[str, ...], labels: Mapping[str, str]) -> Sources:
    packed = {(slot.step, slot.index): slot.offset for slot in plan.weights if slot.step >= 0}
    states = {slot.state: slot.offset for slot in plan.weights if slot.step < 0}
    used = sorted({*extra, *(header for step in plan.steps for header in step.kernel.headers)})
    codes = _codes(plan, packed, states)
    units = max(1, min(units, len(codes)))
    available = headers()
    lines = [
        f"// {comment(plan.name)}: {len(plan.steps)} steps, written by graphopt. plan.txt tells the same in short.",
        "//",
        "// Constants of a shape are a namespace; a step is one too, with `call`, which every worker runs at once.",
        '#include "runtime.hpp"',
        *(f'#include "{header}"' for header in extra),
        "",
        "#ifndef GRAPHOPT_UNIT",
        "#define GRAPHOPT_UNIT -1  // everything in one go",
        "#endif",
        "#define GRAPHOPT_IN_UNIT(k) (GRAPHOPT_UNIT == -1 || GRAPHOPT_UNIT == (k))",
        "",
        f"#if GRAPHOPT_UNIT != {units}  // which only calls",
        '#include "halo.hpp"' if "halo.hpp" in available else "",
        *(f'#include "{header}"' for header in used if header not in extra),
        "#endif",
        "",
        "namespace graphopt {",
        "namespace network {",
        "",
    ]
    unit_of = _balance([code.weight for code in codes], units)
    for unit in range(units):
        lines.append(f"#if GRAPHOPT_IN_UNIT({unit})")
        lines += [code.text for number, code in enumerate(codes) if unit_of[number] == unit]
        lines += [f"#endif  // unit {unit}", ""]
    lines += [f"#if GRAPHOPT_IN_UNIT({units})"]
    lines += [f"namespace step_{number} {{ void call(const Run& run, const Worker& worker); }}" for number in range(len(plan.steps))]
    lines += ["", *steps]
    lines += [
        "",
        *_constants(plan, labels),
        "",
        "}  // namespace network",
        "}  // namespace graphopt",
        "",
        '#include "entry.hpp"',
        f"#endif  // unit {units}",
        "",
    ]
    # the steps' own units close their namespaces too
    text = "\n".join(lines)
    text += "#if !GRAPHOPT_IN_UNIT(" + str(units) + ")\n}  // namespace network\n}  // namespace graphopt\n#endif\n"
    needed = needed_headers(["runtime.hpp", "entry.hpp", *used, *(["halo.hpp"] if "halo.hpp" in available else [])], available)
    return Sources({"network.cpp": text, **{name: available[name] for name in sorted(needed)}}, units + 1)


@dataclass(slots=True)
class _Shared:
    """Steps that differ in nothing but memory: their templates are made once."""

    declarations: str
    steps: list[str]
    weight: float
    number: int

    @property
    def text(self) -> str:
        """The declarations, then the steps."""
        if not self.declarations:
            return "\n".join(self.steps)
        return "\n".join([f"namespace shape_{self.number} {{", self.declarations, f"}}  // namespace shape_{self.number}", "", *self.steps])


def _codes(plan: Plan, packed: dict[tuple[int, int], int], states: dict[str, int]) -> list[_Shared]:
    """The C++ of all steps, those of equal shapes together."""
    haloed: set[str] = set()
    found: dict[tuple[str, str], _Shared] = {}
    for number, step in enumerate(plan.steps):
        pointers = _StepPointers(plan, packed, states, number)
        code = step.kernel.emit(pointers)
        declarations = code.declarations.strip()
        zeros: list[str] = []
        for storage in step.kernel.writes:
            buffer = plan.buffers[storage.buffer]
            if buffer.kind == "arena" and buffer.storage.halo != (0, 0) and buffer.name not in haloed:
                haloed.add(buffer.name)
                zeros.append(_zero_halo(buffer.storage, pointers.write(buffer.storage)))
        key = (step.kernel.algorithm, declarations or str(number))
        shared = found.get(key)
        if shared is None:
            shared = found[key] = _Shared(declarations, [], _weight(step, len(declarations) + len(code.statements)), len(found))
        title = comment(f"{number}: {step.kernel.algorithm}  {step.kernel.describe()}" + (f"   {step.source}" if step.source else ""))
        shared.steps.append(
            "\n".join(
                [
                    f"// {title}",
                    f"namespace step_{number} {{",
                    *([f"using namespace shape_{shared.number};"] if declarations else []),
                    "void call(const Run& run, const Worker& worker) {",
                    "  (void)run;",
                    *zeros,
                    _indent(code.statements),
                    "}",
                    f"}}  // namespace step_{number}",
                    "",
                ]
            )
        )
    return list(found.values())


def _zero_halo(storage: Storage, pointer: str) -> str:
    from graphopt.backends.cpu.kernels.halo import halo_code

    return _indent(halo_code(storage, pointer))


def _indent(text: str) -> str:
    lines = text.strip("\n").split("\n")
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(f"  {line[margin:]}" if line.strip() else "" for line in lines)


def _weight(step: Step, size: int) -> float:
    # what a step costs the compiler: convolutions and products have large register tiles
    return size + (20_000 if step.kernel.packed else 2_000)


def _balance(weights: list[float], units: int) -> list[int]:
    """The unit of each step: heavy steps first, each to the unit with the least work."""
    loads = [0.0] * units
    unit_of = [0] * len(weights)
    for number in sorted(range(len(weights)), key=lambda number: -weights[number]):
        unit = loads.index(min(loads))
        unit_of[number] = unit
        loads[unit] += weights[number]
    return unit_of


def _constants(plan: Plan, labels: Mapping[str, str]) -> list[str]:
    def tensors(kind: str, storages: tuple[Storage, ...]) -> list[str]:
        lines: list[str] = []
        for index, storage in enumerate(storages):
            if storage.rank:
                lines.append(f"constexpr int64_t {kind}_shape_{index}[] = {{{', '.join(map(str, storage.shape))}}};")
        rows: list[str] = []
        for index, storage in enumerate(storages):
            shape = f"{kind}_shape_{index}" if storage.rank else "nullptr"
            rows.append(f'{{"{storage.dtype.text}", {storage.rank}, {shape}, "{labels.get(f"{kind}{index}", f"{kind}{index}")}"}}')
        lines.append(f"constexpr Tensor {kind}s[] = {{{', '.join(rows)}}};" if storages else f"constexpr const Tensor* {kind}s = nullptr;")
        return lines

    return [
        f"constexpr size_t arena_bytes = {plan.arena_bytes};",
        f"constexpr size_t weights_bytes = {plan.weights_bytes};",
        f"constexpr size_t scratch_floats = {-(-plan.scratch // 16) * 16};  // of each worker",
        f"constexpr size_t shared_floats = {-(-plan.shared // 16) * 16};",
        f"constexpr int step_count = {len(plan.steps)};",
        f"constexpr int input_count = {len(plan.inputs)};",
        f"constexpr int output_count = {len(plan.outputs)};",
        *tensors("input", plan.inputs),
        *tensors("output", plan.outputs),
    ]


def weight_chunks(plan: Plan, read: ReadState) -> Iterator[tuple[int, numpy.ndarray]]:
    """(byte offset, array) of the weights blob in order, one step's arrays at a time."""
    import numpy

    slots = {(slot.step, slot.index): slot for slot in plan.weights if slot.step >= 0}
    for number, step in enumerate(plan.steps):
        expected = list(step.kernel.packed)
        if not expected:
            continue
        arrays = list(step.kernel.pack(read))
        if len(arrays) != len(expected):
            raise BackendError(f"step {number} ({step.kernel.algorithm}) packed {len(arrays)} arrays, announced {len(expected)}")
        for index, (array, packed) in enumerate(zip(arrays, expected, strict=True)):
            slot = slots[number, index]
            if array.nbytes != slot.bytes:
                raise BackendError(
                    f"step {number} ({step.kernel.algorithm}) packed {packed.name} as {array.nbytes} bytes, announced {slot.bytes}"
                )
            yield slot.offset, numpy.ascontiguousarray(array)
    for slot in plan.weights:
        if slot.step < 0:
            yield slot.offset, numpy.ascontiguousarray(read(slot.state))


def write_weights(plan: Plan, read: ReadState, path: Path) -> None:
    """The weights blob as a file, written piece by piece."""
    with path.open("wb") as file:
        file.truncate(plan.weights_bytes)
        for offset, array in weight_chunks(plan, read):
            file.seek(offset)
            array.tofile(file)
