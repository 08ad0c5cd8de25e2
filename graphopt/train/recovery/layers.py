"""Layers fitted to the teacher's, one after the other, without labels and without gradients.

    min over W with the zeros of the mask  |W x - y|^2 + ridge |W - W_now|^2

x is what the layer reads in the student, whose earlier layers are fitted already, and y what it gives in the teacher.
All kept weights of a layer are solved for at once: conjugate gradients on the normal equations, rows side by side, each
projected on its own mask. Only sums over the data are kept, in float64, for one layer at a time. A quarter of the
batches is held out, and a layer stays as it was where its error on these does not fall.

Source: the layer-wise objective of Frantar & Alistarh, "Optimal brain compression", NeurIPS 2022, equation 1; here solved
for a given mask. Conjugate gradients: Hestenes & Stiefel 1952.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph, Node, Value
from graphopt.train.masks import mask_of
from graphopt.train.recovery.data import TrainingBatch, items, read_batch
from graphopt.train.recovery.network import Network
from graphopt.train.recovery.progress import ProgressBar

__all__ = ["MAX_COLUMNS", "NormalEquations", "reconstruct_layers", "solve_masked"]

MAX_COLUMNS = 8192
"""Inputs of a layer (times its window) above which it is left as it is: the normal equations would take 512 MB."""

_SAMPLES = 1024
_RIDGE = 1e-4
_ITERATIONS = 200
_TOLERANCE = 1e-16


@dataclass(slots=True)
class NormalEquations:
    """Sums over rows: x x^T [groups, k, k], y x^T [groups, rows, k] and |y|^2."""

    xx: torch.Tensor
    yx: torch.Tensor
    yy: float = 0.0
    count: int = 0

    @staticmethod
    def empty(groups: int, rows: int, columns: int) -> NormalEquations:
        """Of no data yet."""
        xx, yx = (torch.zeros(groups, size, columns, dtype=torch.float64) for size in (columns, rows))
        return NormalEquations(xx, yx)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Take in x [groups, k, n] and y [groups, rows, n]."""
        self.xx += x @ x.transpose(1, 2)
        self.yx += y @ x.transpose(1, 2)
        self.yy += float(y.square().sum())
        self.count += x.shape[2]

    def error(self, weight: torch.Tensor) -> float:
        """|W x - y|^2 for W [groups, rows, k]."""
        return float(((weight @ self.xx) * weight).sum() - 2 * (weight * self.yx).sum() + self.yy)


