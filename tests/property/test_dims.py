"""The normal form of dimensions against plain integer arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphopt.errors import IRError, SymbolError
from graphopt.ir.dims import Dim, Expression, evaluate_dim, max_dim, min_dim, symbol, symbols_of
from graphopt.ir.parser import parse

Tree: TypeAlias = "int | str | tuple[str, Tree, Tree]"
SIZES = {"a": 3, "b": 7, "c": 1}

LEAVES = st.one_of(st.integers(-9, 12), st.sampled_from(tuple(SIZES)))
TREES: st.SearchStrategy[Tree] = st.recursive(
    LEAVES, lambda inner: st.tuples(st.sampled_from(("+", "-", "*", "//", "%", "min", "max")), inner, inner), max_leaves=9
)
OPERATIONS: dict[str, Callable[[Dim, Dim], Dim]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": min_dim,
    "max": max_dim,
}


def build(tree: Tree) -> Dim:
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return symbol(tree)
    operator, left, right = tree
    return OPERATIONS[operator](build(left), build(right))


def compute(tree: Tree, sizes: dict[str, int]) -> int:
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return sizes[tree]
    operator, left, right = tree
    a, b = compute(left, sizes), compute(right, sizes)
    match operator:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "//":
            return a // b
        case "%":
            return a % b
        case "min":
            return min(a, b)
        case _:
            return max(a, b)


@given(TREES, st.fixed_dictionaries({name: st.integers(1, 40) for name in SIZES}))
@settings(max_examples=600, deadline=None)
def test_an_expression_evaluates_to_what_its_parts_do(tree: Tree, sizes: dict[str, int]) -> None:
    try:
        expected = compute(tree, sizes)
        dim = build(tree)
    except (ZeroDivisionError, SymbolError):
        assume(False)
        return
    try:
        found = evaluate_dim(dim, sizes)
    except SymbolError:  # a divisor vanished inside a part that `compute` never had to divide by
        assume(False)
        return
    assert found == expected


@given(TREES)
@settings(max_examples=400, deadline=None)
def test_text_of_an_expression_reads_back_to_the_same(tree: Tree) -> None:
    try:
        dim = build(tree)
    except (ZeroDivisionError, SymbolError):
        assume(False)
        return
    graph = parse(f"graph g() where a in [0, 9], b in [0, 9], c in [0, 9] {{ return {dim} }}")
    assert graph.outputs == (dim,)
    assert evaluate_dim(dim, {name: symbol(name) for name in SIZES}) == dim


@given(TREES, TREES)
@settings(max_examples=200, deadline=None)
def test_sums_and_products_do_not_depend_on_order(first: Tree, second: Tree) -> None:
    try:
        a, b = build(first), build(second)
        assert a + b == b + a
        assert a * b == b * a
        assert (a + b) - b == a
        assert min_dim(a, b) == min_dim(b, a)
    except (ZeroDivisionError, SymbolError):
        assume(False)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (2 * symbol("b") + symbol("b"), "3*b"),
        ((4 * symbol("b")) // 4, "b"),
        ((2 * symbol("b") + 3) // 2, "b + 1"),
        ((symbol("b") - 1) // 2 + 1, "(b + 1)//2"),
        ((symbol("b") // 2) // 3, "b//6"),
        (((symbol("b") + 1) // 2 + 1) // 2, "(b + 3)//4"),
        (symbol("b") // -2, "-b + b//2"),
        (-(symbol("b") // 2), "-(b//2)"),
        (symbol("b") % 4, "b % 4"),
        ((4 * symbol("b") + 6) % 4, "2"),
        (symbol("b") * symbol("a") + 1, "a*b + 1"),
        (min_dim(symbol("b"), 4) * 2, "2*min(b, 4)"),
        (0 * symbol("b"), "0"),
    ],
)
def test_normal_form(made: Dim, text: str) -> None:
    assert str(made) == text


def test_size_after_five_strided_convolutions() -> None:
    size: Dim = symbol("height")
    for _ in range(5):
        size = (size - 1) // 2 + 1
    assert str(size) == "(height + 31)//32"


def test_symbols_and_values() -> None:
    dim = min_dim(symbol("a") // symbol("b"), 3) + symbol("c")
    assert symbols_of(dim) == {"a", "b", "c"}
    assert evaluate_dim(dim, {"a": 9, "b": 2, "c": 1}) == 4
    assert evaluate_dim(dim, {"a": 9, "b": 9, "c": symbol("c")}) == symbol("c") + 1
    with pytest.raises(SymbolError, match=r"dimension 'c' has no value; known dimensions: a, b"):
        evaluate_dim(dim, {"a": 9, "b": 2})
    with pytest.raises(SymbolError, match=r"'a//b' divides by zero with"):
        evaluate_dim(dim, {"a": 9, "b": 0, "c": 1})


def test_hostile_expressions_are_refused_early() -> None:
    wide: Dim = 0
    for index in range(40):
        wide = wide + symbol(f"s{index}")
    with pytest.raises(IRError, match="terms"):
        _ = wide * wide * wide
    deep: Dim = symbol("b")
    for _ in range(5):
        deep = deep * deep
    with pytest.raises(IRError, match="64 factors, the most is 32"):
        _ = deep * deep
    nested: Dim = symbol("b")
    for _ in range(11):
        nested = (nested + 1) // (nested + 2)
    with pytest.raises(IRError, match="symbols, the most is 4096"):
        _ = ((nested + 1) // (nested + 2)) * ((nested + 1) // (nested + 2))
    with pytest.raises(IRError, match="over 64 bits"):
        _ = (symbol("b") * 2**62) * 4
    with pytest.raises(IRError, match="divided by zero"):
        _ = symbol("b") // 0
    assert isinstance(symbol("b") % symbol("c"), Expression)
