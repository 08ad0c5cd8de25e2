"""Goes through a cut graph in execution order and makes every layer up for what it no longer reads.

    for each layer whose inputs have changed, first to last:
        targets   what the uncut layer gave, of the channels that are left, plus what a shortcut behind it lacks
        inputs    what the layer really reads now, behind all layers that were fitted before it
        fit       weights, bias, or scale and statistics of a batch norm; see `fit` and `batch_norm`

Both graphs run side by side, all batches at once, so each is computed once, and once more for the comparison at the
end. Memory: the values of both graphs at their busiest node times the batches (as many as fit into `LIMIT_BYTES` are
used), and for one layer at a time the matrices of `graphopt.passes.shrink.statistics.normal_equations`. What was found for a layer
is kept where there is a checkpoint: after a kill the data goes through the layers that are finished, which are not fitted again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch

from graphopt.analysis.table import counted
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, Node, State, Value
from graphopt.passes.finished import Finished
from graphopt.passes.shrink.compensation.batch_norm import fit_batch_norm
from graphopt.passes.shrink.compensation.changes import Kept, LeftAxes, changed_values, select_kept, twin_of
from graphopt.passes.shrink.compensation.fit import Sample, fit_layer, fit_shift
from graphopt.passes.shrink.compensation.layers import columns_of, is_linear_layer, linear_layer
from graphopt.passes.shrink.compensation.outputs import output_error
from graphopt.passes.shrink.compensation.owned import Owned, own_numbers, own_state
from graphopt.passes.shrink.compensation.shortcuts import shortcut_of
from graphopt.passes.shrink.compensation.words import listed, memory_size
from graphopt.passes.shrink.products import added_bias, product_of, weight_index
from graphopt.passes.shrink.statistics.stream import LIMIT_BYTES as LIMIT_OF_ONE_GRAPH
from graphopt.passes.shrink.statistics.stream import Stream, batches_that_fit, computes_in_double
from graphopt.pipeline.calibration import Calibration
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["LIMIT_BYTES", "Compensation", "Method"]

Method = Literal["bias", "least-squares"]

_Left: TypeAlias = "Mapping[int, tuple[int, ...]]"
"""By axis, the positions of a result that are left."""

LIMIT_BYTES = 2 * LIMIT_OF_ONE_GRAPH
"""Most memory for values of all batches in both graphs (bytes)."""


_LEAST_SCALE = 0.05
"""Batch norms with a scale below this part of the mean let through too little for the layer before them to mend anything."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found for one layer: why it can't be fitted, or new numbers of its states in their own dtypes.

    `better` is False where no numbers are better than those of now, and None where nothing had to be fitted.
    """

    reason: str | None = None
    better: bool | None = None
    numbers: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])


class Compensation:
    """One compensation of one cut graph; `run` does it."""

    def __init__(
        self,
        rewriter: Rewriter,
        before: Graph,
        kept: Kept,
        calibration: Calibration,
        method: Method,
        *,
        seed: int = 0,
        progress: Callable[[str, float], None] | None = None,
        limit: int = LIMIT_BYTES,
        finished: Finished | None = None,
    ) -> None:
        self._rewriter = rewriter
        self._graph = rewriter.graph
        self._before = before
        self._left = LeftAxes(before, kept)
        self._method: Method = method
        self._seed = seed
        self._progress = progress
        self._finished = finished
        self._precise = computes_in_double(before)
        batches = [batch.inputs for batch in calibration]
        count = batches_that_fit((before, self._graph), batches, limit, precise=self._precise)
        self._batches = batches[:count]
        self._left_out = len(batches) - count
        self._limit = limit
        self._old = Stream(before, self._batches, precise=self._precise)
        self._new = Stream(self._graph, self._batches, precise=self._precise)
        self._originals: dict[str, State] = {}
        self._fitted: list[str] = []
        self._as_they_were: list[str] = []
        self._reasons: dict[str, list[str]] = {}

    def run(self) -> tuple[str, ...]:
        """Fit all layers, compare the outputs, and say what was done.

        Where the outputs on held-out samples are not nearer to the old ones than those of the plain cut, all
        numbers are put back.
        """
        plain = self._graph.clone()
        changed = changed_values(self._before, self._graph)
        self._fit_each([node for node in self._graph.nodes if self._wants(node, changed)])
        if not self._originals:
            return self._notes()
        wanted = self._old.finish()
        error = output_error(wanted, self._new.finish())
        plain_error = output_error(wanted, Stream(plain, self._batches, precise=self._precise).finish())
        if not error < plain_error:
            for state in self._originals.values():
                self._rewriter.update_state(state)
            return (
                f"compensation ({self._method}) was taken back: on held-out samples the outputs are off by {error:.3g} with it "
                f"and by {plain_error:.3g} without",
                *self._notes(),
            )
        return (
            f"compensation ({self._method}) of {counted(len(self._fitted), 'layer')}: "
            f"outputs on held-out samples are off by {error:.3g}, by {plain_error:.3g} without it",
            *self._notes(),
        )

    def run_readers(self) -> None:
        """Fit only the layers that lost columns, and the batch norms right behind them: most of what there is to mend,
        for a part of the time. Nothing is compared and nothing put back.
        """
        readers = {node for node in self._graph.nodes if self._lost_columns(node)}
        readers |= {norm for node in readers if (norm := self._norm_behind(node)) is not None}
        self._fit_each([node for node in self._graph.nodes if node in readers])

    def _fit_each(self, jobs: Sequence[Node]) -> None:
        for number, node in enumerate(jobs):
            if self._progress is not None:
                self._progress(f"compensate {node.name}, {number + 1} of {len(jobs)}", number / len(jobs))
            reason = self._fit(node, f"layer-{number + 1:05}")
            if reason is not None:
                self._reasons.setdefault(reason, []).append(node.name)

    def _lost_columns(self, node: Node) -> bool:
        """True for layers whose weight has fewer columns than before."""
        twin = twin_of(self._before, node) if is_linear_layer(node) else None
        if twin is None:
            return False
        return columns_of(twin) != columns_of(node)

    def _notes(self) -> tuple[str, ...]:
        notes = [f"not compensated, {reason}: {listed(names)}" for reason, names in self._reasons.items()]
        if self._as_they_were:
            notes.append(f"kept as cut, no better on held-out samples: {listed(self._as_they_were)}")
        if self._left_out:
            was, need = ("was", "it needs") if self._left_out == 1 else ("were", "they need")
            left_out = f"{counted(self._left_out, 'calibration batch', 'calibration batches')} {was} not used for compensation"
            notes.append(f"{left_out}: {need} more than {memory_size(self._limit)}")
        return (*notes, *(() if self._finished is None else self._finished.notes))

    def _wants(self, node: Node, changed: set[Value]) -> bool:
        """True for layers and norms that read changed values, or whose own columns have changed."""
        transposed = node.op.startswith("conv_transpose")
        if not is_linear_layer(node) and not transposed and node.op != "batch_norm":
            return False
        if any(operand in changed for operand in node.operands if isinstance(operand, Value)) or self._lost_columns(node):
            return True
        twin = twin_of(self._before, node)
        return transposed and twin is not None and twin.value(1).shape[1:] != node.value(1).shape[1:]

    def _fit(self, node: Node, key: str) -> str | None:
        """Fit one node; the reason where that can't be done. What is found is kept under `key`."""
        twin = twin_of(self._before, node)
        if twin is None or self._old.has_passed(twin):
            return "there was no such layer before"
        self._new.advance(node)
        self._old.advance(twin, through=True)
        axis = _channel_axis(node)
        left = self._left.of(node, twin, axis)
        if left is None:
            return "its channels before and after can't be matched"
        if not self._old.knows(twin.result):
            return "nobody reads it"

        def found() -> dict[str, Any]:
            made = self._find(node, twin, left, axis)
            return {"reason": made.reason, "better": made.better, "numbers": made.numbers}

        result = found() if self._finished is None else self._finished.result(key, found)
        return self._install(node, _Found(**result))

    def _find(self, node: Node, twin: Node, left: _Left, axis: int) -> _Found:
        """New numbers for one node; the graph stays as it is."""
        if self._is_exact(node, twin, left, axis):
            return _Found()
        if node.op == "batch_norm":
            return self._fit_norm(node, twin, left)
        return self._fit_layer(node, twin, left, axis)

    def _install(self, node: Node, found: _Found) -> str | None:
        for name, numbers in found.numbers.items():
            state = self._graph.states[name]
            assert state.data is not None, "both graphs run, so they have numbers"
            self._originals.setdefault(name, state)
            data = TensorData(numbers.to(state.data.tensor().device))
            self._rewriter.update_state(replace(state, data=data, digest=None))
            self._split_again(state.value)
        if found.better:
            self._fitted.append(node.name)
            self._rewriter.touch(node)
        elif found.better is not None:
            self._as_they_were.append(node.name)
        return found.reason

    def _split_again(self, whole: Value) -> None:
        """Parts of a state that are computed already follow it."""
        for user in whole.users:
            if user.op == "split" and self._new.has_passed(user):
                parts = [self._new.compute(batch, user) for batch in range(len(self._batches))]
                for index, result in enumerate(user.results):
                    if self._new.knows(result):
                        self._new.put(result, [part[index] for part in parts])

    def _is_exact(self, node: Node, twin: Node, left: _Left, axis: int) -> bool:
        """True where what is left of the result is what it was, up to rounding: only rows were taken out so far."""
        for sample in self._samples(node, twin, left, axis):
            rounding = 100 * torch.finfo(sample.targets.dtype).eps
            if not bool((sample.targets - sample.outputs).abs().amax() <= rounding * sample.targets.abs().amax()):
                return False
        return True

    def _fit_layer(self, node: Node, twin: Node, left: _Left, axis: int) -> _Found:
        weight, bias = self._weight_to_fit(node), self._bias(node)
        absorbed = (len(node.operands) < 3 or node.operands[2] is None) and self._norm_behind(node) is not None
        samples = self._samples(node, twin, left, axis)
        numbers: dict[str, torch.Tensor] = {}
        if isinstance(weight, Owned):
            fits_shift = isinstance(bias, Owned) or absorbed
            fit = fit_layer(linear_layer(node), samples, len(self._batches), fits_shift=fits_shift, seed=self._seed)
            if fit is not None and fit.weight is not None:
                numbers[weight.state.name] = weight.moved(fit.weight)
        elif isinstance(bias, Owned):
            fit = fit_shift(samples, len(self._batches), axis)
        else:
            return _Found(None if absorbed else weight or bias)  # a batch norm behind it does what a bias would do
        if fit is not None and isinstance(bias, Owned):
            numbers[bias.state.name] = bias.moved(fit.shift)
        return _Found(better=fit is not None, numbers=numbers)

    def _weight_to_fit(self, node: Node) -> Owned | str:
        """The weight, or why it stays; nothing where the method or the op leaves weights alone anyway."""
        if self._method == "bias" or not is_linear_layer(node):
            return ""
        owned = own_numbers(self._graph, node, weight_index(node))
        return "its weight keeps its zeros" if isinstance(owned, Owned) and owned.state.type.sparsity is not None else owned

    def _fit_norm(self, node: Node, twin: Node, left: _Left) -> _Found:
        if node.attrs["mode"] == "train":
            return _Found("it uses the statistics of each batch")
        states = [self._own_state(node, index) for index in range(1, 5)]
        missing = [state for state in states if isinstance(state, str)]
        if missing:
            return _Found(missing[0])
        owned = [state for state in states if isinstance(state, State)]
        samples = list(self._samples(node, twin, left, 1))
        if self._method == "bias":
            shift = fit_shift(samples, len(samples), 1)
            return (
                _Found(better=False) if shift is None else _Found(better=True, numbers={owned[1].name: Owned(owned[1]).moved(shift.shift)})
            )
        fit = fit_batch_norm(node, [tensor for state in owned if (tensor := self._new.state(state.value)) is not None], samples)
        if fit is None:
            return _Found("its statistics are not finite")
        numbers = (fit.weight, fit.bias, fit.statistics.mean, fit.statistics.var)
        return _Found(better=True, numbers={state.name: _stored(state, made) for state, made in zip(owned, numbers, strict=True)})

    def _samples(self, node: Node, twin: Node, left: _Left, axis: int) -> Iterator[Sample]:
        """What a node reads, gives and should give, batch by batch."""
        shortcut = self._shortcut(node)
        product = product_of(node)
        read = node.operands[0 if product is None else product.input]
        for batch in range(len(self._batches)):
            inputs = self._new.operand(batch, read)
            (outputs,) = self._new.compute(batch, node)
            targets = select_kept(self._old.operand(batch, twin.result), left)
            if shortcut is not None:
                old, new, factor = shortcut
                missing = select_kept(self._old.operand(batch, old), left) - self._new.operand(batch, new)
                targets = targets + (missing if factor is None else missing * _along(factor, axis, missing.dim()))
            yield Sample(inputs, outputs, targets)

    def _shortcut(self, node: Node) -> tuple[Value, Value, torch.Tensor | None] | None:
        """The value that the node's result is added to, before and after; None where there is none or it comes later.

        Where a batch norm is in between, the factor that turns what is missing behind it into what is missing before it.
        """
        norm = self._norm_behind(node)
        found = shortcut_of(norm or node)
        twin = twin_of(self._before, found[0]) if found is not None else None
        if found is None or twin is None:
            return None
        old, new = twin.operands[found[1]], found[0].operands[found[1]]
        if not isinstance(old, Value) or not isinstance(new, Value) or old.name != new.name or old.shape != twin.result.shape:
            return None
        if not self._old.knows(old) or not self._new.knows(new):
            return None
        return old, new, None if norm is None else self._inverse_scale(norm)

    def _inverse_scale(self, norm: Node) -> torch.Tensor:
        """sqrt(var + eps) / weight of each channel; 0 where the weight is too small to be divided by."""
        weight, var = self._new.state(norm.operands[1]), self._new.state(norm.operands[4])
        eps = norm.attrs["eps"]
        assert isinstance(eps, int | float), "kinds of attributes are checked by the verifier"
        if weight is None or var is None:
            return torch.zeros(())
        inverse = (var + eps).sqrt() / weight
        return torch.where(weight.abs() > _LEAST_SCALE * weight.abs().mean(), inverse, torch.zeros_like(inverse))

    def _norm_behind(self, node: Node) -> Node | None:
        """The batch norm over its channels that alone reads the result of a layer; it is fitted next, whatever the method."""
        users = node.result.users
        if node.op == "batch_norm" or len(users) != 1 or users[0].op != "batch_norm" or users[0].attrs["mode"] == "train":
            return None
        if _channel_axis(node) != 1:
            return None
        return users[0] if all(isinstance(self._own_state(users[0], index), State) for index in range(1, 5)) else None

    def _own_state(self, node: Node, index: int) -> State | str:
        return own_state(self._graph, node, index)

    def _bias(self, node: Node) -> Owned | str:
        """The bias of a layer, also where it is added behind it, as to a product with a weight; or why it can't be changed."""
        own = own_numbers(self._graph, node, 2)
        added = added_bias(node) if isinstance(own, str) else None
        return own if added is None else own_numbers(self._graph, *added)


def _stored(state: State, numbers: torch.Tensor) -> torch.Tensor:
    dtype: torch.dtype = getattr(torch, state.type.dtype.torch_name)
    return numbers.to(dtype).contiguous()


def _channel_axis(node: Node) -> int:
    """The axis of the result that the channels are on, -1 where they are on several or nobody knows."""
    product = product_of(node)
    if product is not None:
        return product.channel_axis
    rank = node.result.type.rank
    return 1 if node.op == "batch_norm" else rank - 1 - (node.value(1).type.rank - 2)


def _along(numbers: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    """Numbers of an axis, ready to be multiplied with a tensor of that rank."""
    return numbers.reshape([-1 if other == axis else 1 for other in range(rank)])
