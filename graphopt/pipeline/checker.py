"""Judges the numbers of a pipeline: each pass on the region that it rewrote, and the whole at the end.

    after a pass    only new nodes are run, on recorded float64 values of the graph before it; expensive ones
                    are put off to the end (`graphopt.pipeline.pending`)
    at the end      original against final, in float64 (1e-9, nothing derived is rounded yet), and after
                    `freeze` in the declared dtypes, by the original's own rounding error

A region that looks wrong is looked at again on a fresh record, because values recorded before an earlier
pass rounded differ in the last bits. When the record grows over its limit, only the end
is compared: running a graph that large after each of dozens of passes would take minutes, and the end finds
the guilty pass too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from graphopt.analysis.table import counted
from graphopt.errors import BrokenPromiseError, GraphoptError
from graphopt.ir.graph import Graph, Node, Operand, Value
from graphopt.ir.printer import node_text, operand_text, value_text
from graphopt.pipeline.compare import Mismatch, compare, compare_declared
from graphopt.pipeline.divergence import Divergence, diverging_pairs, earliest, first_divergence
from graphopt.pipeline.passes import NumericClass, Pass
from graphopt.pipeline.pending import Pending, PutOff, assumed_values
from graphopt.pipeline.recording import Probe, Recording, RecordTooLargeError, record, run_outputs
from graphopt.pipeline.records import BrokenPromise

if TYPE_CHECKING:
    import torch

__all__ = ["Change", "CheckLevel", "Checker", "Verdict", "cannot_run"]

CheckLevel: TypeAlias = Literal["default", "full", "off"]


@dataclass(frozen=True, slots=True)
class Change:
    """One pass's edit of a graph: the graph before (a copy), the edited one, and how their values map.

    `mapping` leads from values of the edited graph, as they were before the pass, to the copy. `created` are
    new nodes, `replaced` pairs (old value, what its readers read now), outputs among them.
    """

    before: Graph
    after: Graph
    mapping: Mapping[Value, Value]
    created: Sequence[Node]
    replaced: Sequence[tuple[Value, Operand]]


class PutOffError(BrokenPromiseError):
    """A comparison that was put off to the end failed; the pipeline has to run again with none put off."""

    def __init__(self, put_off: PutOff, mismatch: Mismatch) -> None:
        super().__init__(f"{put_off.pass_!r} changed %{put_off.old.name} by {mismatch.error:.3g}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The largest error that was seen, and the broken promise if it is too large."""

    error: float | None
    broken: BrokenPromise | None = None


def cannot_run(graph: Graph) -> str:
    """Why a graph has no numbers to compare, or nothing: a state without data, for one."""
    missing = [state.name for state in graph.states.values() if state.data is None and state.value.use_count]
    if len(missing) < 2:
        return "".join(f"%{name} has no data" for name in missing)
    return f"%{missing[0]} and {counted(len(missing) - 1, 'more state')} have no data"


