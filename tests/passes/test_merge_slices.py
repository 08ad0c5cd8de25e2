from __future__ import annotations

from graphopt.passes.remove.merge_slices import MergeSlices
from tests.support.pass_checks import check_kept, check_rewrite


def test_offsets_add_up() -> None:
    check_rewrite(
        MergeSlices(),
        """
        graph g(%x: f32[20]) {
          %a: f32[8] = slice(%x) {axis=0, start=2, step=2, stop=18}
          %b: f32[3] = slice(%a) {axis=0, start=1, step=2, stop=6}
          %c: f32[] = select(%a) {axis=0, index=3}
          return %b, %c
        }
        """,
        """
        graph g(%x: f32[20]) {
          %b: f32[3] = slice(%x) {axis=0, start=4, step=4, stop=13}
          %c: f32[] = select(%x) {axis=0, index=8}
          return %b, %c
        }
        """,
        fired=2,
    )


def test_empty_slice_stays_empty() -> None:
    check_rewrite(
        MergeSlices(),
        """
        graph g(%x: f32[20]) {
          %a: f32[8] = slice(%x) {axis=0, start=2, step=2, stop=18}
          %b: f32[0] = slice(%a) {axis=0, start=8, step=2, stop=8}
          return %b
        }
        """,
        """
        graph g(%x: f32[20]) {
          %b: f32[0] = slice(%x) {axis=0, start=18, step=4, stop=18}
          return %b
        }
        """,
    )


def test_piece_of_concat_is_forwarded() -> None:
    check_rewrite(
        MergeSlices(),
        """
        graph g(%x: f32[2,3], %z: f32[2,4]) {
          %c: f32[2,7] = concat(%x, %z) {axis=1}
          %a: f32[2,4] = slice(%c) {axis=1, start=3, step=1, stop=7}
          %b: f32[2] = select(%c) {axis=1, index=1}
          return %a, %b
        }
        """,
        """
        graph g(%x: f32[2,3], %z: f32[2,4]) {
          %b: f32[2] = select(%x) {axis=1, index=1}
          return %z, %b
        }
        """,
        fired=2,
    )


def test_slice_of_split_and_split_of_concat() -> None:
    check_rewrite(
        MergeSlices(),
        """
        graph g(%x: f32[2,3], %z: f32[2,4]) {
          %c: f32[2,7] = concat(%x, %z) {axis=1}
          %p: f32[2,3], %q: f32[2,4] = split(%c) {axis=1, sizes=(3, 4)}
          %r: f32[1,4], %s: f32[1,4] = split(%q) {axis=0, sizes=(1, 1)}
          %t: f32[4] = select(%s) {axis=0, index=0}
          return %p, %t
        }
        """,
        """
        graph g(%x: f32[2,3], %z: f32[2,4]) {
          %t: f32[4] = select(%z) {axis=0, index=1}
          return %x, %t
        }
        """,
        fired=None,
    )


def test_symbolic_offsets_cancel() -> None:
    check_rewrite(
        MergeSlices(),
        """
        graph g(%x: f32[n,4], %z: f32[3,4]) where n in [1, 9] {
          %c: f32[n + 3,4] = concat(%x, %z) {axis=0}
          %a: f32[2,4] = slice(%c) {axis=0, start=n, step=1, stop=n + 2}
          return %a
        }
        """,
        """
        graph g(%x: f32[n,4], %z: f32[3,4]) where n in [1, 9] {
          %a: f32[2,4] = slice(%z) {axis=0, start=0, step=1, stop=2}
          return %a
        }
        """,
    )


def test_slice_over_two_pieces_stays() -> None:
    check_kept(
        MergeSlices(),
        """
        graph g(%x: f32[2,3], %z: f32[2,4]) {
          %c: f32[2,7] = concat(%x, %z) {axis=1}
          %a: f32[2,4] = slice(%c) {axis=1, start=2, step=1, stop=6}
          %p: f32[2,4], %q: f32[2,3] = split(%c) {axis=1, sizes=(4, 3)}
          return %a, %p, %q
        }
        """,
        "takes [2, 6) of a concat",
        "splits into (4, 3) a concat",
    )
