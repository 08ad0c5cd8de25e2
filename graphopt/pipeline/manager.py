"""Runs passes over a graph: verify, check numbers, time, write down, and roll back what breaks its promise.

graph ── pass ── verify ── signature, ties ── numbers of the region ── next pass ... ── whole graph ── freeze
            │ any of them fails: back to the copy from before the pass, and the record names pass and node

A lossy pass is also held against the user's metric and budget (`graphopt.pipeline.quality`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graphopt.errors import BrokenPromiseError, GraphoptError, PassError, UsageError
from graphopt.ir.graph import Graph, Operand, Value
from graphopt.ir.printer import show
from graphopt.pipeline.blame import find_culprit
from graphopt.pipeline.checker import Change, Checker, CheckLevel, PutOffError, cannot_run
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import ContextPass, NumericClass, Outcome, Pass, Stage
from graphopt.pipeline.probes import plant_special_values, random_inputs
from graphopt.pipeline.promises import broken_promise, check_order
from graphopt.pipeline.quality import Bisection, QualityGuard, Trial, check_context
from graphopt.pipeline.recording import Probe
from graphopt.pipeline.records import BrokenPromise, PassRecord, PipelineResult, StoredText
from graphopt.pipeline.registry import Item, Repeat, Step, plan, resolve
from graphopt.rewrite.derived import LateData
from graphopt.rewrite.rewriter import Rewriter

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
        self._strict = strict
        self._record_bytes = record_bytes
        self._keep_texts = keep_texts
        self._after_pass = after_pass
        self._context = context or Context(seed=seed)
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
            _verify(graph)
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
        run = _Run(self, graph, guard, defer=defer)
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


class _Run:
    """One run of a manager: the graph as it is now, and the result so far."""

    def __init__(self, manager: PassManager, graph: Graph, guard: QualityGuard | None, *, defer: bool) -> None:
        self._manager = manager
        self._context = manager._context  # pyright: ignore[reportPrivateUsage]  # the run is the manager's other half
        self._original = graph
        self._graph = graph.clone()
        self._guard = guard
        if guard is not None:
            guard.start()
        self._checker, reason = manager.checker(graph, defer=defer)
        self._fired: list[Pass] = []
        self._total = len(resolve(manager.steps))
        self._begun = 0
        self._told = 0.0
        self.result = PipelineResult(self._graph, original_nodes=graph.node_count, checked=reason)

    def steps(self, steps: Sequence[Step], round_: int) -> bool:
        """Run steps in order; True when one of them changed the graph."""
        fired = False
        for step in steps:
            if isinstance(step, Repeat):
                number = 1
                while self.steps(step.steps, number):
                    fired = True
                    number += 1
                    if number > step.rounds:
                        self.result.notes += (f"{step!r} still fired in round {step.rounds} and was stopped there",)
                        break
            else:
                fired = self._run_pass(step, round_) or fired
        return fired

    def _run_pass(self, pass_: Pass, round_: int) -> bool:
        """Run one pass, and weaker versions of it where it costs too much quality; True when it changed the graph."""
        if round_ == 1:
            self._begun = min(self._begun + 1, self._total)
        record = PassRecord.of(pass_, self._graph.node_count, round_)
        self.result.records.append(record)
        change = self._attempt(pass_, record)
        if change is not None:
            if pass_.numeric is NumericClass.LOSSY and self._guard is not None:
                self._hold_to_budget(pass_, change, record)
            else:
                self._accept(pass_, change, record)
        if self._manager._after_pass is not None:  # pyright: ignore[reportPrivateUsage]
            self._manager._after_pass(record, self._graph)  # pyright: ignore[reportPrivateUsage]
        return record.status == "applied"

    def _attempt(self, pass_: Pass, record: PassRecord) -> Change | None:
        """Run one pass and judge it; the change that it made, or None where it made none or was undone."""
        graph = self._graph
        mapping: dict[Value, Value] = {}
        backup: list[Graph] = []
        outputs: list[Operand] = []
        copying = 0.0

        def keep_copy() -> None:
            nonlocal copying
            if not backup:
                start = time.perf_counter()
                outputs.extend(graph.outputs)
                backup.append(graph.clone(mapping))
                copying = time.perf_counter() - start

        rewriter = Rewriter(graph, before_edit=keep_copy)
        start = time.perf_counter()
        try:
            outcome = self._apply(pass_, rewriter)
        except Exception as error:  # noqa: BLE001  # a pass is foreign code: whatever it raises is its failure, not ours
            self._fail(record, backup, mapping, error)
            return None
        finally:
            record.seconds += time.perf_counter() - start - copying
        _describe(record, outcome)
        if not backup:
            return None
        record.nodes_after = graph.node_count
        pairs = [*rewriter.replacements, *_output_pairs(outputs, graph.outputs)]
        change = Change(backup[0], graph, mapping, rewriter.created, pairs)
        broken = self._judge(pass_, change, record)
        if broken is not None:
            self._roll_back(record, change, broken)
            return None
        return change

    def _accept(self, pass_: Pass, change: Change, record: PassRecord) -> None:
        """The pass stays."""
        if self._checker is not None:
            self._checker.accept(pass_, change)
        self._graph = self.result.graph = change.after
        record.status = "applied"
        self._fired.append(pass_)
        if self._manager._keep_texts:  # pyright: ignore[reportPrivateUsage]
            record.text = StoredText(show(change.after))

    def _hold_to_budget(self, pass_: Pass, change: Change, record: PassRecord) -> None:
        """Keep a lossy pass where the metric stays within the budget, else the strongest weaker version that does, else none."""
        trial = self._measure(change, record.spec, record)
        best = (pass_, change, record, trial) if trial.holds else None
        trials = [trial]
        if best is None:
            self._undo(change)
            budget = self._context.budget
            bisection = Bisection(pass_, budget.tries if budget is not None else 0)
            for weaker in bisection:
                attempt = PassRecord.of(weaker, record.nodes_before, record.round)
                changed = self._attempt(weaker, attempt)
                record.seconds += attempt.seconds
                record.check_seconds += attempt.check_seconds
                record.verify_seconds += attempt.verify_seconds
                if changed is None:
                    trial = Trial(attempt.spec, None, None, attempt.status == "unchanged", reason=_why_not(attempt))
                else:
                    trial = self._measure(changed, attempt.spec, record)
                    if trial.holds:
                        best = (weaker, changed, attempt, trial)
                    self._undo(changed)
                trials.append(trial)
                bisection.result(trial.holds)
        if best is None:
            record.status = "over budget"
            record.rewritten = 0
            record.nodes_after = record.nodes_before
            record.trials = tuple(trials)
            return
        kept_pass, kept_change, attempt, kept_trial = best
        record.take(attempt)
        record.trials = tuple(replace(trial, kept=trial is kept_trial) for trial in trials)
        assert self._guard is not None, "trials are made by a guard"
        self._guard.keep(kept_trial)
        self._accept(kept_pass, kept_change, record)

    def _measure(self, change: Change, spec: str, record: PassRecord) -> Trial:
        assert self._guard is not None, "only a guard measures"
        self._tell(f"evaluating the metric after {spec}", 1.0)
        start = time.perf_counter()
        trial = self._guard.measure(change.after, spec)
        record.metric_seconds += time.perf_counter() - start
        return trial

    def _undo(self, change: Change) -> None:
        """Back to the graph from before a change."""
        if self._checker is not None:
            self._checker.reject(change)
        self._graph = self.result.graph = change.before

    def _apply(self, pass_: Pass, rewriter: Rewriter) -> Outcome:
        self._tell(pass_.name, 0.0)
        if not isinstance(pass_, ContextPass):
            return pass_.apply(rewriter)
        return pass_.apply_with(rewriter, replace(self._context, progress=self._tell if self._context.progress else None))

    def _tell(self, what: str, inner: float) -> None:
        """Report progress; `inner` is how far the pass that runs has come."""
        if self._context.progress is not None:
            fraction = (max(self._begun - 1, 0) + min(max(inner, 0.0), 1.0)) / max(self._total, 1)
            self._told = max(self._told, fraction)  # weaker versions of a pass and further rounds begin anew
            self._context.progress(what, self._told)

    def _judge(self, pass_: Pass, change: Change, record: PassRecord) -> BrokenPromise | None:
        start = time.perf_counter()
        try:
            if self._manager._verify:  # pyright: ignore[reportPrivateUsage]
                _verify(change.after)
        except GraphoptError as error:
            place = error.where or ""
            return BrokenPromise(pass_.name, pass_.numeric, f"the graph is invalid after it: {error.what}", node=place)
        finally:
            record.verify_seconds = time.perf_counter() - start
        structural = broken_promise(change.before, change.after, pass_, change.replaced)
        if structural is not None:
            return BrokenPromise(pass_.name, pass_.numeric, structural[0], node=structural[1])
        if self._checker is None:
            return None
        start = time.perf_counter()
        try:
            verdict = self._checker.judge(pass_, change)
        except PutOffError:
            raise
        except (GraphoptError, RuntimeError, IndexError, ValueError, TypeError, KeyError) as error:
            self.result.checked = (
                f"not compared: the original does not run on the probe inputs ({type(error).__name__}: {_first_line(error)})"
            )
            self._checker = None
            return None
        finally:
            record.check_seconds = time.perf_counter() - start
        record.error = verdict.error
        return verdict.broken

    def _fail(self, record: PassRecord, backup: list[Graph], mapping: dict[Value, Value], error: Exception) -> None:
        record.status = "failed"
        record.rewritten = 0
        record.exception = str(error) if isinstance(error, GraphoptError) else f"{type(error).__name__}: {error}"
        if self._manager._strict:  # pyright: ignore[reportPrivateUsage]
            raise PassError(
                f"{record.spec} raised {record.exception}", fix="run it alone on the graph's text: python -m tools.graphopt_opt"
            ) from error
        if backup:
            if self._checker is not None:
                self._checker.reject(Change(backup[0], self._graph, mapping, (), ()))
            self._graph = self.result.graph = backup[0]
        record.nodes_after = record.nodes_before

    def _roll_back(self, record: PassRecord, change: Change, broken: BrokenPromise) -> None:
        record.status = "rolled back"
        record.broken = broken
        record.rewritten = 0
        record.nodes_after = record.nodes_before
        if self._manager._strict:  # pyright: ignore[reportPrivateUsage]
            raise BrokenPromiseError(str(broken), where=broken.node or None, fix=f"leave {broken.pass_name} out, and report it")
        self._undo(change)

    def finish(self) -> None:
        """Compare the whole, round derived data to its dtypes, and compare again."""
        start = time.perf_counter()
        checker, result = self._checker, self.result
        result.notes += self._notes_on_quality()
        result.quality = self._guard.quality if self._guard is not None else None
        if checker is None or not self._fired:
            freeze(self._graph)
            result.checked = result.checked or "nothing changed, so nothing was compared"
            return
        result.final_error, mismatch = checker.judge_final(self._graph)
        for record in result.records:
            if record.status == "applied" and record.spec in checker.late_errors:
                record.error = max(record.error or 0.0, checker.late_errors[record.spec])
        freeze(self._graph)
        if mismatch is None:
            result.final_error_declared, mismatch = checker.judge_declared(self._graph)
        result.checked = "rewritten regions after each pass, the whole graph at the end"
        result.notes += tuple(checker.notes)
        result.final_seconds = time.perf_counter() - start
        if mismatch is None:
            return
        result.broken = find_culprit(self._original, self._fired, checker.probes, mismatch, self._context)
        result.graph = self._original.clone()
        if result.quality is not None:
            result.quality.after = result.quality.before
        if self._manager._strict:  # pyright: ignore[reportPrivateUsage]
            raise BrokenPromiseError(
                str(result.broken), where=result.broken.node or None, fix=f"leave {result.broken.pass_name} out, and report it"
            )

    def _notes_on_quality(self) -> tuple[str, ...]:
        """What the user should know about data, metric and budget."""
        context = self._context
        notes = list(context.calibration.notes) if context.calibration is not None else []
        lossy = list(dict.fromkeys(pass_.name for pass_ in self._fired if pass_.numeric is NumericClass.LOSSY))
        if lossy and context.metric is None:
            notes.append(f"nothing guarded the quality: {', '.join(lossy)} changed the model and no metric was given")
        elif lossy and context.budget is None:
            notes.append("no budget was given, so no pass was held to the metric")
        if context.metric is not None and self._guard is None:
            notes.append("the metric was not evaluated: the pipeline has no lossy pass")
        return tuple(notes)


def freeze(graph: Graph) -> None:
    """Compute what passes derived, in the declared dtypes, and forget the sources."""
    for state in graph.states.values():
        if isinstance(state.data, LateData):
            state.data.freeze()


def _verify(graph: Graph) -> None:
    from graphopt.ops import verify  # the whole op table, which not every user of this module needs

    verify(graph)


def _describe(record: PassRecord, outcome: Outcome) -> None:
    record.rewritten = outcome.rewritten
    record.skipped = outcome.skipped
    record.notes = outcome.notes
    record.shrinks = outcome.shrinks


def _why_not(record: PassRecord) -> str:
    """Why an attempt changed nothing."""
    if record.broken is not None:
        return record.broken.rule
    return record.exception or record.declined or "it changes nothing"


def _output_pairs(old: Sequence[Operand], new: Sequence[Operand]) -> list[tuple[Value, Any]]:
    return [(before, after) for before, after in zip(old, new, strict=False) if isinstance(before, Value) and before is not after]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
