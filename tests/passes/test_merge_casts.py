from __future__ import annotations

import pytest

from graphopt.ir.types import DType
from graphopt.passes.remove.merge_casts import MergeCasts, holds_every
from tests.support.pass_checks import check_kept, check_rewrite


def test_cast_to_itself_vanishes() -> None:
    check_rewrite(
        MergeCasts(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = cast(%x) {dtype=f32}
          return %a
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          return %x
        }
        """,
    )


def test_way_over_a_wider_dtype_vanishes() -> None:
    check_rewrite(
        MergeCasts(),
        """
        graph g(%h: f16[8], %i: i16[8]) {
          %a: f32[8] = cast(%h) {dtype=f32}
          %b: f16[8] = cast(%a) {dtype=f16}
          %c: f32[8] = cast(%i) {dtype=f32}
          %d: bf16[8] = cast(%c) {dtype=bf16}
          return %b, %d
        }
        """,
        """
        graph g(%h: f16[8], %i: i16[8]) {
          %d: bf16[8] = cast(%i) {dtype=bf16}
          return %h, %d
        }
        """,
        fired=3,
    )


def test_narrowing_rounds() -> None:
    check_kept(
        MergeCasts(),
        """
        graph g(%x: f32[2,8], %i: i64[4]) {
          %a: f16[2,8] = cast(%x) {dtype=f16}
          %b: f32[2,8] = cast(%a) {dtype=f32}
          %c: f32[4] = cast(%i) {dtype=f32}
          %d: i64[4] = cast(%c) {dtype=i64}
          return %b, %d
        }
        """,
        "the cast from f32 to f16 before it rounds",
        "the cast from i64 to f32 before it rounds",
    )


@pytest.mark.parametrize(
    ("wide", "narrow", "holds"),
    [
        ("f32", "f16", True),
        ("f32", "bf16", True),
        ("f16", "bf16", False),
        ("bf16", "f16", False),
        ("f32", "i16", True),
        ("f16", "i16", False),
        ("f16", "u16", False),
        ("f64", "i32", True),
        ("f32", "i32", False),
        ("i32", "u16", True),
        ("u32", "i16", False),
        ("i64", "f16", False),
        ("i8", "bool", True),
        ("bool", "i8", False),
        ("f8e5m2", "bool", True),
    ],
)
def test_which_dtype_holds_which(wide: str, narrow: str, holds: bool) -> None:
    assert holds_every(DType.parse(wide), DType.parse(narrow)) is holds
