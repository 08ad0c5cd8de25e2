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


def test_batch_and_heads_are_not_merged_to_be_taken_apart() -> None:
    check_rewrite(
        MergeReshapes(),
        """
        graph g(%x: f32[6,n,32]) where n in [1, inf] {
          %a: f32[6,4*n,8] = reshape(%x) {shape=(6, 4*n, 8)}
          %b: f32[4*n,6,8] = permute(%a) {axes=(1, 0, 2)}
          %c: f32[n,4,6,8] = reshape(%b) {shape=(n, 4, 6, 8)}
          return %c
        }
        """,
        """
        graph g(%x: f32[6,n,32]) where n in [1, inf] {
          %reshape: f32[6,n,4,8] = reshape(%x) {shape=(6, n, 4, 8)}
          %c: f32[n,4,6,8] = permute(%reshape) {axes=(1, 2, 0, 3)}
          return %c
        }
        """,
    )


def test_a_split_that_undoes_the_merge_leaves_a_permute() -> None:
    check_rewrite(
        MergeReshapes(),
        """
        graph g(%x: f32[2,3,4,5]) {
          %a: f32[6,4,5] = reshape(%x) {shape=(6, 4, 5)}
          %b: f32[5,6,4] = permute(%a) {axes=(2, 0, 1)}
          %c: f32[5,2,3,4] = reshape(%b) {shape=(5, 2, 3, 4)}
          return %c
        }
        """,
        """
        graph g(%x: f32[2,3,4,5]) {
          %c: f32[5,2,3,4] = permute(%x) {axes=(3, 0, 1, 2)}
          return %c
        }
        """,
    )


def test_a_reshape_that_merges_permuted_axes_stays() -> None:
    check_kept(
        MergeReshapes(),
        """
        graph g(%x: f32[6,4]) {
          %a: f32[2,3,4] = reshape(%x) {shape=(2, 3, 4)}
          %b: f32[3,2,4] = permute(%a) {axes=(1, 0, 2)}
          %c: f32[6,4] = reshape(%b) {shape=(6, 4)}
          return %c
        }
        """,
        "merges axes",
    )


def test_what_is_between_stays_for_its_other_readers() -> None:
    check_kept(
        MergeReshapes(),
        """
        graph g(%x: f32[2,3,4]) {
          %a: f32[6,4] = reshape(%x) {shape=(6, 4)}
          %b: f32[4,6] = permute(%a) {axes=(1, 0)}
          %c: f32[4,2,3] = reshape(%b) {shape=(4, 2, 3)}
          return %b, %c
        }
        """,
    )
