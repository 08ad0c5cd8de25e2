"""capture(): a PyTorch model becomes a graph.

    nn.Module, fx.GraphModule  --torch.export-->  ExportedProgram  --importer-->  Graph

torch.export traces with `strict=False`, in eval mode, without gradients; its graph before decomposition is
imported, in which `linear`, `layer_norm`, `batch_norm` and attention are still whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, OutputKind, SymIntArgument, TensorArgument

from graphopt.capture.assumptions import Ranges, settle_ranges
from graphopt.capture.context import Context
from graphopt.capture.dims import UNBOUNDED, DimReader
from graphopt.capture.dynamic import Dynamic, DynamicShapes, resolve_dynamic
from graphopt.capture.examples import Examples, example_call
from graphopt.capture.export import check_signature, export_model
from graphopt.capture.functionalise import AliasTable
from graphopt.capture.importer import Importer
from graphopt.capture.states import Entry, StateTable, check_tensors, model_entries, program_entries
from graphopt.capture.structure import call_structure
from graphopt.errors import CaptureError, ExampleInputError, GraphoptWarning, UnsupportedModelError, UsageError
from graphopt.ir.attributes import Attribute, Ref, freeze_attribute
from graphopt.ir.graph import Graph, Operand

__all__ = ["capture"]


def capture(
    model: nn.Module | ExportedProgram,
    example_inputs: Examples = None,
    *,
    kwargs: Mapping[str, object] | None = None,
    dynamic: Dynamic = None,
    name: str | None = None,
) -> Graph:
    """The graph of a model.

    `model` is an `nn.Module`, an `fx.GraphModule`, or an `ExportedProgram` in memory. A model in train mode is
    captured in eval mode (with a warning) and left as it was; batch norm and dropout of the graph still
    follow `train()` and `eval()`. Parameters are shared with the model, not copied.

    `example_inputs`: a tuple of positional inputs, one tensor, or a dict by parameter name, of tensors or of
    shapes (`{"x": (1, 3, 32, 32)}`, `{"input_ids": ((1, 16), torch.int64)}`). Left out, they are found by
    convention (`graphopt.capture.examples`). `kwargs` are further keyword arguments. Values that are no
    tensors are fixed in the graph.

    `dynamic`: sizes that may vary, `{"x": {0: "batch"}}` (`graphopt.capture.dynamic`).

    Raises:
        ExampleInputError: inputs are missing or do not fit.
        UnsupportedModelError: the model holds something that can't be captured.
        CaptureError: the dynamic dimensions do not fit the model.
        UsageError: `model` is neither a module nor an exported program.
    """
    if isinstance(model, ExportedProgram):
        if example_inputs is not None or kwargs or dynamic is not None:
            raise UsageError(
                "an ExportedProgram brings its inputs and dynamic sizes along", fix="capture(program) without further arguments"
            )
        return _import_program(model, None, DynamicShapes((), {}), name or "graph")
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModelError("TorchScript modules have no Python code to trace", fix="capture the nn.Module that was scripted")
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise UsageError(f"capture takes an nn.Module or an ExportedProgram, got {type(model).__name__}")
    check_tensors({entry.name: entry.tensor for entry in model_entries(model)})
    args, keywords = example_call(model, example_inputs, kwargs)
    check_signature(model, args, keywords)
    shapes = resolve_dynamic(model, args, keywords, dynamic)
    program, ranges = _export(model, shapes)
    graph = _import_program(program, model, shapes, name or type(model).__name__, ranges)
    _warn_of_frozen_caches(graph)
    return graph


def _export(model: nn.Module, shapes: DynamicShapes) -> tuple[ExportedProgram, Ranges]:
    """The exported program and the ranges of its symbols; ranges of named dimensions are found where they must be."""
    try:
        program = export_model(model, shapes.args, shapes.kwargs, shapes.shapes)
        return program, _ranges(program)
    except (ExampleInputError, UnsupportedModelError):
        raise
    except CaptureError as error:
        if shapes.relaxed is None:
            raise
        program = export_model(model, shapes.args, shapes.kwargs, shapes.relaxed, announce=False)
        ranges = _ranges(program)
        violated = settle_ranges(program, ranges, _symbol_names(program, shapes))
        if violated is not None:
            raise CaptureError(f"{error.what} (the trace assumed that {violated})", where=error.where, fix=error.fix) from error
        return program, ranges


def _import_program(
    program: ExportedProgram,
    model: nn.Module | None,
    dynamic: DynamicShapes,
    name: str,
    ranges: Ranges | None = None,
) -> Graph:
    context = Context(Graph(name))
    states = StateTable(context.editor)
    for entry in model_entries(model) if model is not None else program_entries(program):
        states.add(entry)
    dims = DimReader(context.editor, _ranges(program) if ranges is None else ranges)
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False)) if model is not None else {}
    importer = Importer(context, states, dims, AliasTable(), modules)
    in_leaves = _bind_inputs(program, importer, dynamic)
    outputs = importer.run(program.graph, program.graph_module)
    _set_outputs(program, importer, outputs, in_leaves)
    _tell_changes(importer)
    context.remove_dead()
    _drop_unused_constants(context)
    return context.graph


def _ranges(program: ExportedProgram) -> Ranges:
    """Declared range of each of torch's symbols."""
    ranges: Ranges = {}
    for symbol, limits in program.range_constraints.items():
        lower: Any = limits.lower
        upper: Any = limits.upper
        minimum = int(lower) if lower.is_Integer else 0
        maximum = int(upper) if upper.is_Integer and int(upper) < UNBOUNDED else None
        ranges[str(symbol)] = (max(minimum, 0), maximum)
    return ranges