def solve_masked(equations: NormalEquations, start: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The least squares solution near `start` that differs from it only where `mask` is True; all [groups, rows, k], float64."""
    diagonal = equations.xx.diagonal(dim1=1, dim2=2)
    ridge = _RIDGE * float(diagonal.mean())

    def apply(direction: torch.Tensor) -> torch.Tensor:
        return (direction @ equations.xx + ridge * direction) * mask

    scale = torch.where(mask, 1.0 / (diagonal[:, None, :] + ridge).clamp(min=1e-300), 0.0)  # Jacobi
    weight = start.clone()
    residual = (equations.yx - weight @ equations.xx) * mask
    turned = residual * scale
    direction = turned.clone()
    size = (residual * turned).sum(-1, keepdim=True)
    first = size.clone()
    for _ in range(min(_ITERATIONS, 2 * start.shape[-1])):
        active = size > _TOLERANCE * first
        if not bool(active.any()):
            break
        moved = apply(direction)
        step = torch.where(active, size / (direction * moved).sum(-1, keepdim=True).clamp(min=1e-300), 0.0)
        weight += step * direction
        residual -= step * moved
        turned = residual * scale
        renewed = (residual * turned).sum(-1, keepdim=True)
        direction = turned + torch.where(active, renewed / size.clamp(min=1e-300), 0.0) * direction
        size = renewed
    return weight


class _SeenError(Exception):
    """Everything that was to be seen has been."""


def reconstruct_layers(
    student: Network,
    teacher: Graph,
    data: Iterable[object],
    *,
    seed: int,
    start: int = 0,
    done: Callable[[int, str | None], None],
    progress: bool | None = False,
) -> None:
    """Fit the linear and convolution layers that both graphs have under one name, from layer `start` on.

    `done` is called after each layer: with the number of those that are finished, and the layer's name where it changed.
    `progress` is that of `ProgressBar`. The first 1024 rows of the data are used, and held in memory. Time grows with the
    square of the number of layers.

    Raises:
        UsageError: the data is empty or does not fit.
    """
    graph = student.graph
    if graph is None:
        return
    batches, layers = _read(graph, data, seed), _layers(graph, teacher)
    with ProgressBar(len(layers), progress, "layers") as bar:
        for index, (mine, theirs) in enumerate(layers):
            if index < start:
                continue
            bar.update(index, mine.name)
            changed = _fit(student, mine, theirs, teacher, batches)
            done(index + 1, mine.name if changed else None)


def _read(graph: Graph, data: Iterable[object], seed: int) -> list[TrainingBatch]:
    batches: list[TrainingBatch] = []
    with torch.random.fork_rng(devices=[]):
        for index, item in enumerate(items(data, iter(range(seed, 2**62)))):
            batches += read_batch(graph, item, index)
            if sum(batch.rows for batch in batches) >= _SAMPLES:
                break
    if not batches:
        raise UsageError(
            "training data is empty or has no batch that fits, so layers can't be reconstructed", fix="give at least one batch"
        )
    return batches


def _layers(student: Graph, teacher: Graph) -> list[tuple[Node, Node]]:
    theirs = {node.name: node for node in teacher.nodes}
    found: list[tuple[Node, Node]] = []
    for node in student.nodes:
        other = theirs.get(node.name)
        if node.op not in ("linear", "conv1d", "conv2d") or other is None or other.result.type.shape != node.result.type.shape:
            continue
        weight = student.state_of(node.operands[1])
        if weight is not None and weight.kind == "param" and weight.value.use_count == 1:  # a shared weight has several targets
            found.append((node, other))
    return found


@torch.no_grad()
def _fit(student: Network, node: Node, target: Node, teacher: Graph, batches: Sequence[TrainingBatch]) -> bool:
    graph = student.graph
    parameters = dict(student.module.named_parameters())
    assert graph is not None, "layers were found in it"
    state = graph.state_of(node.operands[1])
    assert state is not None, "_layers looked for it"
    weight = parameters[state.name]
    bias_state = graph.state_of(node.operands[2])
    bias = None if bias_state is None else parameters.get(bias_state.name)
    groups = node.attrs.get("groups", 1)
    assert isinstance(groups, int), "an attribute of convolutions"
    rows, columns = weight.shape[0] // groups, weight[0].numel()
    if columns + 1 > MAX_COLUMNS or not weight.is_floating_point():
        return False
    size = columns + (bias is not None)
    fitted, held = NormalEquations.empty(groups, rows, size), NormalEquations.empty(groups, rows, size)
    for index, batch in enumerate(batches):
        x = _inputs(node, _value(graph, node.value(0), batch), weight, groups)
        y = _value(teacher, target.result, batch)
        y = y.double().reshape(-1, y.shape[-1]).T if node.op == "linear" else y.double().flatten(2).movedim(1, 0).flatten(1)
        if bias is not None:
            x = torch.cat([x, x.new_ones(groups, 1, x.shape[2])], 1)
        elif node.operands[2] is not None:
            return False  # a bias that is computed: nothing to write it to
        (held if index % 4 == 3 else fitted).add(x, y.reshape(groups, rows, -1))
    now = weight.detach().double().reshape(groups, rows, columns)
    mask = mask_of(weight, state.type.sparsity)
    kept = torch.ones_like(now, dtype=torch.bool) if mask is None else mask.reshape(now.shape)
    if bias is not None:
        now = torch.cat([now, bias.detach().double().reshape(groups, rows, 1)], 2)
        kept = torch.cat([kept, torch.ones_like(kept[..., :1])], 2)
    found = solve_masked(fitted, now, kept)
    judge = held if held.count else fitted
    if not bool(found.isfinite().all()) or judge.error(found) >= judge.error(now):
        return False
    weight.copy_(torch.where(kept, found, 0.0)[..., :columns].reshape(weight.shape))
    if bias is not None:
        bias.copy_(found[..., columns].reshape(bias.shape))
    return True


def _inputs(node: Node, x: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
    """What each output is a linear function of: [groups, k, n] in float64."""
    x = x.double()
    if node.op == "linear":
        return x.reshape(-1, x.shape[-1]).T[None]
    window, stride, padding, dilation = tuple(weight.shape[2:]), *(_pair(node, name) for name in ("stride", "padding", "dilation"))
    if node.op == "conv1d":
        x, window, stride, padding, dilation = x[:, :, None], (1, *window), (1, *stride), (0, *padding), (1, *dilation)
    columns = functional.unfold(x, window, dilation, padding, stride)  # [batch, in * window, positions]
    return columns.unflatten(1, (groups, -1)).permute(1, 2, 0, 3).flatten(2)


def _pair(node: Node, name: str) -> tuple[int, ...]:
    found = node.attrs[name]
    return tuple(int(number) for number in found if isinstance(number, int)) if isinstance(found, tuple) else ()


def _value(graph: Graph, value: Value, batch: TrainingBatch) -> torch.Tensor:
    """One value of a run, which ends there."""
    for given, tensor in zip(graph.inputs, batch.args, strict=True):
        if given is value:
            return tensor
    seen: list[torch.Tensor] = []

    def watch(computed: Value, tensor: torch.Tensor) -> None:
        if computed is value:
            seen.append(tensor)
            raise _SeenError

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # graphs that draw random numbers draw the same ones in every run
        with contextlib.suppress(_SeenError):
            Interpreter(graph).run(*batch.args, on_value=watch)
    return seen[0]
