from __future__ import annotations

from graphopt.passes.remove.remove_noop_shapes import RemoveNoopShapes
from tests.support.pass_checks import check_kept, check_rewrite


def test_ops_that_move_nothing_vanish() -> None:
    check_rewrite(
        RemoveNoopShapes(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = reshape(%x) {shape=(2, 8)}
          %b: f32[2,8] = permute(%a) {axes=(0, 1)}
          %c: f32[2,8] = expand(%b) {shape=(2, 8)}
          %d: f32[2,8] = slice(%c) {axis=1, start=0, step=1, stop=8}
          %e: f32[2,8] = concat(%d) {axis=0}
          %f: f32[2,8] = pad(%e) {mode="constant", pads=((0, 0), (0, 0)), value=0.0}
          %h: f32[2,8] = tile(%f) {repeats=(1, 1)}
          %i: f32[2,8] = roll(%h) {axes=(1,), shifts=(-8,)}
          %j: f32[2,8] = split(%i) {axis=0, sizes=(2,)}
          return %j
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          return %x
        }
        """,
        fired=9,
    )


def test_empty_pieces_are_left_out() -> None:
    check_rewrite(
        RemoveNoopShapes(),
        """
        graph g(%x: f32[2,3], %e: f32[2,0], %y: f32[2,4]) {
          %c: f32[2,7] = concat(%x, %e, %y) {axis=1}
          return %c
        }
        """,
        """
        graph g(%x: f32[2,3], %e: f32[2,0], %y: f32[2,4]) {
          %c: f32[2,7] = concat(%x, %y) {axis=1}
          return %c
        }
        """,
    )


def test_extremum_over_one_element_is_a_reshape() -> None:
    check_rewrite(
        RemoveNoopShapes(),
        """
        graph g(%x: f32[2,1,8]) {
          %y: f32[2,8] = amax(%x) {axes=(1,), keepdims=false}
          return %y
        }
        """,
        """
        graph g(%x: f32[2,1,8]) {
          %y: f32[2,8] = reshape(%x) {shape=(2, 8)}
          return %y
        }
        """,
    )


def test_flip_of_size_one_and_symbolic_slice() -> None:
    check_rewrite(
        RemoveNoopShapes(),
        """
        graph g(%x: f32[n,1]) where n in [1, 9] {
          %a: f32[n,1] = flip(%x) {axes=(1,)}
          %b: f32[n,1] = slice(%a) {axis=0, start=0, step=1, stop=n}
          return %b
        }
        """,
        """
        graph g(%x: f32[n,1]) where n in [1, 9] {
          return %x
        }
        """,
        fired=2,
    )


def test_ops_that_move_something_stay() -> None:
    check_kept(
        RemoveNoopShapes(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = roll(%x) {axes=(1,), shifts=(1,)}
          %b: f32[2,8] = flip(%a) {axes=(1,)}
          %c: f32[2,7] = slice(%b) {axis=1, start=1, step=1, stop=8}
          %d: f32[2,1] = sum(%c) {axes=(1,), keepdims=true}
          %e: f32[2,1] = sum(%d) {axes=(1,), keepdims=true}
          return %e
        }
        """,
    )
