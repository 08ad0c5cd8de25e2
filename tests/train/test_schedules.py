"""Gradual pruning, regrowing, proximal steps and straight-through N:M."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.errors import UsageError
from graphopt.ir.types import Sparsity, SparsityPattern
from graphopt.rewrite.rewriter import Rewriter
from graphopt.train import NM, SET, Block, GradualPruning, Proximal, RigL, Schedule, SparseAdamW, SparseSGD, StraightThrough
from graphopt.train.patterns import keep_largest, keep_n_of_m


def weights(*shape: int, seed: int = 0, ratio: float = 0.0) -> nn.Parameter:
    torch.manual_seed(seed)
    values = torch.randn(*shape)
    values[torch.rand(*shape) < ratio] = 0.0
    return nn.Parameter(values)


def gradient(weight: nn.Parameter, step: int) -> None:
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))


def run(weight: nn.Parameter, optimizer: torch.optim.Optimizer, schedule: Schedule | StraightThrough, first: int, last: int) -> None:
    for step in range(first, last):
        gradient(weight, step)
        optimizer.step()
        schedule.step()


def ratio(weight: torch.Tensor) -> float:
    return float((weight == 0).float().mean())


def test_gradual_pruning_follows_the_cubic_curve() -> None:
    weight = weights(20, 50)
    optimizer = SparseSGD([weight], lr=0.001, momentum=0.9)
    schedule = GradualPruning(optimizer, ratio=0.8, initial=0.1, begin=2, end=12, every=5)
    seen: list[float] = []
    masked = torch.zeros_like(weight, dtype=torch.bool)
    for step in range(15):
        run(weight, optimizer, schedule, step, step + 1)
        seen.append(ratio(weight))
        assert not weight[masked].any()  # what is zero stays zero
        masked = weight.detach() == 0
    middle = 0.8 - 0.7 * 0.5**3
    assert seen == pytest.approx([0, *[0.1] * 5, *[int(middle * 1000) / 1000] * 5, *[0.8] * 4])


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_gradual_pruning_of_blocks(scope: Any) -> None:
    large, small = weights(8, 6, 3, 3), weights(10, 7)
    with torch.no_grad():
        small.mul_(0.01)
    optimizer = SparseSGD([large, small], lr=0.1)
    GradualPruning(optimizer, ratio=0.5, end=1, pattern=Block(4, 1), scope=scope).step()
    blocks = (large.detach() == 0).flatten(1).unflatten(0, (2, 4))
    assert torch.equal(blocks.any(1), blocks.all(1))
    if scope == "layer":
        assert ratio(large) == 0.5
    else:
        assert ratio(small) == 1
        assert ratio(large) < 0.5


def test_rigl_drops_small_weights_and_grows_by_gradient() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]]))
    optimizer = SparseSGD([weight], lr=0.0, momentum=0.9)
    schedule = RigL(optimizer, end=1000, fraction=0.5, every=1)
    weight.grad = torch.tensor([[9.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 1.0]])
    optimizer.step()
    schedule.step()  # 1 and 2 go; the gradients 9 (1 again, from zero) and 3 come
    assert optimizer.masks[weight].tolist() == [[True, False, True, True, False, False, True, False]]
    assert weight.tolist() == [[0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]]
    assert optimizer.state[weight]["momentum_buffer"].tolist() == [[0.0] * 8]


@pytest.mark.parametrize("method", [RigL, SET])
@pytest.mark.parametrize("make", [SparseSGD, SparseAdamW])
def test_regrowing_keeps_the_number_of_zeros_and_resumes(method: Any, make: Any) -> None:
    weight = weights(16, 16, ratio=0.8)
    kept = int((weight != 0).sum())
    optimizer = make([weight], lr=0.01)
    schedule = method(optimizer, end=40, fraction=0.3, every=4)
    before = optimizer.masks[weight]
    run(weight, optimizer, schedule, 0, 20)
    saved = weight.detach().clone(), copy.deepcopy(optimizer.state_dict()), schedule.state_dict()
    run(weight, optimizer, schedule, 20, 50)
    assert int(optimizer.masks[weight].sum()) == kept
    assert not torch.equal(optimizer.masks[weight], before)

    other = weights(16, 16, seed=1)
    again = make([other], lr=0.01)
    resumed = method(again, end=40, fraction=0.3, every=4)
    with torch.no_grad():
        other.copy_(saved[0])
    again.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    run(other, again, resumed, 20, 50)
    assert torch.equal(other, weight)
    assert torch.equal(again.masks[other], optimizer.masks[weight])


def gradual(optimizer: torch.optim.Optimizer) -> Schedule:
    return GradualPruning(optimizer, ratio=0.9, end=800, every=50, pattern=Block(2, 1))


def rigl(optimizer: torch.optim.Optimizer) -> Schedule:
    return RigL(optimizer, end=900, every=20)


def set_(optimizer: torch.optim.Optimizer) -> Schedule:
    return SET(optimizer, end=900, every=20)


def proximal(optimizer: torch.optim.Optimizer) -> Schedule:
    return Proximal(optimizer, l1=0.02, group_lasso=0.01)


OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (SparseSGD, {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adamw": (SparseAdamW, {"lr": 0.01, "weight_decay": 0.1}),
}


def is_positive_zero(tensor: torch.Tensor) -> bool:
    return bool((tensor.detach().view(torch.int32) == 0).all())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("start", [gradual, rigl, set_, proximal])
def test_zeros_are_positive_zero_in_a_thousand_steps(start: Callable[[Any], Schedule], optimizer: str) -> None:
    make, options = OPTIMIZERS[optimizer]
    weight = weights(8, 12, ratio=0.5)
    mask = first = weight.detach() != 0
    made = make([weight], **options)
    schedule = start(made)
    for step in range(1000):
        run(weight, made, schedule, step, step + 1)
        mask = made.masks[weight]
        assert is_positive_zero(weight[~mask]), step
        for value in made.state[weight].values():
            assert value.shape != mask.shape or is_positive_zero(value[~mask]), step
    if start in (rigl, set_):
        assert int(mask.sum()) == int(first.sum())
        assert not torch.equal(mask, first)
    else:
        assert not (mask & ~first).any()
    zeros = weight.detach() == 0
    assert is_positive_zero(weight[zeros])  # those of the soft threshold too
    assert not zeros.all()


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_straight_through_zeros_are_positive_zero_in_a_thousand_steps(make: Any) -> None:
    weight = weights(8, 12)
    options: dict[str, Any] = {"momentum": 0.9} if make is torch.optim.SGD else {}
    optimizer = make([weight], lr=0.01, weight_decay=0.01, **options)
    trainer = StraightThrough(optimizer, NM(2, 4))
    mask = trainer.masks[weight]
    seen = mask.clone()
    for step in range(1000):
        run(weight, optimizer, trainer, step, step + 1)
        mask = trainer.masks[weight]
        assert is_positive_zero(weight[~mask]), step
        seen |= mask
    assert bool((mask.unflatten(1, (3, 4)).sum(-1) == 2).all())
    assert int(seen.sum()) > int(mask.sum())  # masked weights came back


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("start", [gradual, proximal])
def test_resuming_from_state_dicts_changes_no_bit(start: Callable[[Any], Schedule], optimizer: str) -> None:
    make, options = OPTIMIZERS[optimizer]
    weight, other = weights(8, 12, ratio=0.3), weights(8, 12, seed=1)
    made, again = make([weight], **options), make([other], **options)
    schedule, resumed = start(made), start(again)
    run(weight, made, schedule, 0, 130)
    file = io.BytesIO()
    torch.save({"weight": weight.detach(), "optimizer": made.state_dict(), "schedule": schedule.state_dict()}, file)
    run(weight, made, schedule, 130, 300)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    with torch.no_grad():
        other.copy_(saved["weight"])
    again.load_state_dict(saved["optimizer"])
    resumed.load_state_dict(saved["schedule"])
    run(other, again, resumed, 130, 300)
    assert other.detach().numpy().tobytes() == weight.detach().numpy().tobytes()
    assert torch.equal(again.masks[other], made.masks[weight])
    assert not torch.equal(weight.detach(), saved["weight"])


@pytest.mark.parametrize("method", [RigL, SET])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_regrowing_keeps_the_number_of_zeros_of_weights_that_are_not_finite(method: Any, value: float) -> None:
    weight = weights(16, 16, ratio=0.5)
    optimizer = SparseSGD([weight], lr=0.01)
    kept = int(optimizer.masks[weight].sum())
    schedule = method(optimizer, end=10, every=1)
    with torch.no_grad():
        weight[optimizer.masks[weight]] = value
    gradient(weight, 0)
    schedule.step()
    assert int(optimizer.masks[weight].sum()) == kept


def test_set_grows_only_where_nothing_was() -> None:
    weight = weights(4, 4, ratio=0.5)
    optimizer = SparseSGD([weight], lr=0.0)
    before = optimizer.masks[weight]
    gradient(weight, 0)
    SET(optimizer, end=1000, fraction=1.0, every=1).step()
    after = optimizer.masks[weight]
    assert int(after.sum()) == int(before.sum())
    free = int((~before).sum())
    assert int((after & ~before).sum()) == min(free, int(before.sum()))


def in_blocks(weight: torch.Tensor, rows: int, columns: int) -> bool:
    kept = weight.detach() != 0
    blocks = kept.flatten(1).unflatten(0, (-1, rows)).unflatten(2, (-1, columns))
    return torch.equal(blocks.any(3).any(1), blocks.all(3).all(1))


PATTERNS = [
    pytest.param((16, 12, 3, 3), Block(4, 1), id="4x1"),
    pytest.param((12, 20), Block(3, 2), id="3x2"),  # a block that is not looked for
    pytest.param((8, 16), NM(2, 4), id="2:4"),
    pytest.param((8, 6, 3), NM(1, 3, axis=1), id="1:3"),
    pytest.param((8, 6), NM(1, 4, axis=0), id="1:4 of outputs"),
]


def patterned(shape: tuple[int, ...], pattern: Block | NM) -> nn.Parameter:
    weight = weights(*shape)
    with torch.no_grad():
        if isinstance(pattern, NM):
            weight.mul_(keep_n_of_m(weight, pattern))
        else:
            weight.mul_(keep_largest([weight.abs()], 0.6, pattern, "layer")[0])
    return weight


@pytest.mark.parametrize("method", [RigL, SET])
@pytest.mark.parametrize(("shape", "pattern"), PATTERNS)
def test_regrowing_keeps_the_pattern(method: Any, shape: tuple[int, ...], pattern: Block | NM) -> None:
    weight = patterned(shape, pattern)
    before = weight.detach() != 0
    optimizer = SparseSGD([weight], lr=0.05, momentum=0.9)
    schedule = method(optimizer, end=60, fraction=0.5, every=3, pattern=pattern)
    run(weight, optimizer, schedule, 0, 40)
    after = optimizer.masks[weight]
    assert torch.equal(weight.detach() != 0, after)
    assert int(after.sum()) == int(before.sum())
    assert int((after & ~before).sum()) > 0.1 * int(before.sum())
    if isinstance(pattern, Block):
        assert in_blocks(weight, pattern.rows, pattern.columns)
    else:
        groups = after.movedim(pattern.axis, -1).unflatten(-1, (-1, pattern.m)).sum(-1)
        assert bool((groups == pattern.n).all())


@pytest.mark.parametrize("method", [RigL, SET])
@pytest.mark.parametrize(("shape", "pattern"), [PATTERNS[0], PATTERNS[2]])
def test_regrowing_sees_patterns_by_itself(method: Any, shape: tuple[int, ...], pattern: Block | NM) -> None:
    """By the mask alone, and the mask stays what it would be with the pattern given."""
    found: list[torch.Tensor] = []
    for given in (None, pattern):
        weight = patterned(shape, pattern)
        optimizer = SparseSGD([weight], lr=0.05)
        run(weight, optimizer, method(optimizer, end=60, fraction=0.5, every=3, pattern=given), 0, 20)
        found.append(optimizer.masks[weight])
    assert torch.equal(*found)


def test_regrowing_follows_annotations() -> None:
    layer = nn.Linear(20, 12)
    with torch.no_grad():
        layer.weight.copy_(patterned((12, 20), Block(3, 2)))
    graph = graphopt.capture(nn.Sequential(layer).eval(), (torch.randn(1, 20),))
    Rewriter(graph).annotate("0.weight", Sparsity(SparsityPattern.BLOCK, 0.5, (3, 2)))
    module = graph.to_module()
    weight = module.get_parameter("0.weight")
    for optimizer in (SparseSGD(module.parameters(), lr=0.1, masks=module), SparseSGD(module.named_parameters(), lr=0.1, masks=graph)):
        copied, other = copy.deepcopy((module, optimizer))
        for made, parameter in ((optimizer, weight), (other, copied.get_parameter("0.weight"))):
            assert made.annotation(parameter) == Sparsity(SparsityPattern.BLOCK, 0.5, (3, 2))
        before = optimizer.masks[weight]
        schedule = RigL(optimizer, end=60, fraction=0.5, every=1)
        for step in range(5):
            gradient(weight, step)
            optimizer.step()
            schedule.step()
        assert in_blocks(weight, 3, 2)
        assert not torch.equal(optimizer.masks[weight], before)


def test_blocks_are_exchanged_by_their_means() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, 9.0, 0.0, 0.0, 0.0], [6.0, 9.0, 0.0, 0.0, 0.0]]))
    optimizer = SparseSGD([weight], lr=0.0, momentum=0.9)
    schedule = RigL(optimizer, end=1000, fraction=0.5, every=1, pattern=Block(2, 1))
    weight.grad = torch.tensor([[1.0, 0.0, 5.0, 0.0, 3.0], [1.0, 0.0, 0.0, 2.0, 3.0]])
    optimizer.step()
    schedule.step()  # the first block goes though it has a larger weight than 1; the last one comes, with 3 on average
    assert optimizer.masks[weight].tolist() == [[False, True, False, False, True]] * 2


def test_the_fraction_that_is_exchanged_follows_a_cosine() -> None:
    schedule = RigL(SparseSGD([weights(4, 4, ratio=0.5)], lr=0.1), end=100, fraction=0.3, every=1000)
    found: list[float] = []
    for steps in (0, 50, 100, 200):
        schedule.load_state_dict({"steps": steps})
        found.append(schedule.fraction)
    assert found == pytest.approx([0.3, 0.15, 0.0, 0.0])


def test_soft_threshold_is_the_proximal_operator() -> None:
    weight = nn.Parameter(torch.tensor([[0.5, -0.05, 0.05, -0.5]]))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    Proximal(optimizer, l1=1.0).step()
    assert weight[0].tolist() == pytest.approx([0.4, 0.0, 0.0, -0.4])
    assert (weight.detach().view(torch.int32)[0, 1:3] == 0).all()


def test_group_lasso_shrinks_norms_of_blocks() -> None:
    weight = weights(4, 6)
    start = weight.detach().clone()
    optimizer = SparseSGD([weight], lr=0.1, masks={})
    Proximal(optimizer, group_lasso=1.0).step()
    norms = start.norm(dim=1, keepdim=True)
    assert torch.allclose(weight, start * (1 - 0.1 * 6**0.5 / norms).clamp(min=0))

    with torch.no_grad():
        weight.copy_(start)
        weight[:2, 0] = 0.01
    Proximal(optimizer, group_lasso=1.0, blocks=Block(2, 1)).step()
    assert weight[:2, 0].tolist() == [0.0, 0.0]
    optimizer.freeze_zeros()
    gradient(weight, 0)
    optimizer.step()
    assert weight[:2, 0].tolist() == [0.0, 0.0]


def test_proximal_sgd_finds_the_lasso_solution() -> None:
    """min 1/2 |w - t|^2 + l1 |w| is the soft threshold of t."""
    target = torch.tensor([[3.0, 0.5, -0.2, -2.0]], dtype=torch.float64)
    weight = nn.Parameter(torch.ones_like(target))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    Proximal(optimizer, l1=1.0).attach()
    for _ in range(200):
        optimizer.zero_grad()
        (0.5 * (weight - target).square().sum()).backward()
        optimizer.step()
    assert torch.allclose(weight, torch.tensor([[2.0, 0.0, 0.0, -1.0]], dtype=torch.float64))


def test_straight_through_follows_its_formula() -> None:
    weight = weights(3, 8)
    dense = weight.detach().clone()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    trainer = StraightThrough(optimizer, NM(2, 4), decay=0.5)
    for step in range(5):
        mask = trainer.masks[weight]
        assert bool((mask.unflatten(1, (2, 4)).sum(-1) == 2).all())
        assert torch.allclose(weight, dense * mask)
        gradient(weight, step)
        assert weight.grad is not None
        dense = dense - 0.1 * (weight.grad + 0.5 * dense * ~mask)
        optimizer.step()
        trainer.step()
    trainer.finish()
    assert torch.allclose(weight, dense * trainer.masks[weight])
    gradient(weight, 0)
    optimizer.step()  # let go: the mask is nobody's any more
    assert bool((weight != 0).all())


@pytest.mark.parametrize("keyword", [False, True])
def test_straight_through_with_closures(keyword: bool) -> None:
    plain, closed = weights(4, 4), weights(4, 4)
    target = torch.randn(4, 4)
    for weight, with_closure in ((plain, False), (closed, True)):
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        trainer = StraightThrough(optimizer, NM(2, 4))

        def loss(weight: nn.Parameter = weight, optimizer: torch.optim.Optimizer = optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            value = (weight - target).square().sum()
            value.backward()
            return value

        for _ in range(5):
            if not with_closure:
                loss()
                optimizer.step()
            elif keyword:
                optimizer.step(closure=loss)
            else:
                optimizer.step(loss)
            trainer.step()
    assert torch.equal(plain, closed)


def test_straight_through_resumes() -> None:
    weight, other = weights(4, 8), weights(4, 8, seed=1)
    optimizer, again = torch.optim.SGD([weight], lr=0.1), torch.optim.SGD([other], lr=0.1)
    trainer, resumed = StraightThrough(optimizer, NM(1, 4)), StraightThrough(again, NM(1, 4))
    run(weight, optimizer, trainer, 0, 3)
    resumed.load_state_dict(trainer.state_dict())
    assert torch.equal(weight, other)
    run(weight, optimizer, trainer, 3, 6)
    run(other, again, resumed, 3, 6)
    assert torch.equal(weight, other)


def test_n_of_m_along_the_channels_of_a_convolution() -> None:
    weight = weights(4, 6, 3, 3)
    trainer = StraightThrough(torch.optim.SGD([weight], lr=0.1), NM(1, 4))
    counts = trainer.masks[weight].sum(1)
    assert bool((counts == 2).all())  # one of the first four channels and one of the other two


def test_a_step_that_a_scaler_skips_changes_nothing() -> None:
    weight = weights(4, 4)
    trainer = StraightThrough(torch.optim.SGD([weight], lr=0.1), NM(2, 4))
    before = trainer.state_dict()["dense"][0]
    trainer.step()
    assert torch.equal(trainer.state_dict()["dense"][0], before)


FROZEN: list[Callable[[Any], Schedule | StraightThrough]] = [
    lambda optimizer: GradualPruning(optimizer, ratio=0.75, end=3, every=1),
    lambda optimizer: RigL(optimizer, end=10, every=1, fraction=0.5),
    lambda optimizer: SET(optimizer, end=10, every=1, fraction=0.5),
    lambda optimizer: Proximal(optimizer, l1=1.0, group_lasso=1.0),
    lambda optimizer: StraightThrough(optimizer, NM(1, 4)),
]


@pytest.mark.parametrize("start", FROZEN, ids=["gradual", "rigl", "set", "proximal", "straight-through"])
def test_frozen_parameters_keep_their_weights(start: Callable[[Any], Schedule | StraightThrough]) -> None:
    frozen, trained = weights(8, 8, ratio=0.5), weights(8, 8, seed=1, ratio=0.5)
    frozen.requires_grad_(False)
    before = frozen.clone(), trained.detach().clone()
    optimizer = SparseSGD([frozen, trained], lr=0.1)
    schedule = start(optimizer)
    for step in range(3):
        gradient(trained, step)
        optimizer.step()
        schedule.step()
    assert torch.equal(frozen, before[0])
    assert not torch.equal(trained == 0, before[1] == 0)


def test_gradual_pruning_waits_while_all_matrices_are_frozen() -> None:
    weight, bias = weights(8, 8), nn.Parameter(torch.ones(8))
    optimizer = SparseSGD([weight, bias], lr=0.1)
    schedule = GradualPruning(optimizer, ratio=0.5, end=4, every=1, scope="global")
    weight.requires_grad_(False)
    schedule.step()
    assert not (weight == 0).any()
    weight.requires_grad_(True)
    for _ in range(3):
        schedule.step()
    assert int((weight == 0).sum()) == 32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_weights_in_half_precision_are_not_squared_to_zero(dtype: torch.dtype) -> None:
    weight = nn.Parameter(weights(8, 6).detach().mul(1e-4).to(dtype))
    wide = weight.detach().double()
    Proximal(torch.optim.SGD([weight], lr=0.1), group_lasso=1e-5).step()
    expected = wide * (1 - 1e-6 * 6**0.5 / wide.norm(dim=1, keepdim=True)).clamp(min=0)
    assert torch.allclose(weight.double(), expected, rtol=0.01, atol=1e-7)


def test_straight_through_decays_as_much_where_a_fused_optimizer_divides_scaled_gradients() -> None:
    found: list[torch.Tensor] = []
    for fused in (False, True):
        weight = weights(4, 8)
        optimizer = torch.optim.SGD([weight], lr=1.0, fused=fused)
        trainer = StraightThrough(optimizer, NM(1, 4), decay=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # pyright: ignore[reportPrivateImportUsage]
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale(weight.sin().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            trainer.step()
        found.append(trainer.state_dict()["dense"][0])
    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_what_makes_no_sense_says_so() -> None:
    weight = weights(4, 4, ratio=0.5)
    optimizer = SparseSGD([weight], lr=0.1)
    plain = torch.optim.SGD([weight], lr=0.1)
    with pytest.raises(UsageError, match=r"GradualPruning needs SparseSGD or SparseAdamW, got SGD"):
        GradualPruning(plain, ratio=0.5, end=1)
    with pytest.raises(UsageError, match=r"ratios go from 0 to 1, need 0 <= initial <= ratio < 1"):
        GradualPruning(optimizer, ratio=1.0, end=1)
    with pytest.raises(UsageError, match=r"pruning goes from step 3 to 2, every 100, needs whole numbers, 0 <= begin < end"):
        GradualPruning(optimizer, ratio=0.5, begin=3, end=2)
    with pytest.raises(UsageError, match=r"a parameter of shape \[2\] is not optimised"):
        GradualPruning(optimizer, ratio=0.5, end=1, parameters=[torch.ones(2)])
    with pytest.raises(UsageError, match=r"RigL needs SparseSGD or SparseAdamW, got SGD"):
        RigL(plain, end=10)
    with pytest.raises(UsageError, match=r"fraction 2 is exchanged every 100 steps until 10, needs 0 < fraction <= 1"):
        SET(optimizer, end=10, fraction=2)
    with pytest.raises(UsageError, match=r"RigL found no gradient for a sparse parameter of shape \[4, 4\]\n  fix: call schedule.step"):
        RigL(optimizer, end=10, every=1).step()
    weight.grad = torch.ones(4, 4)
    text = r"RigL exchanges weights in the pattern Block\(rows=2, columns=2\), and the mask of a parameter of shape \[4, 4\] does not"
    with pytest.raises(UsageError, match=text):
        RigL(optimizer, end=10, every=1, pattern=Block(2, 2)).step()
    with pytest.raises(UsageError, match=r"SET exchanges weights in the pattern NM\(n=1, m=4, axis=1\).*\n  fix: pass pattern=Unstr"):
        SET(optimizer, end=10, every=1, pattern=NM(1, 4)).step()
    with pytest.raises(UsageError, match=r"the penalties are l1=0 and group_lasso=0, one has to be > 0"):
        Proximal(plain)
    with pytest.raises(UsageError, match=r"blocks were given without group_lasso"):
        Proximal(plain, l1=1.0, blocks=Block(2, 2))
    with pytest.raises(UsageError, match=r"a block has 0 rows and 1 columns"):
        Block(0, 1)
    with pytest.raises(UsageError, match=r"the pattern 5:4 on axis 1 makes no sense"):
        NM(5, 4)
    with pytest.raises(UsageError, match=r"decay is -1, needs >= 0"):
        StraightThrough(plain, NM(2, 4), decay=-1)
    with pytest.raises(UsageError, match=r"no trained parameter has 8 elements or more on axis 1, so none can be 2:8"):
        StraightThrough(plain, NM(2, 8))
    with pytest.raises(UsageError, match=r"a parameter of shape .* is not optimised"):
        StraightThrough(plain, NM(2, 4), parameters=[torch.ones(4, 4)])
    bias = nn.Parameter(torch.ones(4))
    with pytest.raises(UsageError, match=r"2:4 on axis 1 does not fit a parameter of shape \[4\]"):
        StraightThrough(torch.optim.SGD([bias], lr=0.1), NM(2, 4), parameters=[bias])
    with pytest.raises(UsageError, match=r"the state has weights of shapes \[\[2, 4\]\], the parameters have \[\[4, 4\]\]"):
        StraightThrough(plain, NM(2, 4)).load_state_dict({"dense": [torch.ones(2, 4)]})


def test_options_of_the_wrong_kind_are_refused_when_they_are_given() -> None:
    """Not at the first step, and not with another meaning: a text was no pattern at all, and an end between steps never came."""
    weight = weights(4, 4, ratio=0.5)
    optimizer = SparseSGD([weight], lr=0.1)

    def error(make: Callable[..., object], *args: object, **options: object) -> str:
        with pytest.raises(UsageError) as caught:
            make(*args, **options)
        return str(caught.value)

    pruning: dict[str, Any] = {"ratio": 0.5, "end": 3}
    assert "pattern is '4x1', needs Block or Unstructured\n  fix: pattern=Block(4, 1)" in error(
        GradualPruning, optimizer, pattern="4x1", **pruning
    )
    assert "pattern is NM(n=2, m=4, axis=1), needs Block" in error(GradualPruning, optimizer, pattern=NM(2, 4), **pruning)
    assert "scope is 'globl', needs 'layer' or 'global'" in error(GradualPruning, optimizer, scope="globl", **pruning)
    assert "ratios go from 0 to '0.5', need" in error(GradualPruning, optimizer, ratio="0.5", end=3)
    assert "pruning goes from step 0 to 10.5, every 100, needs whole numbers" in error(GradualPruning, optimizer, ratio=0.5, end=10.5)
    assert "parameters has a str, needs the tensors themselves" in error(GradualPruning, optimizer, parameters=["weight"], **pruning)
    assert "pattern is '2:4', needs Block or NM or Unstructured" in error(RigL, optimizer, end=10, pattern="2:4")
    assert "seed is 'a', needs a whole number\n  fix: every process draws from it" in error(SET, optimizer, end=10, seed="a")
    assert "blocks is (4, 1), needs Block" in error(Proximal, optimizer, group_lasso=0.1, blocks=(4, 1))
    assert "pattern is '2:4', needs NM\n  fix: pattern=NM(2, 4)" in error(StraightThrough, optimizer, "2:4")
    assert "the pattern '2':4 on axis 1 makes no sense" in error(NM, "2", 4)
