"""Scores on hand-made groups, against numbers that are written out with torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch
from torch import nn

from graphopt import capture
from graphopt.analysis.axes import AxisGroup, AxisGroups
from graphopt.errors import PassError, PassOptionError
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse
from graphopt.passes.shrink.importance import METHODS, gradients, needs_data, score
from graphopt.passes.shrink.importance.unit_losses import UnitLosses
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from graphopt.train.batched.measure import watched_memory
from tests.support.folding import filled, set_state
from tests.support.groups import grouped, hand_made_group

NORM = 'eps=1e-05, mode="follow", momentum=0.1'
TEXT = f"""graph g(%x: f32[n,3,6,6]) where n in [1, 64] {{
  param %w1: f32[4,3,3,3]
  param %b1: f32[4]
  param %gamma: f32[4]
  param %beta: f32[4]
  buffer %mean: f32[4]
  buffer %var: f32[4]
  param %w2: f32[5,64]
  param %b2: f32[5]
  %a: f32[n,4,4,4] = conv2d(%x, %w1, %b1) {{dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}}
  %n: f32[n,4,4,4] = batch_norm(%a, %gamma, %beta, %mean, %var) {{{NORM}}}
  %r: f32[n,4,4,4] = relu(%n)
  %f: f32[n,64] = reshape(%r) {{shape=(n, 64)}}
  %y: f32[n,5] = linear(%f, %w2, %b2)
  return %y
}}"""
FLAT = [channel for channel in range(4) for _ in range(16)]


def _channels(graph: Graph) -> AxisGroups:
    return grouped(
        hand_made_group(
            graph,
            "a",
            4,
            [
                ("w1", 0, "written"),
                ("b1", 0, "written"),
                ("a", 1, "carried"),
                ("gamma", 0, "scaled"),
                ("beta", 0, "scaled"),
                ("mean", 0, "scaled"),
                ("var", 0, "scaled"),
                ("n", 1, "carried"),
                ("r", 1, "carried"),
                ("f", 1, "carried", FLAT),
                ("w2", 1, "read", FLAT),
            ],
        )
    )


def _state(graph: Graph, name: str) -> torch.Tensor:
    data = graph.states[name].data
    assert data is not None
    return data.precise()


def _context(targets: bool = True, *, batches: int = 3, samples: int = 4) -> Context:
    generator = torch.Generator().manual_seed(5)
    made = [
        Batch(
            (torch.randn(samples, 3, 6, 6, generator=generator),), torch.randint(0, 5, (samples,), generator=generator) if targets else None
        )
        for _ in range(batches)
    ]
    return Context(calibration=Calibration(made), seed=7)


def _only(scores: dict[AxisGroup, numpy.ndarray]) -> torch.Tensor:
    (numbers,) = scores.values()
    assert numbers.dtype == numpy.float64
    return torch.from_numpy(numbers)


def _relative(*terms: torch.Tensor) -> torch.Tensor:
    return torch.stack([term / term.mean() for term in terms]).mean(0)


@pytest.mark.parametrize("order", [1, 2])
def test_norms_of_all_coupled_weights_without_biases_and_statistics(order: int) -> None:
    graph = filled(TEXT)

    def norm(rows: torch.Tensor) -> torch.Tensor:
        return rows.flatten(1).norm(p=order, dim=1)

    columns = _state(graph, "w2").reshape(5, 4, 16).movedim(1, 0)
    wanted = _relative(norm(_state(graph, "w1")), _state(graph, "gamma").abs(), norm(columns))
    torch.testing.assert_close(_only(score(graph, _channels(graph), f"l{order}", Context())), wanted)


def test_batch_norm_scale() -> None:
    graph = filled(TEXT)
    torch.testing.assert_close(_only(score(graph, _channels(graph), "bn-scale", Context())), _state(graph, "gamma").abs())


def test_units_without_a_batch_norm_rank_by_norms_of_the_same_scale() -> None:
    graph = filled(TEXT)
    with_norm = _channels(graph).groups[0]
    outputs = hand_made_group(graph, "y", 5, [("w2", 0, "written"), ("b2", 0, "written"), ("y", 1, "carried")], "neuron")
    scores = score(graph, grouped(with_norm, outputs), "bn-scale", Context())
    norms = _state(graph, "w2").norm(dim=1)
    torch.testing.assert_close(torch.from_numpy(scores[outputs]), norms / norms.mean() * _state(graph, "gamma").abs().mean())
    with pytest.raises(
        PassError, match="no unit of this graph has one\n  fix: shrink before batch norms are folded, or use importance 'l2'"
    ):
        score(graph, grouped(outputs), "bn-scale", Context())


def test_geometric_median_counts_distances_and_finds_the_copy() -> None:
    graph = filled(TEXT)
    weight = _state(graph, "w1").float()
    weight[3] = weight[1]
    set_state(graph, "w1", weight)
    rows = weight.double().flatten(1)
    wanted = torch.stack([(rows - row).norm(dim=1).sum() for row in rows])
    found = _only(score(graph, _channels(graph), "geometric-median", Context()))
    torch.testing.assert_close(found, wanted / wanted.mean(), atol=1e-6, rtol=1e-6)
    assert found[1] == found[3]


def test_positions_of_a_unit_may_lie_apart() -> None:
    graph = filled("graph g(%x: f32[n,3]) where n in [1, 8] { param %w: f32[6,3] %y: f32[n,6] = linear(%x, %w, none) return %y }")
    groups = grouped(
        hand_made_group(graph, "y", 3, [("w", 0, "written", [0, 1, 2, 0, 1, -1]), ("y", 1, "carried", [0, 1, 2, 0, 1, -1])], "head")
    )
    weight = _state(graph, "w")
    rows = torch.stack([torch.cat([weight[0], weight[3]]), torch.cat([weight[1], weight[4]]), torch.cat([weight[2], torch.zeros(3)])])
    torch.testing.assert_close(_only(score(graph, groups, "l2", Context())), _relative(rows.norm(dim=1)))
    distances = torch.cdist(rows, rows).sum(1)
    torch.testing.assert_close(_only(score(graph, groups, "geometric-median", Context())), _relative(distances))


def _reference_loss(graph: Graph) -> Callable[[dict[str, torch.Tensor], torch.Tensor, torch.Tensor], torch.Tensor]:
    fixed = {name: _state(graph, name) for name in ("mean", "var")}

    def loss(w: dict[str, torch.Tensor], x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.conv2d(x, w["w1"], w["b1"])
        y = torch.nn.functional.batch_norm(y, fixed["mean"], fixed["var"], w["gamma"], w["beta"], eps=1e-5).relu()
        return torch.nn.functional.cross_entropy(torch.nn.functional.linear(y.flatten(1), w["w2"], w["b2"]), target)

    return loss


def _squared_changes(graph: Graph, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    weights = {name: _state(graph, name).clone().requires_grad_() for name in ("w1", "b1", "gamma", "beta", "w2", "b2")}
    _reference_loss(graph)(weights, x.double(), target).backward()
    changes = {name: (weight.grad * weight).detach().square() for name, weight in weights.items() if weight.grad is not None}
    return changes["w1"].sum((1, 2, 3)) + changes["b1"] + changes["gamma"] + changes["beta"] + changes["w2"].reshape(5, 4, 16).sum((0, 2))


def test_taylor_is_the_squared_change_of_the_loss_by_batches() -> None:
    graph, context = filled(TEXT), _context()
    assert context.calibration is not None
    parts = [_squared_changes(graph, batch.inputs[0], batch.target) for batch in context.calibration if batch.target is not None]
    torch.testing.assert_close(_only(score(graph, _channels(graph), "taylor", context)), torch.stack(parts).mean(0), rtol=1e-4, atol=0)


def test_hessian_is_that_of_single_samples() -> None:
    graph, context = filled(TEXT), _context()
    assert context.calibration is not None
    parts = [
        _squared_changes(graph, batch.inputs[0][i : i + 1], batch.target[i : i + 1])
        for batch in context.calibration
        if batch.target is not None
        for i in range(4)
    ]
    found = _only(score(graph, _channels(graph), "hessian", context))
    torch.testing.assert_close(found, torch.stack(parts).mean(0) / 2, rtol=1e-4, atol=0)


def test_hessian_without_vmap_runs_sample_by_sample() -> None:
    graph, context = filled(TEXT), _context()
    wanted = _only(score(graph, _channels(graph), "hessian", context))
    # nonzero has a result whose shape depends on data, which vmap refuses; the sum over it adds nothing to the output
    opaque = TEXT.replace(
        "  return %y",
        "  %i: i64[k,2] = aten.nonzero.default(%f) {self=$0}\n  %z: i64[] = sum(%i) {axes=(0, 1), keepdims=false}\n"
        "  %zero: i64[] = mul(%z, 0)\n  %q: f32[n,5] = add(%y, %zero)\n  return %q",
    ).replace("where n in [1, 64]", "where n in [1, 64], k in [0, 9999]")
    other = filled(opaque)
    for name in graph.states:
        set_state(other, name, _state(graph, name).float())
    torch.testing.assert_close(_only(score(other, _channels(other), "hessian", context)), wanted, rtol=1e-4, atol=0)


@pytest.mark.parametrize("method", ["taylor", "hessian"])
def test_large_activations_are_computed_again(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, context = filled(TEXT), _context()
    wanted = _only(score(graph, _channels(graph), method, context))
    monkeypatch.setattr(gradients, "ACTIVATION_BYTES", 1)
    torch.testing.assert_close(_only(score(graph, _channels(graph), method, context)), wanted, rtol=1e-6, atol=0)


def test_gradients_computed_again_are_the_same_in_less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.GELU(), nn.Linear(64, 8)) for _ in range(6)]
    x = torch.randn(64, 8, dtype=torch.float64)
    graph = capture(nn.Sequential(*blocks).double().eval(), (x,), dynamic={"input": {0: "batch"}})
    names = [name for name, state in graph.states.items() if state.kind == "param"]
    found: list[tuple[dict[str, torch.Tensor], int]] = []
    for limit in (1 << 30, 1):
        monkeypatch.setattr(gradients, "ACTIVATION_BYTES", limit)
        model = gradients.Differentiable(graph, names, 0)
        signs = model.signs(Batch((x,)), 0)
        with watched_memory(torch.device("cpu")) as memory:
            computed = model.gradients((x,), None, signs)
        assert memory.peak_bytes is not None
        found.append((computed, memory.peak_bytes))
    (plain, much), (again, little) = found
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-12, atol=1e-15)
    assert little < 0.8 * much


def test_a_graph_of_fixed_batch_counts_a_batch_as_a_sample() -> None:
    graph = filled(TEXT.replace(" where n in [1, 64]", "").replace("[n,", "[4,").replace("(n,", "(4,"))
    context = _context()
    found = _only(score(graph, _channels(graph), "hessian", context))
    torch.testing.assert_close(found, _only(score(graph, _channels(graph), "taylor", context)) / 2)


def test_without_targets_scores_follow_the_jacobian_of_the_outputs() -> None:
    """Squared gradients of random projections have the squared Jacobian as their mean."""
    graph = filled("graph g(%x: f32[n,3]) where n in [1, 8192] { param %w: f32[4,3] %y: f32[n,4] = linear(%x, %w, none) return %y }")
    groups = grouped(hand_made_group(graph, "y", 4, [("w", 0, "written"), ("y", 1, "carried")], "neuron"))
    x = torch.randn(4096, 3, generator=torch.Generator().manual_seed(0))
    found = _only(score(graph, groups, "hessian", Context(calibration=Calibration([Batch((x,))]))))
    wanted = (x.double().square().mean(0) * _state(graph, "w").square()).sum(1) / 2 / 16  # 4 outputs: gradients are divided by 4
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=0)
    assert torch.equal(found, _only(score(graph, groups, "hessian", Context(calibration=Calibration([Batch((x,))])))))


def test_activation_is_the_mean_size_of_what_layers_read() -> None:
    graph, context = filled(TEXT), _context(targets=False)
    assert context.calibration is not None
    x = torch.cat([batch.inputs[0] for batch in context.calibration]).double()
    y = torch.nn.functional.conv2d(x, _state(graph, "w1"), _state(graph, "b1"))
    y = torch.nn.functional.batch_norm(y, _state(graph, "mean"), _state(graph, "var"), _state(graph, "gamma"), _state(graph, "beta")).relu()
    wanted = y.abs().mean((0, 2, 3))
    torch.testing.assert_close(_only(score(graph, _channels(graph), "activation", context)), wanted / wanted.mean(), rtol=1e-5, atol=0)


def test_random_depends_on_the_seed_and_the_name() -> None:
    graph = filled(TEXT)
    scores = [_only(score(graph, _channels(graph), "random", Context(seed=seed))) for seed in (0, 0, 1)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_a_dead_unit_is_last_for_methods_that_look_at_what_it_does() -> None:
    graph, context = filled(TEXT), _context()
    for name in ("w1", "b1", "gamma", "beta", "w2"):
        numbers = _state(graph, name).float()
        (numbers[:, 32:48] if name == "w2" else numbers[2:3]).zero_()
        set_state(graph, name, numbers)
    for method in set(METHODS) - {"random", "geometric-median"}:
        found = _only(score(graph, _channels(graph), method, context))
        assert int(found.argmin()) == 2, method
        assert float(found[2]) == 0.0, method


@pytest.mark.parametrize("method", [method for method in METHODS if needs_data(method)])
@pytest.mark.parametrize("context", [Context(), Context(calibration=Calibration([]))])
def test_methods_that_need_data_say_how_to_pass_it(method: str, context: Context) -> None:
    graph = filled(TEXT)
    with pytest.raises(PassError) as caught:
        score(graph, _channels(graph), method, context)
    assert str(caught.value) == (
        f"importance '{method}' needs calibration data and there is none\n"
        "  fix: pass some: optimize(..., calibration=loader); or use importance 'l2', which needs none"
    )


def test_unknown_methods_and_scores_that_are_no_numbers() -> None:
    graph = filled(TEXT)
    with pytest.raises(PassOptionError, match="importance is 'l3', needs one of l1, l2, bn-scale, taylor, hessian, activation"):
        score(graph, _channels(graph), "l3", Context())
    weight = _state(graph, "gamma").float()
    weight[1] = float("nan")
    set_state(graph, "gamma", weight)
    for method in ("l2", "bn-scale", "taylor"):
        with pytest.raises(
            PassError, match=rf"importance '{method}' of unit \d of group 'a' is nan, needs a finite number\n  fix: look for NaN"
        ):
            score(graph, _channels(graph), method, _context())


def test_units_without_weights_or_values_are_average() -> None:
    graph = filled(TEXT)
    no_weights = grouped(hand_made_group(graph, "f", 4, [("f", 1, "carried", FLAT)]))
    for method in ("l1", "geometric-median"):
        assert _only(score(graph, no_weights, method, Context())).tolist() == [1.0] * 4
    partly = grouped(hand_made_group(graph, "a", 5, [("w1", 0, "written", [0, 1, 2, 3])]))
    found = _only(score(graph, partly, "l2", Context()))
    assert float(found[4]) == 1.0
    assert float(found[:4].mean()) == pytest.approx(1.0)
    no_values = grouped(hand_made_group(graph, "a", 4, [("w1", 0, "written")]))
    assert _only(score(graph, no_values, "activation", _context())).tolist() == [1.0] * 4


def test_targets_that_fit_no_output() -> None:
    graph = filled(TEXT)
    batch = Batch((torch.randn(2, 3, 6, 6),), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(PassError, match=r"the targets have the shape \[2, 3\], which fits none of the outputs \(\[2, 5\]\)"):
        score(graph, _channels(graph), "taylor", Context(calibration=Calibration([batch])))
    floats = Batch((torch.randn(2, 3, 6, 6),), torch.zeros(2, 5))
    assert score(graph, _channels(graph), "taylor", Context(calibration=Calibration([floats])))


@pytest.mark.parametrize("method", ["taylor", "hessian"])
def test_targets_that_are_no_classes(method: str) -> None:
    graph = filled(TEXT)
    batch = Batch((torch.randn(2, 3, 6, 6),), torch.tensor([0, 5]))
    with pytest.raises(
        PassError, match=r"the targets do not fit the outputs: .*\n  fix: give class indices from 0 to the number of classes - 1"
    ):
        score(graph, _channels(graph), method, Context(calibration=Calibration([batch])))


def test_squares_of_half_precision_are_not_lost() -> None:
    graph = filled("graph g(%x: f16[2,3]) { param %w: f16[4,3] %y: f16[2,4] = linear(%x, %w, none) return %y }")
    groups = grouped(hand_made_group(graph, "y", 4, [("w", 0, "written"), ("y", 1, "carried")], "neuron"))
    small = {"w": torch.full((4, 3), 1e-4, dtype=torch.float16)}
    wanted = (_state(graph, "w") * 1e-4).square().sum(1)  # 1e-8 is zero in float16
    torch.testing.assert_close(_only(UnitLosses(graph, groups).squared_changes(small)), wanted, rtol=1e-2, atol=0)


ENDING = """graph g(%x: f32[n,3]) where n in [1, 8] {{
  param %w: f32[4,3]
  %y: f32[n,4] = linear(%x, %w, none)
  {end}
  return %s
}}"""


def test_graphs_without_gradients() -> None:
    context = Context(calibration=Calibration([Batch((torch.randn(2, 3),))]))
    graph = filled(ENDING.format(end="%s: f32[n,4] = sign(%y)"))
    groups = grouped(hand_made_group(graph, "y", 4, [("w", 0, "written")], "neuron"))
    assert not _only(score(graph, groups, "taylor", context)).any()  # the gradient of sign is zero
    graph = filled(ENDING.format(end="%s: i64[n] = argmax(%y) {axis=1, keepdims=false}"))
    groups = grouped(hand_made_group(graph, "y", 4, [("w", 0, "written")], "neuron"))
    for method in ("taylor", "hessian"):
        with pytest.raises(PassError, match="no output of the graph is floating point, so there is nothing to take gradients of"):
            score(graph, groups, method, context)


def test_graphs_without_numbers_say_so() -> None:
    graph = parse(TEXT)
    with pytest.raises(Exception, match="has no numbers, the graph was read from text alone"):
        score(graph, _channels(graph), "l2", Context())
