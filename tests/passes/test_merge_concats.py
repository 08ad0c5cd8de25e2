from __future__ import annotations

from graphopt.passes.remove.merge_concats import MergeConcats
from tests.support.pass_checks import check_kept, check_rewrite


def test_nested_concat_becomes_flat() -> None:
    check_rewrite(
        MergeConcats(),
        """
        graph g(%x: f32[2,3], %z: f32[2,4]) {
          %a: f32[2,7] = concat(%x, %z) {axis=1}
          %b: f32[2,10] = concat(%a, %x) {axis=1}
          return %b
        }
        """,
        """
        graph g(%x: f32[2,3], %z: f32[2,4]) {
          %b: f32[2,10] = concat(%x, %z, %x) {axis=1}
          return %b
        }
        """,
    )


def test_cut_and_put_together_vanishes() -> None:
    check_rewrite(
        MergeConcats(),
        """
        graph g(%x: f32[5]) {
          %l: f32[2] = slice(%x) {axis=0, start=0, step=1, stop=2}
          %r: f32[3] = slice(%x) {axis=0, start=2, step=1, stop=5}
          %y: f32[5] = concat(%l, %r) {axis=0}
          return %y
        }
        """,
        """
        graph g(%x: f32[5]) {
          return %x
        }
        """,
    )


def test_pieces_of_a_split_in_order() -> None:
    check_rewrite(
        MergeConcats(),
        """
        graph g(%x: f32[6]) {
          %a: f32[1], %b: f32[2], %c: f32[3] = split(%x) {axis=0, sizes=(1, 2, 3)}
          %y: f32[5] = concat(%b, %c) {axis=0}
          return %y, %a
        }
        """,
        """
        graph g(%x: f32[6]) {
          %a: f32[1], %b: f32[2], %c: f32[3] = split(%x) {axis=0, sizes=(1, 2, 3)}
          %y: f32[5] = slice(%x) {axis=0, start=1, step=1, stop=6}
          return %y, %a
        }
        """,
    )


def test_gaps_and_shared_concats_stay() -> None:
    check_kept(
        MergeConcats(),
        """
        graph g(%x: f32[6]) {
          %l: f32[2] = slice(%x) {axis=0, start=0, step=1, stop=2}
          %r: f32[3] = slice(%x) {axis=0, start=3, step=1, stop=6}
          %y: f32[5] = concat(%l, %r) {axis=0}
          %z: f32[11] = concat(%y, %x) {axis=0}
          return %y, %z
        }
        """,
        "end at 2 and start at 3",
        "has other readers",
    )
