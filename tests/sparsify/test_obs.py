"""Second-order pruning against direct least squares, in float64."""

from __future__ import annotations

import pytest
import torch

from graphopt.errors import PassError
from graphopt.passes.sparsify.obs import Pruned, aimed, best_pruned, error_of, prune, refined
from graphopt.passes.sparsify.patterns import parse_pattern

DAMPING = 1e-3


def problem(rows: int = 6, columns: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    x = torch.randn(200, columns, generator=generator, dtype=torch.float64) @ torch.randn(columns, columns, generator=generator).double()
    return weight, x.T @ x / 200


def damped(gram: torch.Tensor) -> torch.Tensor:
    return gram + DAMPING * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)


def least_squares(weight: torch.Tensor, gram: torch.Tensor, goes: torch.Tensor) -> torch.Tensor:
    """Each row's best weights with zeros under the mask, by solving its normal equations."""
    matrix = damped(gram)
    best = torch.zeros_like(weight)
    for row, kept in enumerate(~goes):
        best[row, kept] = torch.linalg.solve(matrix[kept][:, kept], (matrix @ weight[row])[kept])
    return best


def left_to_right(weight: torch.Tensor, gram: torch.Tensor, goes: torch.Tensor) -> torch.Tensor:
    """For each column in turn: hold it and those before it, and solve for all behind it."""
    matrix = damped(gram)
    current = weight.clone()
    for j in range(weight.shape[1]):
        current[:, j] = torch.where(goes[:, j], 0.0, current[:, j])
        behind = slice(j + 1, None)
        held = current[:, : j + 1] - weight[:, : j + 1]
        current[:, behind] = weight[:, behind] - torch.linalg.solve(matrix[behind, behind], matrix[behind, : j + 1] @ held.T).T
    return current


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "2x1", "2x2"])
@pytest.mark.parametrize("block", [4, 128])
def test_updates_are_those_of_least_squares_column_after_column(pattern: str, block: int) -> None:
    weight, gram = problem()
    found = prune(weight, gram, parse_pattern(pattern), 0.5, damping=DAMPING, block=block)
    assert int(found.goes.sum()) == weight.numel() // 2
    assert torch.equal(found.weight == 0, found.goes)
    torch.testing.assert_close(found.weight, left_to_right(weight, gram, found.goes), rtol=1e-9, atol=1e-9)


def test_refined_weights_reach_the_least_squares_solution_and_each_step_is_better() -> None:
    weight, gram = problem()
    start = prune(weight, gram, parse_pattern("unstructured"), 0.5, damping=DAMPING)
    errors = [error_of(refined(start, weight, gram, damping=DAMPING, steps=n).weight, weight, damped(gram)) for n in (0, 1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    end = refined(start, weight, gram, damping=DAMPING, steps=60)
    torch.testing.assert_close(end.weight, least_squares(weight, gram, start.goes), rtol=1e-7, atol=1e-7)
    assert torch.equal(end.weight == 0, start.goes)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4x1"])
def test_better_than_size_alone_on_correlated_inputs(pattern: str) -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(8, 24, generator=generator, dtype=torch.float64)
        sources = torch.randn(300, 6, generator=generator).double() @ torch.randn(6, 24, generator=generator).double()
        x = sources + 0.3 * torch.randn(300, 24, generator=generator)
        gram = x.T @ x / 300
        found = best_pruned(weight, gram, parse_pattern(pattern), 0.5, damping=DAMPING, steps=8)
        assert int(found.goes.sum()) == weight.numel() // 2
        size = weight.square().reshape(2, 4, 24).mean(1, keepdim=True).expand(2, 4, 24).reshape(8, 24) if pattern == "4x1" else weight.abs()
        plain = torch.zeros_like(weight)
        if pattern == "2:4":
            kept = size.reshape(8, 6, 4).argsort(2)[:, :, 2:]
            plain = plain.reshape(8, 6, 4).scatter(2, kept, weight.reshape(8, 6, 4).gather(2, kept)).reshape(8, 24)
        else:
            kept = size.flatten().argsort(stable=True)[96:]
            plain.view(-1)[kept] = weight.flatten()[kept]
        assert error_of(found.weight, weight, gram) < 0.5 * error_of(plain, weight, gram)


def test_inputs_that_are_always_zero_go_first_and_singular_moments_work() -> None:
    weight, gram = problem()
    gram[:8], gram[:, :8] = 0, 0
    found = prune(weight, gram, parse_pattern("unstructured"), 0.5, damping=1e-6)
    assert bool(found.goes[:, :8].all())
    assert error_of(found.weight, weight, gram) < 1e-9
    nothing = prune(weight, torch.zeros_like(gram), parse_pattern("unstructured"), 0.5, damping=0.0)
    assert bool(nothing.weight.isfinite().all())


def test_moments_that_are_not_finite_are_an_error() -> None:
    weight, gram = problem()
    with pytest.raises(PassError, match="the second moments of the inputs can't be factorised"):
        prune(weight, gram * float("nan"), parse_pattern("unstructured"), 0.5, damping=0.01)
    assert Pruned(weight, weight == 0).goes.sum() == 0


def test_aimed_weights_are_those_of_a_least_squares_fit() -> None:
    torch.manual_seed(0)
    dense = torch.randn(500, 6, dtype=torch.float64)
    now = dense @ (torch.eye(6) + 0.3 * torch.randn(6, 6)).double() + 0.1 * torch.randn(500, 6, dtype=torch.float64)
    weight = torch.randn(4, 6, dtype=torch.float64)
    found = aimed(weight, now.T @ now / 500, dense.T @ now / 500, damping=0.0)
    assert torch.allclose(found.T, torch.linalg.lstsq(now, dense @ weight.T).solution, atol=1e-9)
    assert torch.equal(aimed(weight, now.T @ now, now.T @ now, damping=0.1), weight), "where nothing changed nothing is made up for"
    assert (aimed(weight, now.T @ now / 500, dense.T @ now / 500, damping=1e5) - weight).abs().max() < 1e-4


def test_with_an_aim_the_error_is_never_more_than_that_of_small_weights_set_to_zero() -> None:
    torch.manual_seed(1)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(40, 12, generator=generator, dtype=torch.float64)
        weight, change = (torch.randn(5, 12, generator=generator, dtype=torch.float64) for _ in range(2))
        gram, aim = x.T @ x / 40, weight + 0.3 * change
        found = best_pruned(weight, gram, parse_pattern("unstructured"), 0.5, damping=0.01, steps=4, aim=aim)
        by_size = torch.where(weight.abs() < weight.abs().flatten().sort().values[30], 0.0, weight)
        assert int((found.weight == 0).sum()) == 30
        assert error_of(found.weight, aim, gram) <= error_of(by_size, aim, gram) + 1e-12


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "2x1"])
def test_weights_that_are_zero_stay_so_and_count_in_the_ratio(pattern: str) -> None:
    weight, gram = problem(columns=32)
    weight[:, :12] = 0.0
    weight[:, 20] = 0.0
    for found in (
        prune(weight, gram, parse_pattern(pattern), 0.5, damping=0.01, block=8),
        best_pruned(weight, gram, parse_pattern(pattern), 0.5, damping=0.01, steps=4),
    ):
        assert not found.weight[weight == 0].any()
        assert not found.weight[found.goes].any()
        if pattern != "2:4":
            assert float(found.goes.double().mean()) == 0.5
