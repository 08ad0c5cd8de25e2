"""The interpreter: checks of inputs, the float64 world, memory, and that a run writes to nothing."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import pytest
import torch

from graphopt.backends.reference.interpreter import Interpreter, bind_dims
from graphopt.errors import BackendError, RunInputError, SymbolError
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, GraphEditor, Value
from graphopt.ir.parser import parse


def filled(text: str, **tensors: torch.Tensor) -> Graph:
    """The parsed graph; `a_b=tensor` fills the state `a.b`."""
    graph = parse(text)
    for name, tensor in tensors.items():
        state = graph.states[name if name in graph.states else name.replace("_", ".", 1)]
        GraphEditor(graph).update_state(dataclasses.replace(state, data=TensorData(tensor)))
    return graph


IMAGE = "graph f(%x: f32[batch,3,8,8]) where batch in [1, 64] { %y: f32[batch,3,8,8] = relu(%x) return %y }"


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ([], RunInputError, r"graph 'f' got 0 inputs, needs 1 \(%x\)"),
        ([torch.zeros(1, 3, 8, 8).double()], RunInputError, r"input 0 \(%x\) is f64\[1,3,8,8\], needs f32\[batch,3,8,8\]"),
        ([torch.zeros(3, 8, 8)], RunInputError, r"input 0 \(%x\) is f32\[3,8,8\], needs f32\[batch,3,8,8\]"),
        ([torch.zeros(2, 3, 8, 9)], RunInputError, r"input 0 \(%x\) is f32\[2,3,8,9\], needs f32\[batch,3,8,8\]"),
        ([torch.zeros(65, 3, 8, 8)], SymbolError, r"dimension 'batch' is 65 in the inputs, the graph needs batch in \[1, 64\]"),
        ([3.0], RunInputError, r"input 0 \(%x\) is a float, needs a tensor f32\[batch,3,8,8\]"),
    ],
)
def test_inputs_are_checked(given: list[torch.Tensor], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Interpreter(parse(IMAGE)).run(*given)


def test_dims_follow_from_expressions() -> None:
    graph = parse("graph f(%x: f32[2*n + 1], %y: f32[n*m,m]) where n in [1, 9], m in [1, 9] { return %x, %y }")
    assert bind_dims(graph, [torch.zeros(7), torch.zeros(12, 4)]) == {"m": 4, "n": 3}
    with pytest.raises(RunInputError, match=r"input 0 \(%x\) is f32\[6\], needs f32\[2\*n \+ 1\]"):
        bind_dims(graph, [torch.zeros(6), torch.zeros(8, 4)])
    with pytest.raises(RunInputError, match=r"input 1 \(%y\) is f32\[13,4\], needs f32\[m\*n,m\]"):
        bind_dims(graph, [torch.zeros(7), torch.zeros(13, 4)])


def test_a_symbol_has_one_size() -> None:
    graph = parse("graph f(%x: f32[n], %y: f32[n]) where n in [1, 9] { %z: f32[n] = add(%x, %y) return %z }")
    with pytest.raises(RunInputError, match=r"input 1 \(%y\) is f32\[1\], needs f32\[n\]"):
        Interpreter(graph).run(torch.zeros(2), torch.zeros(1))


def test_precise_run_promotes_numbers_and_integers() -> None:
    text = """
    graph f(%i: i64[3], %x: f32[3], %m: bool[3]) {
      %third: f32[3] = div(%i, 3) {rounding=none}
      %tenth: f32[3] = where(%m, 0.1, 0.2)
      %half: f16[3] = cast(%x) {dtype=f16}
      %lots: f32[2] = full() {dtype=f32, shape=(2,), value=0.1}
      %opaque: f32[3] = aten.celu.default(%x) {alpha=1.0, self=$0}
      %made: f32[3] = aten.ones_like.default(%x) {dtype=f32, self=$0}
      %whole: i64[3] = cast(%x) {dtype=i64}
      return %third, %tenth, %half, %lots, %opaque, %made, %whole
    }
    """
    inputs = (torch.tensor([1, 2, 3]), torch.tensor([0.1, -0.1, 2.5]), torch.tensor([True, False, True]))
    third, tenth, half, lots, opaque, made, whole = Interpreter(parse(text), precise=True).run(*inputs)
    assert third[0].item() == 1 / 3
    assert tenth.tolist() == [0.1, 0.2, 0.1]
    assert torch.equal(half, inputs[1].double())
    assert lots.tolist() == [0.1, 0.1]
    assert opaque.dtype == made.dtype == torch.float64
    assert whole.tolist() == [0, 0, 2]
    assert [t.dtype for t in Interpreter(parse(text)).run(*inputs)[:4]] == [torch.float32, torch.float32, torch.float16, torch.float32]
    assert Interpreter(parse(text), precise=True).run(inputs[0], inputs[1].double(), inputs[2])[0].dtype == torch.float64


def test_precise_attention_and_rms_norm() -> None:
    text = """
    graph f(%q: f32[1,2,4,8], %m: bool[4,4]) {
      %a: f32[1,2,4,8] = scaled_dot_product_attention(%q, %q, %q, %m) {causal=false, dropout_p=0.0, grouped=false, scale=none}
      %r: f32[1,2,4,8] = rms_norm(%a, none) {eps=none, normalized_shape=(8,)}
      return %a, %r
    }
    """
    q, mask = torch.randn(1, 2, 4, 8) * 1e-3, torch.ones(4, 4).tril().bool()
    fine, normed = Interpreter(parse(text), precise=True).run(q, mask)
    scores = (q.double() @ q.double().mT / 8**0.5).masked_fill(~mask, -torch.inf).softmax(-1)
    assert torch.allclose(fine, scores @ q.double(), rtol=1e-12, atol=1e-15)
    coarse = Interpreter(parse(text)).run(q, mask)[1]
    assert torch.allclose(normed.float(), coarse, rtol=1e-4), "eps none is the epsilon of float32 in both worlds"


NORM = """
graph f(%x: f32[4,2]) {
  buffer %n.running_mean: f32[2]
  buffer %n.running_var: f32[2]
  buffer %n.num_batches_tracked: i64[]
  %y: f32[4,2] = batch_norm(%x, none, none, %n.running_mean, %n.running_var) {eps=1e-09, mode="follow", momentum=none}
  return %y, %n.running_mean, %n.num_batches_tracked
}
"""


def test_training_run_writes_to_nothing() -> None:
    graph = filled(NORM, n_running_mean=torch.zeros(2), n_running_var=torch.ones(2), n_num_batches_tracked=torch.tensor(3))
    x = torch.randn(4, 2) + 5
    y, mean, tracked = Interpreter(graph, training=True).run(x)
    assert torch.allclose(y.mean(0), torch.zeros(2), atol=1e-5)
    assert mean.tolist() == [0.0, 0.0]
    assert tracked.item() == 3
    assert torch.allclose(Interpreter(graph).run(x)[0], x)


def test_values_are_freed_after_their_last_use() -> None:
    text = """
    graph f(%x: f32[4]) {
      %a: f32[4] = add(%x, 1)
      %b: f32[4] = add(%a, 1)
      %unread: f32[4] = add(%a, 2)
      %c: f32[4] = add(%b, 1)
      %d: f32[4] = add(%c, 1)
      return %d
    }
    """
    alive: dict[str, weakref.ref[torch.Tensor]] = {}
    seen: list[list[str]] = []

    def watch(value: Value, tensor: torch.Tensor) -> None:
        alive[value.name] = weakref.ref(tensor)
        gc.collect()
        seen.append([name for name, reference in alive.items() if reference() is not None])

    Interpreter(parse(text)).run(torch.zeros(4), on_value=watch)
    assert seen == [["a"], ["a", "b"], ["a", "b", "unread"], ["b", "c"], ["c", "d"]]


def test_evaluate_runs_one_node() -> None:
    graph = parse("graph f(%x: f32[n]) where n in [1, 9] { %y: f32[n,2] = expand(%x) {shape=(n, 2)} return %y }")
    (node,) = graph.nodes
    assert Interpreter(graph).evaluate(node, [torch.ones(3, 1)], {"n": 3})[0].shape == (3, 2)
    assert Interpreter(graph, precise=True).evaluate(node, [torch.ones(3, 1)], {"n": 3})[0].dtype == torch.float64
    with pytest.raises(SymbolError, match="dimension 'n' has no value"):
        Interpreter(graph).evaluate(node, [torch.ones(3, 1)], {})
    with pytest.raises(BackendError, match=r"expand\(float32\[5\]\) failed(.|\n)*fix: check the inputs"):
        Interpreter(graph).evaluate(node, [torch.ones(5)], {"n": 3})


def test_a_state_without_numbers_is_named() -> None:
    with pytest.raises(BackendError, match=r"%w has no numbers"):
        Interpreter(parse("graph f(%x: f32[2]) { param %w: f32[2] %y: f32[2] = add(%x, %w) return %y }")).run(torch.zeros(2))


def test_autocast_around_a_run_changes_nothing() -> None:
    graph = parse("graph f(%x: f32[4,4]) { %y: f32[4,4] = matmul(%x, %x) return %y }")
    x = torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = Interpreter(graph).run(x)
    assert torch.equal(found, x @ x)


def test_data_dependent_sizes_are_read_from_results() -> None:
    text = """
    graph f(%x: f32[4]) where u in [0, inf] {
      %k: i64[u,1] = aten.nonzero.default(%x) {self=$0}
      %r: i64[u] = reshape(%k) {shape=(u,)}
      return %r
    }
    """
    assert Interpreter(parse(text)).run(torch.tensor([0.0, 1.0, 0.0, 2.0]))[0].tolist() == [1, 3]
