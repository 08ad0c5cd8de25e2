"""A network as a program for one GPU."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from graphopt.backends.base import Executable
from graphopt.backends.cuda.device import device_name, require_device
from graphopt.backends.cuda.lowering import Program, plan_graph
from graphopt.backends.cuda.options import CudaOptions
from graphopt.backends.cuda.runner import Runner
from graphopt.backends.cuda.states import Weights
from graphopt.backends.reference.binding import bind_dims, check_inputs
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.ir.data import TensorData
from graphopt.ir.dims import evaluate_dim
from graphopt.ir.graph import Graph, GraphEditor, Value

__all__ = ["CudaExecutable", "Sizes"]

Sizes = tuple[tuple[str, int], ...]


class CudaExecutable(Executable):
    """A graph as Triton kernels and library calls, captured as one CUDA graph for each set of sizes that it meets.

    Lowering needs no GPU: `plan` and `source` are there. Running does. Results are on the device of the first input.
    """

    def __init__(self, graph: Graph, options: CudaOptions, saved: Mapping[Sizes, Sequence[str]] | None = None) -> None:
        """`saved` are the ways that were taken, by sizes, of an executable that is loaded on the GPU where they were chosen."""
        super().__init__(graph)
        self.options = options
        self._saved = saved or {}
        self._programs: dict[Sizes, Program] = {}
        self._replayed: set[Sizes] = set()
        self._runners: dict[Sizes, Runner] = {}
        self._weights: dict[torch.device, Weights] = {}
        self._lock = threading.RLock()
        self._whole: Interpreter | None = None
        if not graph.symbols:
            self.program({})

    @property
    def report(self) -> tuple[str, ...]:
        """One line per step of each plan, and one per node that torch runs with the reason."""
        lines: list[str] = []
        for sizes, program in self._programs.items():
            if program.plan is not None:
                lines += [
                    f"{step.source}: {step.work.algorithm} {step.work.describe()}" + (f" ({step.reason})" if step.reason else "")
                    for step in program.plan.steps
                ]
            lines += [f"%{name} = {op} runs by the reference lowering on the device: {reason}" for name, op, reason in program.foreign]
            lines += _sparse_notes(self.graph, program, is_saved=sizes in self._replayed)
            runner = self._runners.get(sizes)
            if runner is not None and runner.note:
                lines.append(runner.note)
        return tuple(lines)

    @property
    def programs(self) -> Mapping[Sizes, Program]:
        """The programs so far, by sizes of the symbols."""
        return dict(self._programs)

    @property
    def runners(self) -> Mapping[Sizes, Runner]:
        """What has run so far, by sizes of the symbols."""
        return dict(self._runners)

    @property
    def plan(self) -> str:
        """The text of every plan so far."""
        return "".join(program.text for program in self._programs.values())

    @property
    def source(self) -> str:
        """The emitted modules so far."""
        return "\n".join(program.source for program in self._programs.values())

    def program(self, sizes: Mapping[str, int]) -> Program:
        """The program for those sizes, made where it is new."""
        key = tuple(sorted(sizes.items()))
        with self._lock:
            found = self._programs.get(key)
            if found is None:
                found = self._programs[key] = self._planned(key, sizes)
            return found

    def _planned(self, key: Sizes, sizes: Mapping[str, int]) -> Program:
        from graphopt.backends.cuda.planner.measure import Replay, measured_choice

        saved = self._saved.get(key)
        if saved is not None:
            replay = Replay(saved)
            program = plan_graph(self.graph, sizes, self.options, replay)
            if replay.fits:
                self._replayed.add(key)
                return program
        if self.options.measure and self.options.device == "cuda" and device_name():
            return plan_graph(self.graph, sizes, self.options, measured_choice(self.options))
        return plan_graph(self.graph, sizes, self.options)

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The flat outputs for flat inputs, on the device of the first input. Runs take turns.

        Raises:
            RunInputError: number, dtype or shape of the inputs do not fit.
            SymbolError: a size is outside the range of its symbol.
            BackendError: there is no CUDA device.
        """
        check_inputs(self.graph, inputs)
        sizes = bind_dims(self.graph, inputs)
        device = require_device(self.options.device)
        home = inputs[0].device if inputs else device
        with self._lock:
            program = self.program(sizes)
            if program.plan is None:
                return tuple(output.to(home) for output in self._reference(device).run(*[given.to(device) for given in inputs]))
            results = iter(self._runner(program, sizes, device).run(inputs))
        outputs: list[torch.Tensor] = []
        for operand in self.graph.outputs:
            if isinstance(operand, Value):
                outputs.append(next(results).to(device=home, dtype=getattr(torch, operand.type.dtype.torch_name)))
            else:
                number = operand if operand is None or isinstance(operand, (bool, int, float)) else evaluate_dim(operand, sizes)
                outputs.append(torch.tensor(number, device=home))
        return tuple(outputs)

    def _runner(self, program: Program, sizes: Mapping[str, int], device: torch.device) -> Runner:
        """What runs a program; its weights are those of the programs for other sizes."""
        key = tuple(sorted(sizes.items()))
        found = self._runners.get(key)
        if found is None:
            weights = self._weights.setdefault(device, Weights(self.graph, device))
            found = self._runners[key] = Runner(self.graph, program, self.options, device, sizes, weights)
        return found

    def _reference(self, device: torch.device) -> Interpreter:
        """The graph with its numbers on the device, for the reference interpreter."""
        if self._whole is None:
            copy = self.graph.clone()
            pending = [copy]
            while pending:
                current = pending.pop()
                editor = GraphEditor(current)
                for state in tuple(current.states.values()):
                    if state.data is not None:
                        editor.update_state(replace(state, data=TensorData(state.data.tensor().to(device))))
                pending.extend(region for node in current.nodes for region in node.regions)
            self._whole = Interpreter(copy)
        return self._whole

    def save(self, path: str | Path) -> None:
        """Write a folder that `graphopt.load` reads back: graph, weights, choices, and the plan and source for people.

        Raises:
            ArtifactError: something else stands there, or the disk refuses.
        """
        from graphopt.backends.cuda.artifact import save

        save(self, Path(path))


def _sparse_notes(graph: Graph, program: Program, *, is_saved: bool) -> list[str]:
    """Annotated parameters that run dense: those whose zeros no step of the plan skips; and why."""
    steps = () if program.plan is None else program.plan.steps
    sparse = {name for step in steps if step.work.skips_zeros for name in step.values}
    notes: list[str] = []
    for state in graph.states.values():
        readers = [node for node in graph.nodes if any(operand is state.value for operand in node.operands)]
        names = {result.name for node in readers for result in node.results}
        if state.type.sparsity is None or names & sparse:
            continue
        reasons = [program.sparse_offers[name] for name in sorted(names) if name in program.sparse_offers]
        if not reasons:
            why = "no sparse kernel takes its op, shape, pattern and dtype"
        elif is_saved:
            why = "that is how it was chosen where it was saved"
        elif not any(reasons):
            why = "nothing was measured, and dense is the default"
        else:
            why = "no sparse kernel was measured to be faster here"
        notes.append(f"%{state.name} is annotated {state.type.sparsity.text} and runs dense: {why}")
    return notes
