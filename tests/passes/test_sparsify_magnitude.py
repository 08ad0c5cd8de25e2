from __future__ import annotations

import pytest
import torch

import graphopt
from graphopt.analysis import sparsity
from graphopt.errors import PassError, PassOptionError
from graphopt.passes.sparsify.sparsify_magnitude import SparsifyMagnitude
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from tests.support.sparsifying import correlated_images, network, run_pass, weight_of

LAYERS = ("grouped", "up", "fc")


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.8, 0.99])
def test_ratio_is_exact_in_every_layer_and_the_largest_stay_bit_for_bit(ratio: float) -> None:
    before, graph = network(), network()
    run_pass(SparsifyMagnitude(ratio=ratio), graph)
    for name in LAYERS:
        old, new = weight_of(before, name), weight_of(graph, name)
        assert int((new == 0).sum()) == int(ratio * old.numel() + 0.5)
        kept = new != 0
        assert torch.equal(new[kept], old[kept])
        if ratio:
            assert old[~kept].abs().max() <= old[kept].abs().min()
            annotation = graph.states[f"{name}.weight"].type.sparsity
            assert annotation is not None
            assert annotation.ratio == int((new == 0).sum()) / new.numel()
    assert all(found.holds in (None, True) for found in sparsity(graph))


def test_one_ranking_over_all_layers() -> None:
    graph = network()
    run_pass(SparsifyMagnitude(ratio=0.5, scope="global"), graph)
    new = torch.cat([weight_of(graph, name).flatten() for name in LAYERS])
    old = torch.cat([weight_of(network(), name).flatten() for name in LAYERS])
    assert int((new == 0).sum()) == int(len(new) * 0.5 + 0.5)
    assert old[new == 0].abs().max() <= old[new != 0].abs().min()


def test_threshold_keeps_what_is_large() -> None:
    for scope in ("layer", "global"):
        graph = network()
        run_pass(SparsifyMagnitude(ratio=1.0, threshold=0.25, scope=scope), graph)
        for name in LAYERS:
            assert torch.equal(weight_of(graph, name) == 0, weight_of(network(), name).abs() < 0.25)
    with pytest.raises(PassOptionError, match="threshold is one of magnitudes, and importance is 'taylor'"):
        SparsifyMagnitude(threshold=0.1, importance="taylor")


def test_doing_it_again_changes_nothing_and_more_goes_on() -> None:
    once, twice = network(), network()
    run_pass(SparsifyMagnitude(ratio=0.8), once)
    for ratio in (0.4, 0.8):
        run_pass(SparsifyMagnitude(ratio=ratio), twice)
    assert all(torch.equal(weight_of(once, name), weight_of(twice, name)) for name in LAYERS)


def test_taylor_ranks_by_gradient_times_weight() -> None:
    context = correlated_images()
    graph = network()
    run_pass(SparsifyMagnitude(ratio=0.5, importance="taylor"), graph, context)
    dense = network().to_module()
    assert context.calibration is not None
    fc = dict(dense.named_parameters())["fc.weight"]
    scores = torch.zeros_like(fc)
    for index, batch in enumerate(context.calibration):
        output = dense(*batch.inputs)
        signs = torch.randint(0, 2, output.shape, generator=torch.Generator().manual_seed(index)) * 2 - 1
        (gradient,) = torch.autograd.grad((output * signs).sum() / output.numel(), fc)
        scores += (gradient * fc).detach().square()
    kept = weight_of(graph, "fc") != 0
    assert scores[~kept].max() <= scores[kept].min() * 1.0001


def test_movement_keeps_what_grows() -> None:
    inputs = correlated_images()
    assert inputs.calibration is not None
    with pytest.raises(PassError, match="importance 'movement' needs batches with targets"):
        run_pass(SparsifyMagnitude(importance="movement"), network(), inputs)
    with pytest.raises(
        PassError, match=r"importance 'movement' needs calibration data and there is none\n  fix: .*rank by importance 'magnitude'"
    ):
        run_pass(SparsifyMagnitude(importance="movement"), network())
    targets = [Batch(batch.inputs, torch.zeros(8, 6, 6, 5)) for batch in inputs.calibration]
    graph = network()
    run_pass(SparsifyMagnitude(ratio=0.5, importance="movement"), graph, Context(calibration=Calibration(targets)))
    dense = network().to_module()
    fc = dict(dense.named_parameters())["fc.weight"]
    loss = sum((dense(*batch.inputs).square().mean() for batch in targets), torch.zeros(()))
    (gradient,) = torch.autograd.grad(loss, fc)
    scores = -(gradient * fc).detach()
    kept = weight_of(graph, "fc") != 0
    assert scores[~kept].max() <= scores[kept].min() + 1e-4 * scores.abs().max()


def test_sensitivity_spares_what_matters() -> None:
    graph = network()
    result = run_pass(SparsifyMagnitude(ratio=0.5, ratios="sensitivity"), graph, correlated_images())
    zeros = sum(int((weight_of(graph, name) == 0).sum()) for name in LAYERS)
    total = sum(weight_of(graph, name).numel() for name in LAYERS)
    assert abs(zeros - 0.5 * total) <= len(LAYERS)
    assert result.notes[0].startswith("0.5")
    with pytest.raises(PassError, match=r'ratios="sensitivity" needs calibration data and there is none\n  fix: .*scope"'):
        run_pass(SparsifyMagnitude(ratios="sensitivity"), network())


def test_budget_relaxes_the_ratio() -> None:
    dense = network()

    def metric(module: torch.nn.Module) -> float:
        weight = dict(module.named_parameters())["fc.weight"]
        return float((weight != 0).float().mean())

    budget = graphopt.Budget(metric_drop=0.25)
    result = graphopt.optimize(dense, [SparsifyMagnitude(ratio=0.9)], metric=metric, budget=budget)
    record = result.report.records[0]
    assert record.status == "applied"
    assert 0.2 < 1 - metric(result.graph.to_module()) <= 0.25
    assert len(record.trials) > 2