class Checker:
    """Compares graphs on probes. Holds the recorded values between passes; see the module's text."""

    def __init__(self, original: Graph, probes: Sequence[Probe], *, level: CheckLevel, limit: int, defer: bool = True) -> None:
        self._reference = original
        self._probes = tuple(probes)
        self._whole = level == "full"
        self._limit = limit
        self._recording: Recording | None = None
        self._expected: list[tuple[torch.Tensor, ...]] | None = None
        self._untouched = True
        self._only_at_the_end = False
        self._defer = defer
        self._pending = Pending()
        self.notes: list[str] = []

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The inputs that graphs are compared on."""
        return self._probes

    @property
    def late_errors(self) -> Mapping[str, float]:
        """Largest errors of comparisons that were put off to a run of the whole graph, by the text of the pass."""
        return self._pending.errors

    def judge(self, pass_: Pass, change: Change) -> Verdict:
        """Compare the graph before and after a pass by the pass's numeric class.

        Raises:
            Exception: whatever the reference run of the graph *before* the pass raises.
        """
        if pass_.numeric is NumericClass.LOSSY:
            return self._measure_lossy(pass_, change)
        if self._whole:
            return self._judge_whole(pass_, change)
        if not self._only_at_the_end:
            try:
                return self._judge_region(pass_, change)
            except RecordTooLargeError as error:
                self._recording = None
                self._pending.clear()
                self._only_at_the_end = True
                self.notes.append(f"{error.what}: passes are not compared one by one, the whole graph is at the end")
        return Verdict(None)

    def accept(self, pass_: Pass, change: Change) -> None:
        """The pass stays: move the record on."""
        if pass_.numeric is NumericClass.LOSSY:
            self._recording = None
            self._expected = None
            self._pending.clear()
            self._reference = change.after.clone()
            self._untouched = True
            return
        self._untouched = False
        if self._recording is not None:
            self._recording.prune(change.after)
            self._recording.stale = self._recording.stale or pass_.numeric is not NumericClass.EXACT

    def reject(self, change: Change) -> None:
        """The pass is rolled back to `change.before`: move the record there."""
        if self._recording is not None:
            self._recording.rename(change.mapping)
        self._pending.rename(change.mapping)

    # One pass

    def _judge_region(self, pass_: Pass, change: Change) -> Verdict:
        if self._recording is None:
            self._start(change)
        error, divergences, failure = self._compare_region(pass_, change)
        assert self._recording is not None, "a region is compared on a record"
        if (divergences or failure) and self._recording.stale:
            self._start(change)
            error, divergences, failure = self._compare_region(pass_, change)
        if failure:
            return Verdict(error, _broken(pass_, change.after, None, failure))
        if not divergences:
            return Verdict(error)
        if all(divergence.same_value for divergence in divergences):  # nodes changed in place may have been meant to change
            self._recording = None
            return self._judge_whole(pass_, change)
        return Verdict(error, _broken(pass_, change.after, earliest(change.after, divergences)))

    def _start(self, change: Change) -> None:
        """Record the graph before the pass, under the values of the edited graph."""
        keys = {copy: value for value, copy in change.mapping.items()}
        recording = record(change.before, [probe for probe in self._probes if not probe.special], self._limit, keys)
        special = [probe for probe in self._probes if probe.special]
        if special and recording.bytes <= self._limit // 16:
            try:
                recording.runs += record(change.before, special, self._limit, keys).runs
            except (GraphoptError, RuntimeError, IndexError, ValueError) as error:  # an index made from NaN, say
                self.notes.append(f"the graph does not run on NaN and infinities ({_one_line(error)}), so passes were not tried on them")
                self._probes = tuple(probe for probe in self._probes if not probe.special)
        self._recording = recording
        if self._untouched and self._expected is None:
            self._expected = [run.outputs for run in recording.runs if not run.probe.special]

    def _compare_region(self, pass_: Pass, change: Change) -> tuple[float | None, list[Divergence], str]:
        """Largest error, pairs that diverge, and why the region could not be run if it could not."""
        recording = self._recording
        assert recording is not None, "a region is compared on a record"
        changed = {old.producer for old, new in change.replaced if old is new and old.producer is not None}
        wanted = changed.union(change.created)
        nodes = [node for node in change.after.nodes if node in wanted] if wanted else []
        pairs = _final_pairs(change.after, change.replaced)
        try:
            assumed = assumed_values(nodes, pairs, recording.runs) if self._defer and pass_.numeric is NumericClass.ROUNDING else {}
            fresh = recording.evaluate(change.after, nodes, assumed)
            error, divergences = diverging_pairs(change.after, recording, pairs, fresh, pass_.numeric)
        except KeyError as missing:
            return None, [], f"%{missing.args[0]} is read and nothing computes it"
        except (GraphoptError, RuntimeError, IndexError, ValueError, TypeError) as raised:
            return None, [], f"the rewritten nodes do not run: {_one_line(raised)}"
        if not divergences:
            for new, old in assumed.items():
                self._pending.add(new, PutOff(pass_, old, tuple(run.values[old] for run in recording.runs)))
            recording.extend(fresh)
        return error, divergences, ""

    def _judge_whole(self, pass_: Pass, change: Change) -> Verdict:
        worst = 0.0
        for probe in self._probes:
            if probe.special and pass_.numeric is not NumericClass.EXACT:
                continue
            before = run_outputs(change.before, probe.inputs, precise=True)
            try:
                after = run_outputs(change.after, probe.inputs, precise=True)
            except (GraphoptError, RuntimeError, IndexError, ValueError, TypeError) as raised:
                return Verdict(None, _broken(pass_, change.after, None, f"the graph does not run any more: {_one_line(raised)}"))
            for index, (old, new) in enumerate(zip(before, after, strict=True)):
                error, mismatch = compare(old, new, pass_.numeric)
                worst = max(worst, error)
                if mismatch is not None:
                    divergence = first_divergence(change.before, change.after, probe, pass_.numeric) or _output(change, index, mismatch)
                    return Verdict(error, _broken(pass_, change.after, divergence, mismatch.rule, error))
        return Verdict(worst)

    def _measure_lossy(self, pass_: Pass, change: Change) -> Verdict:
        worst = 0.0
        self._pending.rename(change.mapping)  # what was put off has to hold now: the graph changes its function here
        for number, probe in enumerate(self._plain):
            found: list[tuple[PutOff, Mismatch]] = []
            before = run_outputs(change.before, probe.inputs, precise=True, on_value=self._watcher(number, found))
            if found:
                raise PutOffError(*found[0])
            try:
                after = run_outputs(change.after, probe.inputs, precise=True)
            except (GraphoptError, RuntimeError, IndexError, ValueError, TypeError) as raised:
                return Verdict(None, _broken(pass_, change.after, None, f"the graph does not run any more: {_one_line(raised)}"))
            for index, (old, new) in enumerate(zip(before, after, strict=True)):
                error, mismatch = compare(old, new, NumericClass.LOSSY)
                if mismatch is not None:
                    return Verdict(error, _broken(pass_, change.after, _output(change, index, mismatch), mismatch.rule, error))
                worst = max(worst, error)
        return Verdict(worst)

    # The whole pipeline

    def judge_final(self, final: Graph) -> tuple[float, Mismatch | None]:
        """Original (or what the last lossy pass left) against the final graph, in float64; derived data unrounded.

        Raises:
            PutOffError: a value that was believed so far is wrong.
        """
        worst = 0.0
        for number, (probe, expected) in enumerate(zip(self._plain, self._expected_outputs(), strict=True)):
            found: list[tuple[PutOff, Mismatch]] = []
            outputs = run_outputs(final, probe.inputs, precise=True, on_value=self._watcher(number, found))
            if found:
                raise PutOffError(*found[0])
            for old, new in zip(expected, outputs, strict=True):
                error, mismatch = compare(old, new, NumericClass.ROUNDING)
                worst = max(worst, error)
                if mismatch is not None:
                    return error, mismatch
        return worst, None

    def _watcher(self, number: int, found: list[tuple[PutOff, Mismatch]]) -> Callable[[Value, torch.Tensor], None] | None:
        """What compares the values that were put off while the whole graph runs; plain probes come first in a record."""
        if not self._pending:
            return None

        def watch(value: Value, tensor: torch.Tensor) -> None:
            mismatch = self._pending.judge(value, tensor, number)
            if mismatch is not None:
                found.append(mismatch)

        return watch

    def judge_declared(self, final: Graph) -> tuple[float | None, Mismatch | None]:
        """The same in the graph's own dtypes, after derived data is frozen; None where those do not run here."""
        worst = 0.0
        for probe, expected in zip(self._plain, self._expected_outputs(), strict=True):
            try:
                eager = run_outputs(self._reference, probe.inputs, precise=False)
            except (GraphoptError, RuntimeError) as error:
                self.notes.append(f"the original does not run in its own dtypes here ({_one_line(error)}), so only float64 was compared")
                return None, None
            for reference, old, new in zip(expected, eager, run_outputs(final, probe.inputs, precise=False), strict=True):
                error, mismatch = compare_declared(reference, old, new)
                worst = max(worst, error)
                if mismatch is not None:
                    return error, mismatch
        return worst, None

    @property
    def _plain(self) -> list[Probe]:
        return [probe for probe in self._probes if not probe.special]

    def _expected_outputs(self) -> list[tuple[torch.Tensor, ...]]:
        if self._expected is None:
            self._expected = [run_outputs(self._reference, probe.inputs, precise=True) for probe in self._plain]
        return self._expected


