"""Golden texts, and what is said about wrong ones."""

from __future__ import annotations

import pytest

from graphopt.errors import ParseError
from graphopt.ir.attributes import Ref
from graphopt.ir.dims import symbol
from graphopt.ir.parser import parse
from graphopt.ir.printer import node_text, show
from graphopt.ir.verifier import verify_structure

GOLDEN = {
    "plain": """\
graph tiny(%x: f32[batch,3,8,8]) where batch in [1, 64] {
  param %conv.weight: f32[4,3,3,3]
  %conv: f32[batch,4,6,6] = conv2d(%x, %conv.weight, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  %relu: f32[batch,4,6,6] = relu(%conv)
  return %relu
}
""",
    "states": """\
graph "odd name"() {
  param %a: f32[4,4] sparse<unstructured 0.8>
  param %b: f32[8,8] sparse<block 4x1 0.75> frozen
  param %c: f16[8,8] sparse<2:4 axis=1 0.5> tied ("head.weight", "tail.weight")
  buffer %d: i64[] transient
  constant %"say \\"hi\\"\\n": bool[0,2]
  return
}
""",
    "attributes": """\
graph g(%x: f32[s]) where s in [0, inf], t in [2, 2] {
  %y: f32[s] = op(%x, none, true, -1, 0.5, -inf, s + 1, 1e-05) {a=none, b=(1,), c=(), d=[1, [2.0]], e={"k": "v\\u00e9"}, f=f32, "g h"=s*t}
  %z.0: f32[s], %z.1: i64[2*s - 1] = aten.topk.default(%y) {k=3, self=$0, values=(none, $0)}
  effect(%y)
  return %z.0, 1, %x
}
""",
    "structure": """\
graph g(%x: f32[1], %y: f32[1]) takes ($0, 2, {"k": [$1]}) {"mask": none} {
  return %y, %x as {"logits": $0, "rest": ($1, none)}
}
""",
    "regions": """\
graph g(%p: bool[], %x: f32[n]) where n in [1, 4] {
  %c: f32[n] = cond(%p, %x) regions {
    graph then(%a: f32[n]) where n in [1, 4] {
      %r: f32[n] = relu(%a)
      return %r
    }
    graph else(%a: f32[n]) where n in [1, 4] {
      return %a
    }
  }
  return %c
}
""",
    "integers": """\
graph g() {
  f() {a=-9223372036854775808, b=18446744073709551615, c=1e+300, d=-0.0}
  return
}
""",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_text_is_written_back_as_it_was(name: str) -> None:
    graph = parse(GOLDEN[name])
    verify_structure(graph)
    assert show(graph) == GOLDEN[name]
    assert graph.clone() == graph


def test_sources_are_written_on_demand() -> None:
    text = GOLDEN["plain"].replace("relu(%conv)", 'relu(%conv) at "layer1.act" "model.py":41')
    graph = parse(text)
    assert show(graph) == GOLDEN["plain"]
    assert show(graph, sources=True) == text
    assert str(graph.value("relu").producer.source) == "model.py:41 (layer1.act)"  # pyright: ignore[reportOptionalMemberAccess]


def test_free_form_text_becomes_canonical() -> None:
    graph = parse('# a comment\ngraph g(%"x" : f32[ 2*b+0 ])where b in[1,inf]{%y:f32[b%4]=f(%x){z=1,a=(2)}return %y}')
    assert show(graph) == "graph g(%x: f32[2*b]) where b in [1, inf] {\n  %y: f32[b % 4] = f(%x) {a=2, z=1}\n  return %y\n}\n"


def test_attributes_arrive_as_python_values() -> None:
    node = next(iter(parse(GOLDEN["attributes"]).nodes))
    assert node.operands[1:] == (None, True, -1, 0.5, float("-inf"), symbol("s") + 1, 1e-05)
    assert node.attrs["e"] == {"k": "vé"}
    assert node.attrs["g h"] == symbol("s") * symbol("t")
    assert next(iter(parse(GOLDEN["structure"]).structure.args)) == Ref(0)
    assert node_text(node).startswith("%y: f32[s] = op(%x, none, true")


def test_remembered_phrases_do_not_leak_into_other_places() -> None:
    text = 'graph g(%x: f32[1]) { f(%x) {a="}"} f(%x) {a="b"} f(%x) {a="b"} f(%x) {a="}"} return }'
    assert [node.attrs["a"] for node in parse(text).nodes] == ["}", "b", "b", "}"]
    first, second = (list(graph.nodes)[1] for graph in (parse("graph g() { f() {a=[1]} f() {a=[1]} return }"),) * 2)
    assert first is second


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"^line 1, column 1: expected 'graph' at the start of a graph, got the end of the text"),
        ("graph f(%x: f32[2) {", r"^line 1, column 18: expected ',' or '\]' after an item, got '\)'"),
        ("graph f(%x: f99[2]) { return }", r"column 13: unknown dtype 'f99'\n  fix: use one of f64, f32"),
        ("graph f(%x: f32[n]) { return }", r"column 9: dimension 'n' is not declared\n  fix: add 'where n in \[0, inf\]'"),
        ("graph f() {\n  g(%y)\n  return\n}", r"^line 2, column 5: %y is used before it is defined"),
        ("graph f(%x: f32[1], %x: f32[1]) { return }", r"column 21: %x is defined twice"),
        ("graph f() where f32 in [1, 2] { return }", r"'f32' can't name a dimension"),
        ("graph f() where n in [4, 2] { return }", r"range of 'n' is empty or negative"),
        ("graph f() where n in [1, 2], n in [1, 2] { return }", r"dimension 'n' is declared twice"),
        ("graph f(%x: f32[-1]) { return }", r"has the dimension -1, needs 0 <= size < 2\*\*63"),
        ("graph f(%x: f32[9223372036854775808]) { return }", r"integer does not fit 64 bits"),
        ("graph f(%x: f32[1.5]) { return }", r"a dimension is an integer or an expression"),
        ("graph f() { g() {a=99999999999999999999} return }", r"integer does not fit 64 bits"),
        ("graph f() { g() {a=-9223372036854775809} return }", r"does not fit 64 bits"),
        ("graph f() { g() {a=1, a=2} return }", r"attribute 'a' is given twice"),
        ('graph f() { g() {a={"k": 1, "k": 2}} return }', r'key "k" is given twice'),
        ("graph f() { g() {a=word.dotted} return }", r"neither a literal nor a dimension\n  fix: put strings in double quotes"),
        ("graph f() { param() return }", r"expected a value such as %x, got '\('"),
        ("graph f() { %a: f32[1] = graph() return %a }", r"'graph' can't name an op"),
        ('graph f() { g() {a="\\ud800"} return }', r"half of a surrogate pair"),
        ('graph f() { g() {a="\\x"} return }', r"bad string"),
        ("graph f() { g() {a=(1//0)} return }", r"'//' by zero"),
        ("graph f() { g() {a=$12345678901} return }", r"reference is too large"),
        ("graph f() takes (1,) {} { return }", r"'takes' after the inputs needs 'as'"),
        ("graph f() { return as 1 }", r"'as' after the outputs needs 'takes'"),
        ("graph f() { param %w: f32[1] tied (1,) return }", r"'tied' needs a tuple of strings"),
        ('graph f() { param %w: f32[1] sha256 "12" return }', r"64 lower-case hexadecimal digits"),
        ("graph f() { param %w: f32[4] sparse<4:2 axis=0 0.5> return }", r"sparsity 4:2 keeps more than there is"),
        ("graph f() { return } x", r"column 22: expected the end of the text after the graph, got 'x'"),
        ("graph f() { g() {a=" + "(" * 40 + " return }", r"nested deeper than 32"),
        ("graph f() { ~ }", r"unexpected character '~'"),
        ('graph f() { g("text") return }', r"an operand is a value, a number, a dimension"),
        ("graph f() { g() {a=true + 1} return }", r"'\+' works on dimensions only"),
    ],
)
def test_what_is_said_about_wrong_text(text: str, message: str) -> None:
    with pytest.raises(ParseError, match=message):
        parse(text)