def _bind_inputs(program: ExportedProgram, importer: Importer, dynamic: DynamicShapes) -> list[Attribute]:
    """Declare states and inputs for the placeholders; returns one leaf of the call structure per user input."""
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    leaves: list[Attribute] = []
    for size, name in _named_sizes(program, dynamic):
        importer.dims.suggest(size, name, shared=True)
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind is not InputKind.USER_INPUT:
            _bind_state(program, importer, node, spec)
        elif isinstance(spec.arg, TensorArgument):
            leaves.append(Ref(len(importer.context.graph.inputs)))
            _bind_input(importer, node)
        elif isinstance(spec.arg, ConstantArgument):
            importer.literals[node] = spec.arg.value
            leaves.append(freeze_attribute(spec.arg.value))
        else:
            raise UnsupportedModelError(f"the input '{node.name}' is a {type(spec.arg).__name__}, needs a tensor or a fixed value")
    return leaves


def _named_sizes(program: ExportedProgram, dynamic: DynamicShapes) -> Iterator[tuple[Any, str]]:
    """Traced sizes of the inputs that the user gave names, with these."""
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    kinds = [spec.kind for spec in program.graph_signature.input_specs]
    user_inputs = [node for node, kind in zip(placeholders, kinds, strict=True) if kind is InputKind.USER_INPUT]
    for node, axes in zip(user_inputs, dynamic.names, strict=False):
        for axis, name in axes.items():
            yield node.meta["val"].shape[axis], name


def _symbol_names(program: ExportedProgram, dynamic: DynamicShapes) -> dict[str, str]:
    return {str(size): name for size, name in _named_sizes(program, dynamic) if isinstance(size, torch.SymInt)}


def _bind_input(importer: Importer, node: torch.fx.Node) -> None:
    fake = node.meta["val"]
    for axis, size in enumerate(fake.shape):
        importer.dims.suggest(size, f"{node.name}_{axis}")
    name = importer.context.graph.fresh_name(node.name)
    value = importer.context.editor.add_input(name, importer.tensor_type(fake))
    importer.define(node, fake, value, owner=name)


def _bind_state(program: ExportedProgram, importer: Importer, node: torch.fx.Node, spec: InputSpec) -> None:
    target = spec.target
    if target is None or spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
        raise UnsupportedModelError(
            f"the exported program takes '{node.name}', a {spec.kind.name}, which a graph can't hold",
            fix="capture a sub-module without it, or write it with tensor operations",
        )
    if target not in importer.states:
        tensor = program.state_dict.get(target, program.constants.get(target))
        if not isinstance(tensor, torch.Tensor):
            raise UnsupportedModelError(
                f"the exported program has no tensor for '{target}'", fix="export the model again with torch.export.export"
            )
        check_tensors({target: tensor})
        importer.states.add(Entry(target, tensor, "constant", persistent=False))
    value = importer.states.value(target)
    importer.define(node, node.meta["val"], value, owner=value.name)


def _set_outputs(program: ExportedProgram, importer: Importer, outputs: Sequence[object], in_leaves: Sequence[Attribute]) -> None:
    values: list[Operand] = []
    leaves: list[Attribute] = []
    for item, spec in zip(outputs, program.graph_signature.output_specs, strict=True):
        if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION, OutputKind.PARAMETER_MUTATION):
            raise UnsupportedModelError(
                f"the exported program changes '{spec.target}'; a graph does not change its states or inputs",
                fix="export the model in eval mode, and do not decompose it",
            )
        if isinstance(spec.arg, TensorArgument) and isinstance(item, torch.fx.Node):
            leaves.append(Ref(len(values)))
            values.append(importer.value(item))
        elif isinstance(spec.arg, SymIntArgument):
            leaves.append(freeze_attribute(importer.argument(item)))
        else:
            leaves.append(freeze_attribute(item))
    structure = call_structure(program.call_spec.in_spec, in_leaves, program.call_spec.out_spec, leaves)
    importer.context.editor.set_outputs(values, structure)


def _drop_unused_constants(context: Context) -> None:
    """Forget tensors that tracing lifted out of the code and that became literals."""
    for state in list(context.graph.states.values()):
        if state.kind == "constant" and not state.value.use_count:
            context.editor.remove_state(state.name)


def _tell_changes(importer: Importer) -> None:
    """Say which inputs and parameters the model writes in place, which a graph does not."""
    for name in importer.changed:
        if name in importer.context.graph.states:
            importer.states.own(name)
    if importer.changed:
        shown = "; ".join(f"'{name}' ({where})" for name, where in list(importer.changed.items())[:3])
        more = f" and {len(importer.changed) - 3} more" if len(importer.changed) > 3 else ""
        warnings.warn(
            f"forward changes tensors in place that it does not own: {shown}{more}. The graph computes the same outputs, "
            "leaves inputs as they are, and starts every call from the parameters as they were at capture",
            GraphoptWarning,
            stacklevel=4,
        )


def _warn_of_frozen_caches(graph: Graph) -> None:
    """Parameters that nobody reads, beside constants that may have been computed from them before capture."""
    unread = [s.name for s in graph.states.values() if s.kind == "param" and not s.value.use_count and s.trainable]
    constants = [s for s in graph.states.values() if s.kind == "constant" and s.type.dtype.is_float and s.type.elements != 1]
    if unread and constants:
        shown = ", ".join(unread[:5]) + (f" and {len(unread) - 5} more" if len(unread) > 5 else "")
        warnings.warn(
            f"the graph does not read the parameters {shown}, and holds {len(constants)} constant tensors that the model made before "
            "capture: if these were computed from the parameters (a cache filled in eval mode), training or reloading the parameters "
            "will not reach them. Capture a freshly built model, or clear its caches first",
            GraphoptWarning,
            stacklevel=3,
        )
