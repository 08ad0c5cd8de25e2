from __future__ import annotations

from graphopt.passes.remove.merge_reshapes import MergeReshapes
from tests.support.pass_checks import check_kept, check_rewrite


def test_chain_becomes_one() -> None:
    check_rewrite(
        MergeReshapes(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[4,4] = reshape(%x) {shape=(4, 4)}
          %b: f32[16] = reshape(%a) {shape=(16,)}
          return %b
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %b: f32[16] = reshape(%x) {shape=(16,)}
          return %b
        }
        """,
    )


def test_round_trip_vanishes_and_other_readers_keep_theirs() -> None:
    check_rewrite(
        MergeReshapes(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[16] = reshape(%x) {shape=(16,)}
          %b: f32[2,8] = reshape(%a) {shape=(2, 8)}
          %c: f32[16] = relu(%a)
          return %b, %c
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %a: f32[16] = reshape(%x) {shape=(16,)}
          %c: f32[16] = relu(%a)
          return %x, %c
        }
        """,
    )


def test_expands_merge_and_expand_by_ones_is_a_reshape() -> None:
    check_rewrite(
        MergeReshapes(),
        """
        graph g(%x: f32[1,8]) {
          %a: f32[3,8] = expand(%x) {shape=(3, 8)}
          %b: f32[2,3,8] = expand(%a) {shape=(2, 3, 8)}
          %c: f32[1,1,8] = expand(%x) {shape=(1, 1, 8)}
          return %b, %c
        }
        """,
        """
        graph g(%x: f32[1,8]) {
          %b: f32[2,3,8] = expand(%x) {shape=(2, 3, 8)}
          %c: f32[1,1,8] = reshape(%x) {shape=(1, 1, 8)}
          return %b, %c
        }
        """,
        fired=2,
    )


def test_single_ops_stay() -> None:
    check_kept(
        MergeReshapes(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[16] = reshape(%x) {shape=(16,)}
          %b: f32[3,16] = expand(%a) {shape=(3, 16)}
          %c: f32[48] = reshape(%b) {shape=(48,)}
          return %c
        }
        """,
    )
