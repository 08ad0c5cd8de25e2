"""Products that formulas are recognised by."""

from __future__ import annotations

import pytest

from graphopt.ir.parser import parse
from graphopt.passes.remove.products import product_of, sum_with_number


def test_order_and_form_do_not_matter() -> None:
    graph = parse(
        """
        graph g(%x: f32[4], %z: f32[4]) {
          %a: f32[4] = mul(%x, 0.5)
          %b: f32[4] = square(%z)
          %c: f32[4] = mul(%a, %b)
          %d: f32[4] = div(%c, 4) {rounding=none}
          return %d
        }
        """
    )
    product = product_of(graph.value("d"))
    assert product is not None
    assert product.scale == pytest.approx(0.125)
    assert [value.name for value in product.factors] == ["x", "z", "z"]
    assert product.without([graph.value("z")]) == (graph.value("x"), graph.value("z"))
    assert product.without([graph.value("a")]) is None
    assert product_of(2.0) is None


def test_long_chain_is_cut_so_that_the_cost_per_node_is_bounded() -> None:
    lines = "".join(f"%v{i + 1}: f32[2] = mul(%v{i}, 2.0)\n" for i in range(100))
    product = product_of(parse(f"graph g(%v0: f32[2]) {{\n{lines}return %v100\n}}").value("v100"))
    assert product is not None
    assert (product.scale, product.factors[0].name) == (2.0**16, "v84")


def test_sum_with_number_in_either_order() -> None:
    graph = parse("graph g(%x: f32[4]) {\n%a: f32[4] = add(3, %x)\n%b: f32[4] = add(%x, 2.0)\nreturn %a, %b\n}")
    assert sum_with_number(graph.value("a"), 3.0) is graph.value("x")
    assert sum_with_number(graph.value("b"), 3.0) is None
