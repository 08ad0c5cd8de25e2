from __future__ import annotations

from graphopt.passes.remove.fold_full_operands import FoldFullOperands
from tests.support.pass_checks import check_kept, check_rewrite


def test_number_replaces_tensor() -> None:
    check_rewrite(
        FoldFullOperands(),
        """
        graph g(%x: f32[2,8]) {
          %o: f32[2,8] = full() {dtype=f32, shape=(2, 8), value=1.5}
          %y: f32[2,8] = add(%x, %o)
          return %y
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %y: f32[2,8] = add(%x, 1.5)
          return %y
        }
        """,
    )


def test_shape_ops_of_full_are_full() -> None:
    check_rewrite(
        FoldFullOperands(),
        """
        graph g(%x: f32[3,2]) {
          %o: f32[2,3] = full() {dtype=f32, shape=(2, 3), value=1}
          %p: f32[3,2] = permute(%o) {axes=(1, 0)}
          %y: f32[3,2] = sub(%p, %x)
          return %y, %p
        }
        """,
        """
        graph g(%x: f32[3,2]) {
          %p: f32[3,2] = full() {dtype=f32, shape=(3, 2), value=1}
          %y: f32[3,2] = sub(1.0, %x)
          return %y, %p
        }
        """,
        fired=2,
    )


def test_number_that_gives_shape_or_dtype_stays() -> None:
    check_kept(
        FoldFullOperands(),
        """
        graph g(%x: f32[8], %i: i64[8], %h: f16[8]) {
          %o: f32[2,8] = full() {dtype=f32, shape=(2, 8), value=1.0}
          %a: f32[2,8] = add(%x, %o)
          %p: f64[8] = full() {dtype=f64, shape=(8,), value=1.0}
          %b: f64[8] = add(%i, %p)
          %q: f16[8] = full() {dtype=f16, shape=(8,), value=0.1}
          %c: f16[8] = mul(%h, %q)
          %z: f32[8] = full() {dtype=f32, shape=(8,), value=0.0}
          %d: f32[8] = maximum(%x, %z)
          return %a, %b, %c, %d
        }
        """,
        "f16 does not hold 0.1",
        "which zero",
    )
