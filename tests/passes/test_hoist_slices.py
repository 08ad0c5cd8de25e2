from __future__ import annotations

from graphopt.passes.remove.hoist_slices import HoistSlices
from tests.support.pass_checks import check_kept, check_rewrite


def test_select_moves_above_activation() -> None:
    check_rewrite(
        HoistSlices(),
        """
        graph g(%x: f32[2,5,8]) {
          %a: f32[2,5,8] = gelu(%x) {approximate="none"}
          %y: f32[2,8] = select(%a) {axis=1, index=0}
          return %y
        }
        """,
        """
        graph g(%x: f32[2,5,8]) {
          %x.select: f32[2,8] = select(%x) {axis=1, index=0}
          %y: f32[2,8] = gelu(%x.select) {approximate="none"}
          return %y
        }
        """,
    )


def test_slice_moves_above_arithmetic_with_a_vector() -> None:
    check_rewrite(
        HoistSlices(),
        """
        graph g(%x: f32[2,5,8], %b: f32[8]) {
          %a: f32[2,5,8] = add(%x, %b)
          %m: f32[2,5,8] = mul(2.0, %a)
          %y: f32[2,2,8] = slice(%m) {axis=1, start=0, step=1, stop=2}
          return %y
        }
        """,
        """
        graph g(%x: f32[2,5,8], %b: f32[8]) {
          %x.slice: f32[2,2,8] = slice(%x) {axis=1, start=0, step=1, stop=2}
          %a.slice: f32[2,2,8] = add(%x.slice, %b)
          %y: f32[2,2,8] = mul(2.0, %a.slice)
          return %y
        }
        """,
        fired=2,
    )


def test_two_full_operands_or_extent_along_the_axis_stay() -> None:
    check_kept(
        HoistSlices(),
        """
        graph g(%x: f32[2,5,8], %z: f32[2,5,8], %b: f32[5,1]) {
          %a: f32[2,5,8] = add(%x, %z)
          %y: f32[2,8] = select(%a) {axis=1, index=0}
          %c: f32[2,5,8] = add(%x, %b)
          %d: f32[2,8] = select(%c) {axis=1, index=0}
          return %y, %d
        }
        """,
        "has 2 operands of the result",
        "extends to axis 1 too",
    )


def test_other_readers_stay() -> None:
    check_kept(
        HoistSlices(),
        """
        graph g(%x: f32[2,5,8]) {
          %a: f32[2,5,8] = relu(%x)
          %y: f32[2,8] = select(%a) {axis=1, index=0}
          return %y, %a
        }
        """,
    )
