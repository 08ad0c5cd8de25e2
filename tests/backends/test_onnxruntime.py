"""Whole models in ONNX Runtime, dynamic sizes, options, inputs, and export."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from graphopt import ops
from graphopt.backends.onnxruntime import OnnxRuntimeBackend, export_onnx, to_onnx
from graphopt.backends.onnxruntime.executable import OnnxRuntimeExecutable
from graphopt.backends.onnxruntime.steps import NativeStep
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.capture import capture
from graphopt.errors import BackendError, LoweringError, RunInputError, SymbolError
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse

pytestmark = pytest.mark.onnxruntime


def lower(graph: Graph, **options: Any) -> OnnxRuntimeExecutable:
    return OnnxRuntimeBackend().lower(graph, threads=1, **options)


def relative_error(found: Any, wanted: Any) -> float:
    return max(
        float((a.double() - b.double()).abs().max() / b.double().abs().max())
        for a, b in zip(found, wanted, strict=True)
        if b.is_floating_point()
    )


# Whole models; the numbers of nodes are those of the captured graph, before any pass


def vision(name: str, size: int = 64) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    import torchvision

    return getattr(torchvision.models, name)(), (torch.randn(1, 3, size, size),), {}


def language(name: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    transformers = pytest.importorskip("transformers")
    ids = torch.arange(24).reshape(2, 12)
    sizes = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    match name:
        case "bert":
            return transformers.BertModel(transformers.BertConfig(**sizes)), (), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        case "gpt2":
            config = transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=64)
            return transformers.GPT2LMHeadModel(config), (), {"input_ids": ids, "use_cache": False}
        case "t5":
            config = transformers.T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)
            model = transformers.T5ForConditionalGeneration(config)
            return model, (), {"input_ids": ids, "decoder_input_ids": ids, "use_cache": False}
        case "llama":
            config = transformers.LlamaConfig(**sizes, num_key_value_heads=2)
            return transformers.LlamaForCausalLM(config), (), {"input_ids": ids, "use_cache": False}
        case _:
            config = transformers.ViTConfig(
                image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
            )
            return transformers.ViTModel(config), (torch.randn(1, 3, 32, 32),), {}


MODELS = {
    "resnet18": (vision, 69),
    "mobilenet_v3_small": (vision, 156),
    "shufflenet_v2_x0_5": (vision, 229),
    "convnext_tiny": (vision, 220),
    "swin_t": (vision, 667),
    "bert": (language, 90),
    "gpt2": (language, 135),
    "t5": (language, 270),
    "llama": (language, 184),
    "vit": (language, 70),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_model_runs_natively_in_few_nodes(name: str) -> None:
    make, most_nodes = MODELS[name]
    torch.manual_seed(0)
    model, args, kwargs = make(name)
    model.eval()
    graph = capture(model, args, kwargs=kwargs)
    executable = lower(graph)
    assert executable.report == ()
    assert executable.segments == 1
    inputs = [item for item in (*args, *kwargs.values()) if isinstance(item, torch.Tensor)]
    assert relative_error(executable.run(inputs), Interpreter(graph).run(*inputs)) <= 1e-4
    proto = to_onnx(graph)
    onnx.checker.check_model(proto, full_check=True)
    assert len(proto.graph.node) <= most_nodes


# Dynamic sizes


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.linear = nn.Linear(4 * 64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.linear(y.reshape(x.shape[0], -1)) + x.shape[0] + torch.zeros(x.shape[0], 5)


def dynamic_graph() -> tuple[nn.Module, Graph]:
    model = Flattened().eval()
    batch = torch.export.Dim("batch", min=0, max=64)
    return model, capture(model, (torch.randn(2, 3, 8, 8),), dynamic={"x": {0: batch}})


def test_dynamic_batch_runs_at_every_size() -> None:
    model, graph = dynamic_graph()
    executable = lower(graph)
    assert executable.report == ()
    for batch in range(1, 6):
        x = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(executable(x), model(x))


SYMBOLS = """
graph g(%x: f32[2*n,m]) where n in [0, 9], m in [1, 9] {
  %a: f32[n,2,m] = reshape(%x) {shape=(n, 2, m)}
  %b: f32[n,m,2] = permute(%a) {axes=(0, 2, 1)}
  %c: f32[n*m,2] = reshape(%b) {shape=(n*m, 2)}
  %d: f32[n*m + n,2] = full() {dtype=f32, shape=(n*m + n, 2), value=1.5}
  %e: f32[n*m,2] = slice(%d) {axis=0, start=0, step=1, stop=n*m}
  %f: f32[n*m,2] = add(%c, %e)
  %g: i64[n] = arange() {dtype=i64, start=0, step=1, stop=n}
  %h: f32[n,m//2 + 1] = full() {dtype=f32, shape=(n, m//2 + 1), value=2.0}
  %i: f32[m,n] = eye() {columns=n, dtype=f32, rows=m}
  %j: f32[n*m,2] = mul(%f, n)
  return %j, %g, %h, %i
}
"""


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 2), (2, 5), (0, 3)])
def test_arithmetic_on_symbols(n: int, m: int) -> None:
    graph = parse(SYMBOLS)
    executable = lower(graph)
    assert executable.report == ()
    x = torch.randn(2 * n, m)
    for found, wanted in zip(executable.run([x]), Interpreter(graph).run(x), strict=True):
        assert torch.equal(found, wanted)


def test_size_out_of_range_says_so() -> None:
    with pytest.raises(SymbolError, match=r"dimension 'n' is 10 in the inputs, the graph needs n in \[0, 9\]"):
        lower(parse(SYMBOLS)).run([torch.randn(20, 2)])


def test_odd_size_of_an_even_dimension_says_so() -> None:
    with pytest.raises(RunInputError, match=r"input 0 \(%x\) is f32\[3,2\], needs f32\[2\*n,m\]"):
        lower(parse(SYMBOLS)).run([torch.randn(3, 2)])


# Inputs and outputs


SMALL = """
graph small(%x: f32[2,3], %y: bf16[3]) {
  %a: f32[2,3] = add(%x, %y)
  %b: bf16[2,3] = cast(%a) {dtype=bf16}
  return %a, %b, %x, %a
}
"""


def test_inputs_states_and_repeats_may_be_outputs() -> None:
    graph = parse(SMALL)
    x, y = torch.randn(2, 3), torch.randn(3).bfloat16()
    executable = lower(graph)
    found = executable.run([x, y])
    for one, other in zip(found, Interpreter(graph).run(x, y), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert found[2].data_ptr() != x.data_ptr()
    assert executable.graph.node_count == 2
    found[2].zero_()
    assert x.abs().sum() > 0


def test_torch_memory_is_shared_with_the_session() -> None:
    linear = nn.Conv2d(8, 64, 3)
    executable = lower(capture(linear.eval(), (torch.randn(1, 8, 5, 5),)))
    (step,) = executable.steps
    assert isinstance(step, NativeStep)
    addresses = [array.ctypes.data for array, _ in step.session.weights.values()]
    assert addresses == [linear.weight.data_ptr()]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([torch.randn(2, 3)], r"graph 'small' got 1 inputs, needs 2 \(%x, %y\)"),
        ([torch.randn(2, 3).double(), torch.randn(3).bfloat16()], r"input 0 \(%x\) is f64\[2,3\], needs f32\[2,3\]"),
        ([torch.randn(2, 4), torch.randn(3).bfloat16()], r"input 0 \(%x\) is f32\[2,4\], needs f32\[2,3\]"),
        (["x", torch.randn(3)], r"input 0 is a str, needs a torch tensor or numpy array f32\[2,3\]"),
    ],
)
def test_wrong_inputs_say_what_is_needed(inputs: list[Any], message: str) -> None:
    with pytest.raises(RunInputError, match=message):
        lower(parse(SMALL)).run(inputs)


def test_strided_inputs_and_numpy() -> None:
    graph = parse("graph g(%x: f32[2,3]) {\n  %y: f32[2,3] = neg(%x)\n  return %y\n}")
    x = torch.randn(3, 2).t()
    executable = lower(graph)
    assert torch.equal(executable(x), -x)
    array = executable(np.asfortranarray(x.numpy()))
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, -x.numpy())


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thread": 2}, "onnxruntime has no option 'thread'\n  fix: options: .*threads"),
        ({"threads": -1}, "threads is -1, needs an integer from 0 to 4096"),
        ({"optimization": "most"}, "optimization is 'most', needs one of disabled, basic, extended, all"),
        ({"providers": ["TpuExecutionProvider"]}, "'TpuExecutionProvider' is not available\n  fix: available: .*CPUExecutionProvider"),
        ({"providers": "CPUExecutionProvider"}, "needs a list of names"),
        ({"session_config": {"key": 1}}, "needs texts by text"),
        ({"strict_nan": 1}, "needs true or false"),
    ],
)
def test_wrong_option_says_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        OnnxRuntimeBackend().lower(parse(SYMBOLS), **options)


def test_options_reach_the_session() -> None:
    executable = OnnxRuntimeBackend().lower(
        parse(SYMBOLS),
        threads=2,
        inter_op_threads=2,
        optimization="basic",
        session_config={"session.intra_op.allow_spinning": "0"},
    )
    native = executable.options.native()
    assert (native.intra_op_num_threads, native.inter_op_num_threads) == (2, 2)
    assert native.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert native.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL


def test_state_without_numbers_says_so() -> None:
    text = "graph g(%x: f32[2,2]) {\n  param %w: f32[2,2]\n  %y: f32[2,2] = matmul(%x, %w)\n  return %y\n}"
    with pytest.raises(LoweringError, match="%w has no numbers, the graph was read from text alone"):
        lower(parse(text))


# Export


def test_export_keeps_names_and_symbolic_dimensions(tmp_path: Path) -> None:
    model, graph = dynamic_graph()
    export_onnx(graph, tmp_path / "m.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    proto = onnx.load(tmp_path / "m.onnx")
    assert [entry.name for entry in proto.graph.input] == ["x"]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {entry.name for entry in proto.graph.initializer} >= {"conv.weight", "conv.bias", "linear.weight"}
    x = torch.randn(5, 3, 8, 8)
    (found,) = onnxruntime.InferenceSession(str(tmp_path / "m.onnx")).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x))


def test_large_weights_go_into_a_second_file(tmp_path: Path) -> None:
    model, graph = dynamic_graph()
    export_onnx(graph, tmp_path / "m.onnx", external_data_bytes=1000)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    x = torch.randn(1, 3, 8, 8)
    (found,) = onnxruntime.InferenceSession(str(tmp_path / "m.onnx")).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x))


HOSTILE = """
graph "x/../y"(%"../../etc/passwd": f32[2], %"a\\nb": f32[2], %a_b: f32[2], %"": f32[2]) {
  %"LOOOONG": f32[2] = add(%"../../etc/passwd", %"a\\nb")
  %"\\u00e9": f32[2] = mul(%"LOOOONG", %a_b)
  %z: f32[2] = sub(%"\\u00e9", %"  ")
  return %z
}
""".replace('%"":', '%"  ":').replace("LOOOONG", "n" * 500)


def test_hostile_names_do_no_harm(tmp_path: Path) -> None:
    graph = parse(HOSTILE)
    inputs = [torch.randn(2) for _ in range(4)]
    assert torch.equal(lower(graph).run(inputs)[0], Interpreter(graph).run(*inputs)[0])
    export_onnx(graph, tmp_path / "m.onnx")
    names = [entry.name for entry in onnx.load(tmp_path / "m.onnx").graph.input]
    assert names == [".._.._etc_passwd", "a_b", "a_b_1", "__"]
    buffer = io.BytesIO((tmp_path / "m.onnx").read_bytes())
    onnx.checker.check_model(onnx.load(buffer))


def test_linear_is_one_gemm_and_batch_norm_one_node() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    proto = to_onnx(capture(model, (torch.randn(2, 3, 8, 8),)))
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds == ["Conv", "BatchNormalization", "Relu", "GlobalAveragePool", "Reshape", "Gemm"]


def test_every_float32_op_is_standard_onnx() -> None:
    from graphopt.backends.onnxruntime.emit import EMITTERS

    assert EMITTERS.keys() == {found.name for found in ops.definitions()}
