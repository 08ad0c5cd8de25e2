"""Building, editing and checking graphs by hand."""

# Some tests damage a graph on purpose, below its public surface.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable

import pytest

from graphopt.errors import IRError, VerifyError
from graphopt.ir.attributes import Attribute, Ref, evaluate_attribute, freeze_attribute
from graphopt.ir.builder import Builder
from graphopt.ir.dims import symbol
from graphopt.ir.graph import CallStructure, Graph, GraphEditor, Node, Source, State, Value
from graphopt.ir.parser import parse
from graphopt.ir.types import DType, Sparsity, SparsityPattern, TensorType
from graphopt.ir.verifier import verify_structure

F32 = TensorType(DType.f32, (2,))


def chain() -> Graph:
    return parse("""graph g(%x: f32[2]) {
      param %w: f32[2]
      %a: f32[2] = add(%x, %w)
      %b: f32[2] = mul(%a, %a)
      %c: f32[2] = relu(%b)
      return %c, %a
    }""")


def node(graph: Graph, name: str) -> Node:
    producer = graph.value(name).producer
    assert producer is not None
    return producer


def test_builder_names_and_types() -> None:
    builder = Builder(Graph("g"), lambda op, _operands, _attrs, _regions: (F32,) * (2 if op == "split" else 1))
    batch = builder.symbol("batch", 1, 8)
    x = builder.input("x", TensorType(DType.f32, (batch, 2)))
    w = builder.state("w", F32, kind="buffer", persistent=False)
    first = builder.add("relu", x, name="layer.relu", source=Source("layer.relu", "m.py", 3))
    second = builder.add("relu", first.result, name="layer.relu")
    pair = builder.add("split", w, axis=0)
    opaque = builder.add("aten.histc.default", x, types=[F32], self=Ref(0))
    named = builder.insert("split", (x,), {"odd name": 1}, names=("p", "q"))
    assert [v.name for n in (first, second, pair, opaque, named) for v in n.results] == [
        "layer.relu", "layer.relu_1", "split.0", "split.1", "histc", "p", "q"
    ]  # fmt: skip
    graph = builder.outputs(second.result, pair.results[1])
    verify_structure(graph)
    assert "where batch in [1, 8]" in str(graph)
    with pytest.raises(IRError, match="1 names for 2 results"):
        builder.add("split", x, names=("only",))
    with pytest.raises(IRError, match="relu needs `types`"):
        Builder(Graph("g")).add("relu", 1.0)


def test_edits_keep_uses_and_order() -> None:
    graph = chain()
    editor = GraphEditor(graph)
    a, b = graph.value("a"), graph.value("b")
    assert [(use.node.name, use.index) for use in a.uses] == [("b", 0), ("b", 1), ("return", 1)]
    new = editor.insert("neg", (a,), {}, [("n", F32)], before=node(graph, "b"))
    assert editor.replace_uses(a, new.result, where=lambda use: use.node is not new) == 3
    verify_structure(graph)
    assert [n.name for n in graph.nodes] == ["a", "n", "b", "c"]
    assert [n.name for n in graph.reversed_nodes] == ["c", "b", "n", "a"]
    assert editor.replace_uses(b, 0.0) == 1
    editor.erase(node(graph, "b"))
    verify_structure(graph)
    editor.rename(graph.value("c"), "renamed")
    assert graph.outputs == (graph.value("renamed"), new.result)
    assert graph.fresh_name("renamed") == "renamed_1"
    verify_structure(graph)


def test_edits_that_are_refused() -> None:
    graph = chain()
    editor = GraphEditor(graph)
    with pytest.raises(IRError, match=r"can't erase %a: %a is still used by %b"):
        editor.erase(node(graph, "a"))
    with pytest.raises(IRError, match=r"%w still has 1 uses and can't be removed"):
        editor.remove_state("w")
    with pytest.raises(IRError, match=r"%a is defined twice"):
        editor.add_input("a", F32)
    with pytest.raises(IRError, match=r"%w is a state, its name is the model's and stays"):
        editor.rename(graph.value("w"), "v")
    with pytest.raises(IRError, match=r"graph 'g' has no value %ab\n  fix: near names: %"):
        graph.value("ab")
    with pytest.raises(IRError, match=r"operand 1 of relu is None, needs a value"):
        node(graph, "c").value(1)
    with pytest.raises(IRError, match=r"before a node that is not in the graph"):
        editor.insert("f", (), {}, [], before=node(chain(), "a"))


def test_clone_is_independent() -> None:
    graph = chain()
    mapping: dict[Value, Value] = {}
    copy = graph.clone(mapping)
    assert copy == graph
    assert copy is not graph
    assert mapping[graph.value("a")] is copy.value("a")
    GraphEditor(copy).set_outputs((copy.value("b"),))
    assert copy != graph
    verify_structure(graph)
    verify_structure(copy)


def test_loops_may_erase_the_current_node() -> None:
    graph = parse("graph g(%x: f32[2]) { f(%x) f(%x) f(%x) return }")
    editor = GraphEditor(graph)
    seen = 0
    for current in graph.nodes:
        editor.erase(current)
        seen += 1
    assert (seen, graph.node_count) == (3, 0)


def _unregister(graph: Graph) -> None:
    del graph._names["b"]


def _stale_name(graph: Graph) -> None:
    graph._names["ghost"] = Value("ghost", F32)


def _lost_use(graph: Graph) -> None:
    graph.value("a")._uses.pop((node(graph, "b"), 1))


def _stale_use(graph: Graph) -> None:
    graph.value("x")._uses[(node(graph, "c"), 5)] = None


