"""Runs passes over a graph: verify, check numbers, time, write down, and roll back what breaks its promise.

graph ── pass ── verify ── signature, ties ── numbers of the region ── next pass ... ── whole graph ── freeze
            │ any of them fails: back to the copy from before the pass, and the record names pass and node

A lossy pass is also held against the user's metric and budget (`graphopt.pipeline.quality`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from graphopt.errors import GraphoptError, UsageError
from graphopt.ir.graph import Graph
from graphopt.pipeline.checker import Checker, CheckLevel, PutOffError, cannot_run
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import NumericClass, Stage
from graphopt.pipeline.probes import plant_special_values, random_inputs
from graphopt.pipeline.promises import check_order
from graphopt.pipeline.quality import QualityGuard, check_context
from graphopt.pipeline.recording import Probe
from graphopt.pipeline.records import PassRecord, PipelineResult
from graphopt.pipeline.registry import Item, Step, plan, resolve
from graphopt.pipeline.run import Run, RunOptions, verify_graph

if TYPE_CHECKING:
    import torch

__all__ = ["PassManager"]

_LEVELS = ("default", "full", "off")


class PassManager:
    """A pipeline that is ready to run.

    - `check`: "default" compares rewritten regions after each pass and the whole graph at the end, "full"
      the whole graph after each pass too, "off" nothing.
    - `probes`: how many sets of flat inputs to try graphs on: `probe_inputs` first where given, then random
      ones by the input types, made from `seed`.
    - `verify`: check invariants and types of the graph after each pass that changed it.
    - `strict`: raise instead of rolling back.
    - `stage`: `Stage.TRAINING_SAFE` refuses deploy passes.
    - `record_bytes`: most memory for recorded values (bytes); beyond it only the end is compared.
    - `keep_texts`: keep the IR text after each pass that changed the graph, compressed.
    - `after_pass`: called with each record and the graph after it.
    - `context`: data, metric and budget for passes that look at them.

    Raises:
        PassError: a pass is unknown, an option does not fit, or the order can't work.
        UsageError: `check` is no level, `probes` is below 1, or there is a budget without a metric.
    """

    def __init__(
        self,
        passes: Item,
        *,
        check: CheckLevel = "default",
        probe_inputs: Sequence[torch.Tensor] | None = None,
        probes: int = 1,
        seed: int = 0,
        verify: bool = True,
        strict: bool = False,
        stage: Stage | None = None,
        record_bytes: int = 1 << 30,
        keep_texts: bool = False,
        after_pass: Callable[[PassRecord, Graph], None] | None = None,
        context: Context | None = None,
    ) -> None:
        if check not in _LEVELS:
            raise UsageError(f"check is {check!r}, needs one of {', '.join(_LEVELS)}")
        if probes < 1:
            raise UsageError(f"probes is {probes}, needs at least 1")
        self.steps: tuple[Step, ...] = plan(passes)
        check_order(resolve(self.steps), stage=stage)
        self._check: CheckLevel = check
        self._probe_inputs = probe_inputs
        self._probes = probes
        self._seed = seed
        self._verify = verify
        self._record_bytes = record_bytes
        self._context = context or Context(seed=seed)
        self._options = RunOptions(self._context, verify, strict, keep_texts, after_pass)
        self._lossy = any(pass_.numeric is NumericClass.LOSSY for pass_ in resolve(self.steps))
        check_context(self._context)

    def run(self, graph: Graph) -> PipelineResult:
        """Run the pipeline on a copy of `graph`, which stays as it is; numbers are shared, not copied.

        Raises:
            VerifyError: the given graph is wrong before any pass ran.
            BrokenPromiseError, PassError: a pass failed and the manager is strict.
            UsageError: the metric gives no number for the original model, or changes a model.
        """
        if self._verify:
            verify_graph(graph)
        guard: QualityGuard | None = None
        if self._lossy and self._context.metric is not None:
            self._progress("evaluating the metric", 0.0)
            guard = QualityGuard(graph, self._context.metric, self._context.budget)
        try:
            return self._run(graph, guard, defer=True)
        except PutOffError as late:
            result = self._run(graph, guard, defer=False)
            result.notes += (f"{late.what}, which showed only at the end; the pipeline ran again with every region compared at once",)
            return result

    def _run(self, graph: Graph, guard: QualityGuard | None, *, defer: bool) -> PipelineResult:
        checker, unchecked = self.checker(graph, defer=defer)
        run = Run(graph, self.steps, self._options, checker, unchecked, guard)
        run.steps(self.steps, round_=1)
        self._progress("comparing with the original", 1.0)
        run.finish()
        return run.result

    def _progress(self, what: str, fraction: float) -> None:
        if self._context.progress is not None:
            self._context.progress(what, fraction)

    def checker(self, graph: Graph, *, defer: bool) -> tuple[Checker | None, str]:
        """What compares the numbers of a pipeline over `graph`, or None and why they can't be compared."""
        if self._check == "off":
            return None, "not compared (checks are off)"
        reason = cannot_run(graph)
        if reason:
            return None, f"not compared: {reason}"
        try:
            probes = self._make_probes(graph)
            return Checker(graph, probes, level=self._check, limit=self._record_bytes, defer=defer), ""
        except GraphoptError as error:
            return None, f"not compared: {error.what}"

    def _make_probes(self, graph: Graph) -> list[Probe]:
        given = [Probe(tuple(self._probe_inputs))] if self._probe_inputs is not None else []
        random = [Probe(random_inputs(graph, seed=self._seed + number)) for number in range(len(given), self._probes)]
        plain = given + random
        has_floats = any(tensor.is_floating_point() for tensor in plain[0].inputs)
        return [*plain, Probe(plant_special_values(plain[0].inputs, seed=self._seed), special=True)] if has_floats else plain
