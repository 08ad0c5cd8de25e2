"""One run of a pipeline over a graph: what the pass manager does, pass by pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphopt.errors import BrokenPromiseError, GraphoptError, PassError
from graphopt.ir.graph import Graph, Operand, Value
from graphopt.ir.printer import show
from graphopt.pipeline.blame import find_culprit
from graphopt.pipeline.checker import Change, Checker, PutOffError
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import ContextPass, NumericClass, Outcome, Pass
from graphopt.pipeline.promises import broken_promise
from graphopt.pipeline.quality import Bisection, QualityGuard, Trial
from graphopt.pipeline.records import BrokenPromise, PassRecord, PipelineResult, StoredText
from graphopt.pipeline.registry import Repeat, Step, resolve
from graphopt.rewrite.derived import LateData
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["Run", "RunOptions", "verify_graph"]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What of a manager's options a run goes by; told at `graphopt.pipeline.manager.PassManager`."""

    context: Context
    verify: bool
    strict: bool
    keep_texts: bool
    after_pass: Callable[[PassRecord, Graph], None] | None


class Run:
    """One run of a pipeline: the graph as it is now, and the result so far.

    `checker` compares numbers, or is None because of `unchecked`; `guard` holds lossy passes to the metric.
    """

    def __init__(
        self, graph: Graph, steps: Sequence[Step], options: RunOptions, checker: Checker | None, unchecked: str, guard: QualityGuard | None
    ) -> None:
        self._options = options
        self._context = options.context
        self._original = graph
        self._graph = graph.clone()
        self._guard = guard
        if guard is not None:
            guard.start()
        self._checker = checker
        self._fired: list[Pass] = []
        self._total = len(resolve(tuple(steps)))
        self._begun = 0
        self._told = 0.0
        self.result = PipelineResult(self._graph, original_nodes=graph.node_count, checked=unchecked)

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
        if self._options.after_pass is not None:
            self._options.after_pass(record, self._graph)
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
        if self._options.keep_texts:
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
            record.withdraw()
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
            if self._options.verify:
                verify_graph(change.after)
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
        record.withdraw()
        record.exception = str(error) if isinstance(error, GraphoptError) else f"{type(error).__name__}: {error}"
        if self._options.strict:
            fix = None if isinstance(error, GraphoptError) else "run it alone on the graph's text: python -m tools.graphopt_opt"
            raise PassError(f"{record.spec} raised {record.exception}", fix=fix) from error  # errors of our own say how to mend them
        if backup:
            if self._checker is not None:
                self._checker.reject(Change(backup[0], self._graph, mapping, (), ()))
            self._graph = self.result.graph = backup[0]

    def _roll_back(self, record: PassRecord, change: Change, broken: BrokenPromise) -> None:
        record.status = "rolled back"
        record.broken = broken
        record.withdraw()
        if self._options.strict:
            raise BrokenPromiseError(str(broken), where=broken.node or None, fix=f"leave {broken.pass_name} out, and report it")
        self._undo(change)

    def finish(self) -> None:
        """Compare the whole, round derived data to its dtypes, and compare again."""
        start = time.perf_counter()
        checker, result = self._checker, self.result
        result.notes += self._notes_on_quality()
        result.quality = self._guard.quality if self._guard is not None else None
        if checker is None or not self._fired:
            _freeze(self._graph)
            result.checked = result.checked or "nothing changed, so nothing was compared"
            return
        result.final_error, mismatch = checker.judge_final(self._graph)
        for record in result.records:
            if record.status == "applied" and record.spec in checker.late_errors:
                record.error = max(record.error or 0.0, checker.late_errors[record.spec])
        _freeze(self._graph)
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
        if self._options.strict:
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


def _freeze(graph: Graph) -> None:
    """Compute what passes derived, in the declared dtypes, and forget the sources."""
    for state in graph.states.values():
        if isinstance(state.data, LateData):
            state.data.freeze()


def verify_graph(graph: Graph) -> None:
    """Check invariants and types of a graph.

    Raises:
        VerifyError: something is wrong.
    """
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