def _wrong_producer(graph: Graph) -> None:
    graph.value("c")._producer = node(graph, "a")


def _wrong_order(graph: Graph) -> None:
    GraphEditor(graph).set_operand(node(graph, "a"), 0, graph.value("c"))


def _foreign_value(graph: Graph) -> None:
    GraphEditor(graph).set_operand(node(graph, "a"), 0, chain().value("x"))


def _wrong_count(graph: Graph) -> None:
    graph._count = 7


def _broken_list(graph: Graph) -> None:
    node(graph, "c")._previous = node(graph, "a")


def _bad_reference(graph: Graph) -> None:
    GraphEditor(graph).insert("aten.f.default", (graph.value("a"),), {"x": (None, {"k": [Ref(1)]})}, [])


def _bad_dimension(graph: Graph) -> None:
    GraphEditor(graph).insert("f", (), {}, [("d", TensorType(DType.f32, (symbol("n"),)))])


def _bad_attribute_dimension(graph: Graph) -> None:
    GraphEditor(graph).insert("f", (), {"shape": (symbol("n"), 1)}, [])


def _bad_literal_dimension(graph: Graph) -> None:
    GraphEditor(graph).insert("f", (symbol("m"),), {}, [])


def _bad_structure(graph: Graph) -> None:
    GraphEditor(graph).set_outputs(graph.outputs, CallStructure((), {}, Ref(0)))


def _bad_returns(graph: Graph) -> None:
    GraphEditor(graph).set_outputs(graph.outputs, CallStructure((Ref(0),), {}, [Ref(2)]))


def _bad_op(graph: Graph) -> None:
    GraphEditor(graph).insert("return", (), {}, [])


def _unprintable_op(graph: Graph) -> None:
    GraphEditor(graph).insert("a::b", (), {}, [])


def _surrogate(graph: Graph) -> None:
    GraphEditor(graph).insert("f", (), {}, [("\ud800", F32)])


def _shared_region(graph: Graph) -> None:
    region = parse("graph r() { return }")
    GraphEditor(graph).insert("cond", (), {}, [], regions=(region, region))


def _bad_region(graph: Graph) -> None:
    region = parse("graph r(%x: f32[1]) { return %x }")
    region._names.clear()
    GraphEditor(graph).insert("cond", (), {}, [], regions=(region,))


def _double_tie(graph: Graph) -> None:
    GraphEditor(graph).add_state(State(Value("v", F32), "param", tied=("w",)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_unregister, r"the name %b is not registered"),
        (_stale_name, r"%ghost is registered as a name but no input, state or node defines it"),
        (_lost_use, r"%a is operand 1 of %b but does not list that use"),
        (_stale_use, r"%x lists operand 5 of %c as a use, which does not read it"),
        (_wrong_producer, r"result 0 of relu, %c, names another producer"),
        (_wrong_order, r"%c is read before it is defined\n  at %a"),
        (_foreign_value, r"%x is read but no input, state or node of graph 'g' defines it"),
        (_wrong_count, r"records 7 nodes and its list holds 3"),
        (_broken_list, r"node list of graph 'g' is broken at %c"),
        (_bad_reference, r"attribute 'x' of %aten.f.default has \$1, and there are 1 operands"),
        (_bad_dimension, r"dimension 'n' is not declared in graph 'g'; declared: none"),
        (_bad_attribute_dimension, r"dimension 'n' is not declared"),
        (_bad_literal_dimension, r"dimension 'm' is not declared"),
        (_bad_structure, r"names the inputs \[\], needs each of 0 to 0 once"),
        (_bad_returns, r"the return structure has \$2, and there are 2 outputs"),
        (_bad_op, r"'return' can't name an op"),
        (_unprintable_op, r"'a::b' can't name an op"),
        (_surrogate, r"half of a surrogate pair"),
        (_shared_region, r"region of two nodes"),
        (_bad_region, r"the name %x is not registered"),
        (_double_tie, r"'w' is tied to %v and the name of another state"),
    ],
)
def test_broken_invariants_are_found(damage: Callable[[Graph], None], message: str) -> None:
    graph = chain()
    verify_structure(graph)
    damage(graph)
    with pytest.raises(VerifyError, match=message):
        verify_structure(graph)


def test_attributes_are_frozen() -> None:
    nested: Attribute = None
    for _ in range(40):
        nested = (nested,)
    with pytest.raises(IRError, match="nested deeper than 32"):
        freeze_attribute(nested)
    with pytest.raises(IRError, match="can't be a set"):
        freeze_attribute({1, 2})
    with pytest.raises(IRError, match="has the key 1, needs strings"):
        freeze_attribute({1: 2})
    with pytest.raises(IRError, match="does not fit 64 bits"):
        freeze_attribute(2**64)
    assert evaluate_attribute((symbol("n") * 2, [{"k": symbol("n")}]), {"n": 3}) == (6, [{"k": 3}])


def test_types() -> None:
    type_ = TensorType(DType.bf16, (symbol("b"), 4), Sparsity(SparsityPattern.BLOCK, 0.5, (4, 1)))
    assert str(type_) == "bf16[b,4] sparse<block 4x1 0.5>"
    assert str(type_.bytes) == "8*b"
    assert type_.with_shape((2,)).sparsity is None
    assert type_.with_dtype(DType.f32).sparsity is type_.sparsity
    with pytest.raises(IRError, match="has symbolic dimensions"):
        _ = type_.static_shape
    with pytest.raises(IRError, match=r"ratio is 1\.5, needs 0 <= ratio <= 1"):
        Sparsity(SparsityPattern.UNSTRUCTURED, 1.5)
    assert DType.parse("float32") is DType.f32
