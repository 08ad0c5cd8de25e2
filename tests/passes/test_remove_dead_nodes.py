from __future__ import annotations

from graphopt.ir.parser import parse
from graphopt.passes.remove.remove_dead_nodes import RemoveDeadNodes
from tests.support.pass_checks import check_kept, check_rewrite


def test_chain_of_unread_nodes_goes() -> None:
    check_rewrite(
        RemoveDeadNodes(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = relu(%x)
          %b: f32[2,8] = exp(%a)
          %y: f32[2,8] = neg(%x)
          return %y
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          %y: f32[2,8] = neg(%x)
          return %y
        }
        """,
        fired=2,
    )


def test_unread_dropout_goes() -> None:
    check_rewrite(
        RemoveDeadNodes(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = dropout(%x) {mode="follow", p=0.5}
          return %x
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          return %x
        }
        """,
    )


def test_unread_functional_opaque_op_goes() -> None:
    check_rewrite(
        RemoveDeadNodes(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[2,8] = aten.nan_to_num.default(%x) {self=$0}
          return %x
        }
        """,
        """
        graph g(%x: f32[2,8]) {
          return %x
        }
        """,
    )


def test_custom_op_stays_and_says_why() -> None:
    check_kept(
        RemoveDeadNodes(),
        """
        graph g(%x: f32[2,8]) {
          %a: f32[4] = mylib.log.default(%x) {self=$0}
          return %x
        }
        """,
        "opaque op of 'mylib' may have side effects",
    )


def test_node_without_results_stays() -> None:
    check_kept(
        RemoveDeadNodes(),
        """
        graph g(%x: f32[2,8]) {
          aten._assert_async.default(%x) {self=$0}
          return %x
        }
        """,
        "has no results",
    )


def test_dead_branch_goes_only_when_it_has_no_effects() -> None:
    text = """
    graph g(%x: f32[2], %p: bool[]) {
      %y: f32[2] = cond(%p, %x) regions {
        graph then(%a: f32[2]) {
          %b: f32[2] = OP(%a)ATTRS
          return %b
        }
        graph else(%a: f32[2]) {
          return %a
        }
      }
      return %x
    }
    """
    assert RemoveDeadNodes().run(parse(text.replace("OP", "relu").replace("ATTRS", ""))).rewritten == 1
    custom = parse(text.replace("OP", "mylib.log.default").replace("ATTRS", " {self=$0}"))
    assert "in a branch, mylib.log.default" in RemoveDeadNodes().run(custom).skipped[0][1]


def test_long_dead_chain_is_linear_and_not_recursive() -> None:
    lines = "".join(f"%v{i + 1}: f32[2] = relu(%v{i})\n" for i in range(5000))
    graph = parse(f"graph g(%v0: f32[2]) {{\n{lines}return %v0\n}}")
    assert RemoveDeadNodes().run(graph).rewritten == 5000
    assert graph.node_count == 0
