from __future__ import annotations

from graphopt.ir.dims import symbol
from graphopt.passes.remove.merge_permutes import MergePermutes, axis_groups
from tests.support.pass_checks import check_kept, check_rewrite


def test_permutes_that_cancel_vanish() -> None:
    check_rewrite(
        MergePermutes(),
        """
        graph g(%x: f32[2,3,4]) {
          %a: f32[4,2,3] = permute(%x) {axes=(2, 0, 1)}
          %b: f32[2,3,4] = permute(%a) {axes=(1, 2, 0)}
          return %b
        }
        """,
        """
        graph g(%x: f32[2,3,4]) {
          return %x
        }
        """,
    )


def test_permutes_compose() -> None:
    check_rewrite(
        MergePermutes(),
        """
        graph g(%x: f32[2,3,4]) {
          %a: f32[4,2,3] = permute(%x) {axes=(2, 0, 1)}
          %b: f32[4,3,2] = permute(%a) {axes=(0, 2, 1)}
          return %b
        }
        """,
        """
        graph g(%x: f32[2,3,4]) {
          %b: f32[4,3,2] = permute(%x) {axes=(2, 1, 0)}
          return %b
        }
        """,
    )


def test_permute_of_unit_axes_is_a_reshape() -> None:
    check_rewrite(
        MergePermutes(),
        """
        graph g(%x: f32[2,1,8]) {
          %a: f32[2,8,1] = permute(%x) {axes=(0, 2, 1)}
          return %a
        }
        """,
        """
        graph g(%x: f32[2,1,8]) {
          %a: f32[2,8,1] = reshape(%x) {shape=(2, 8, 1)}
          return %a
        }
        """,
    )


def test_permutes_cancel_across_a_reshape() -> None:
    check_rewrite(
        MergePermutes(),
        """
        graph g(%x: f32[2,3,4,5]) {
          %a: f32[2,4,5,3] = permute(%x) {axes=(0, 2, 3, 1)}
          %b: f32[2,20,3] = reshape(%a) {shape=(2, 20, 3)}
          %c: f32[2,3,20] = permute(%b) {axes=(0, 2, 1)}
          return %c
        }
        """,
        """
        graph g(%x: f32[2,3,4,5]) {
          %c: f32[2,3,20] = reshape(%x) {shape=(2, 3, 20)}
          return %c
        }
        """,
    )


def test_permutes_meet_before_a_reshape() -> None:
    check_rewrite(
        MergePermutes(),
        """
        graph g(%x: f32[2,3,4,5]) {
          %a: f32[2,4,5,3] = permute(%x) {axes=(0, 2, 3, 1)}
          %b: f32[2,20,3] = reshape(%a) {shape=(2, 20, 3)}
          %c: f32[3,2,20] = permute(%b) {axes=(2, 0, 1)}
          return %c
        }
        """,
        """
        graph g(%x: f32[2,3,4,5]) {
          %permute: f32[3,2,4,5] = permute(%x) {axes=(1, 0, 2, 3)}
          %c: f32[3,2,20] = reshape(%permute) {shape=(3, 2, 20)}
          return %c
        }
        """,
    )


def test_symbolic_sizes_are_compared() -> None:
    check_rewrite(
        MergePermutes(),
        """
        graph g(%x: f32[n,3,4,5]) where n in [1, 9] {
          %a: f32[n,4,5,3] = permute(%x) {axes=(0, 2, 3, 1)}
          %b: f32[n,20,3] = reshape(%a) {shape=(n, 20, 3)}
          %c: f32[n,3,20] = permute(%b) {axes=(0, 2, 1)}
          return %c
        }
        """,
        """
        graph g(%x: f32[n,3,4,5]) where n in [1, 9] {
          %c: f32[n,3,20] = reshape(%x) {shape=(n, 3, 20)}
          return %c
        }
        """,
    )


def test_axes_taken_apart_stay() -> None:
    check_kept(
        MergePermutes(),
        """
        graph g(%x: f32[2,4,6]) {
          %a: f32[4,2,6] = permute(%x) {axes=(1, 0, 2)}
          %b: f32[4,4,3] = reshape(%a) {shape=(4, 4, 3)}
          %c: f32[4,3,4] = permute(%b) {axes=(0, 2, 1)}
          return %c
        }
        """,
        "takes axes (1, 2) apart",
    )


def test_groups_of_a_reshape() -> None:
    n = symbol("n")
    assert axis_groups((2, 3, 4, 5), (6, 4, 5)) == [((0, 1), (0,)), ((2,), (1,)), ((3,), (2,))]
    assert axis_groups((n, 7, 7, 3), (n * 49, 3)) == [((0, 1, 2), (0,)), ((3,), (1,))]
    assert axis_groups((4, 6), (8, 3)) == [((0, 1), (0, 1))]
    assert axis_groups((2, 1), (2,)) == [((0,), (0,)), ((1,), ())]
    assert axis_groups((0, 3), (0, 5)) is None