def _final_pairs(graph: Graph, replaced: Sequence[tuple[Value, Operand]]) -> list[tuple[Value, Operand]]:
    """Pairs in which the right side still exists: chains a -> b -> c of one pass become a -> c and b -> c."""
    ends: dict[Value, Operand] = {}
    for old, new in reversed(replaced):
        end = ends.get(new, new) if isinstance(new, Value) and not _is_alive(graph, new) else new
        if old is not new or old not in ends:
            ends[old] = end
    return [(old, new) for old, new in ends.items() if not isinstance(new, Value) or _is_alive(graph, new)]


def _output(change: Change, index: int, mismatch: Mismatch) -> Divergence | None:
    """Output number `index` as a divergence, where no value of equal name differs before it."""
    old = change.before.outputs[index]
    return Divergence(old, change.after.outputs[index], mismatch) if isinstance(old, Value) else None


def _is_alive(graph: Graph, value: Value) -> bool:
    if value.producer is not None:
        return value.producer.graph is graph
    return graph.has_value(value.name) and graph.value(value.name) is value


def _broken(pass_: Pass, after: Graph, divergence: Divergence | None, rule: str = "", error: float = float("nan")) -> BrokenPromise:
    if divergence is None:
        return BrokenPromise(pass_.name, pass_.numeric, rule, error=error)
    new = divergence.new
    node = new.producer if isinstance(new, Value) else None
    text = node_text(node) if node is not None else f"{value_text(divergence.old)} = {operand_text(new)}"
    source = str(node.source) if node is not None and (node.source.file or node.source.module) else ""
    return BrokenPromise(
        pass_.name, pass_.numeric, rule or divergence.mismatch.rule, f"%{divergence.old.name}", text, source, divergence.mismatch.error
    )


def _one_line(error: BaseException) -> str:
    text = error.args[0] if isinstance(error, GraphoptError) and error.args else str(error)
    return f"{type(error).__name__}: {str(text).strip().splitlines()[0][:200] if str(text).strip() else ''}"
