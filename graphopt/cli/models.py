"""Turns what stands on the command line into a model or graph.

torchvision:resnet50                 random weights, unless --weights gives a safetensors file
timm:levit_128s
transformers:BertForMaskedLM@config.json    class and local configuration file (or folder with config.json)
my_model.py:make                     a function of no arguments in a file, which returns the model
                                     or (model, example_inputs)
folder/                              a graph or executable that graphopt saved
graph.gir                            IR text, without weights
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from graphopt.analysis.table import counted
from graphopt.cli.functions import import_file
from graphopt.errors import IRError, UsageError
from graphopt.ir.graph import Graph
from graphopt.ir.types import DType

if TYPE_CHECKING:
    import torch

__all__ = ["InputShapes", "Subject", "load_subject", "parse_dynamic", "parse_shapes"]

InputShapes: TypeAlias = "dict[str, tuple[int, ...] | tuple[tuple[int, ...], torch.dtype]]"
"""Shapes of inputs by name, with a dtype where it is not the model's."""

FORMS = "torchvision:NAME, timm:NAME, transformers:CLASS@CONFIG, FILE.py:FUNCTION, a saved folder or a .gir file"


@dataclass(frozen=True)
class Subject:
    """What a command works on: a model still to be captured, or a graph."""

    name: str
    module: torch.nn.Module | None = None
    graph: Graph | None = None
    inputs: Any = None

    def captured(self, *, shapes: InputShapes | None = None, dynamic: Any = None) -> Graph:
        """The graph, captured now if need be.

        Raises:
            UsageError: shapes or varying axes are given for what is a graph already.
        """
        if self.graph is not None:
            if shapes or dynamic:
                given = "--shape" if shapes else "--dynamic"
                raise UsageError(
                    f"{given} is for models that are captured now, and '{self.name}' is a graph with sizes of its own",
                    fix=f"leave {given} out, or capture the model anew with it",
                )
            return self.graph
        import graphopt

        assert self.module is not None, "a subject has a module or a graph"
        return graphopt.capture(self.module, shapes or self.inputs, dynamic=dynamic, name=self.name)


def load_subject(specification: str, *, weights: Path | None = None) -> Subject:
    """Build or load what a specification names.

    Raises:
        UsageError: it has none of the known forms, the library or function it names is missing, or weights do not go with it.
    """
    family, colon, rest = specification.partition(":")
    path = Path(specification)
    is_text = path.suffix == ".gir" or (path.is_file() and path.suffix in (".txt", ".ir"))
    if weights is not None and (path.is_dir() or is_text):
        raise _refused_weights(specification)
    if path.is_dir():
        from graphopt.api import load

        if (path / "cpu.json").is_file():  # loading one compiles it, and here the graph is enough
            from graphopt.backends.cpu.artifact import load_graph

            return Subject(path.name, graph=load_graph(path))
        loaded = load(path)
        return Subject(path.name, graph=loaded if isinstance(loaded, Graph) else loaded.graph)
    if is_text:
        return Subject(path.stem, graph=_read_text(path))
    if colon and family in ("torchvision", "timm", "transformers"):
        module = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}[family](rest)
        if weights is not None:
            _load_weights(module, weights)
        return Subject(rest.partition("@")[0], module=module.eval())
    if colon and family.endswith(".py"):
        return _from_file(Path(family), rest, weights)
    raise UsageError(f"'{specification}' is no model that I know how to load", fix=f"use {FORMS}")


def parse_shapes(texts: list[str] | None) -> InputShapes | None:
    """`["x=1,3,224,224", "ids=1,128:int64"]` as a mapping from input name to shape, or to shape and dtype.

    Raises:
        UsageError: a text is not NAME=INT,INT,... or NAME=INT,INT,...:DTYPE.
    """
    if not texts:
        return None
    shapes: InputShapes = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        sizes, colon, dtype = rest.partition(":")
        parts = sizes.replace("x", ",").split(",") if sizes else []
        if not equals or not name or not all(part.strip().isdecimal() for part in parts):
            raise UsageError(f"--shape '{text}' does not name an input and its sizes", fix="write --shape x=1,3,224,224")
        shape = tuple(int(part) for part in parts)
        shapes[name] = (shape, _dtype(text, dtype)) if colon else shape
    return shapes


def _dtype(text: str, name: str) -> torch.dtype:
    import torch

    try:
        return getattr(torch, DType.parse(name).torch_name)
    except IRError as error:
        raise UsageError(
            f"--shape '{text}' has the unknown dtype '{name}'", fix="use int64, int32, bool, float32, float16, bfloat16"
        ) from error


def parse_dynamic(texts: list[str] | None) -> dict[str, dict[int, str]] | None:
    """`["x:0=batch"]` as the `dynamic` argument of `capture`.

    Raises:
        UsageError: a text is not NAME:AXIS=SYMBOL.
    """
    if not texts:
        return None
    dynamic: dict[str, dict[int, str]] = {}
    for text in texts:
        place, equals, symbol = text.partition("=")
        name, colon, axis = place.rpartition(":")
        if not (equals and colon and name and symbol) or not axis.isdecimal():
            raise UsageError(f"--dynamic '{text}' does not name an axis of an input", fix="write --dynamic x:0=batch")
        dynamic.setdefault(name, {})[int(axis)] = symbol
    return dynamic


def _read_text(path: Path) -> Graph:
    from graphopt import ops
    from graphopt.errors import ArtifactError
    from graphopt.ir.parser import parse

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"can't read {path}: {error}", fix="give a text file of the IR, or a folder that graphopt saved") from None
    graph = parse(re.sub(r"\Agraphopt-ir [0-9]+\n", "", text))
    ops.verify(graph)
    return graph


def _need(package: str) -> Any:
    if importlib.util.find_spec(package) is None:
        raise UsageError(f"{package} is not installed", fix=f"pip install {package}")
    return importlib.import_module(package)


def _near(name: str, known: list[str]) -> str | None:
    import difflib

    near = difflib.get_close_matches(name, known, n=4)
    return f"near names: {', '.join(near)}" if near else None


def _torchvision(name: str) -> torch.nn.Module:
    models = _need("torchvision").models
    known = list(models.list_models())
    if name not in known:
        raise UsageError(f"torchvision has no model '{name}'", fix=_near(name, known))
    options: dict[str, Any] = {"weights": None}
    if "weights_backbone" in getattr(models.get_model_builder(name), "__wrapped__", models.get_model_builder(name)).__code__.co_varnames:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    return models.get_model(name, **options)


def _timm(name: str) -> torch.nn.Module:
    timm = _need("timm")
    if not timm.is_model(name):
        raise UsageError(f"timm has no model '{name}'", fix=_near(name, timm.list_models()))
    return timm.create_model(name, pretrained=False)


def _transformers(rest: str) -> torch.nn.Module:
    transformers = _need("transformers")
    name, at, config_path = rest.partition("@")
    model_class = getattr(transformers, name, None)
    if model_class is None or not hasattr(model_class, "config_class"):
        raise UsageError(
            f"transformers has no model class '{name}'", fix="name a model class, such as transformers:BertForMaskedLM@config.json"
        )
    if not at:
        return model_class(model_class.config_class())
    path = Path(config_path)
    if not path.exists():
        raise UsageError(f"there is no configuration at {path}", fix="give a local config.json or the folder that holds it")
    return model_class(model_class.config_class.from_json_file(str(path / "config.json" if path.is_dir() else path)))


def _load_weights(module: torch.nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    if path.suffix != ".safetensors":
        raise UsageError(f"weights come from a .safetensors file, got {path}", fix="convert other formats with the library that wrote them")
    if not path.is_file():
        raise UsageError(f"there is no file {path}", fix="give --weights an absolute path, or one from the current folder")
    try:
        missing, unexpected = load_model(module, str(path), strict=False)
    except (OSError, RuntimeError, SafetensorError) as error:  # shapes that differ, or a file that is none
        raise UsageError(
            f"can't load {path}: {error}", fix="give the weights of that very model, written with safetensors.torch.save_model(model, path)"
        ) from None
    if missing or unexpected:
        raise UsageError(
            f"{path} does not fit the model: {counted(len(missing), 'parameter')} missing (first {sorted(missing)[:3]}), "
            f"{len(unexpected)} unknown (first {sorted(unexpected)[:3]})",
            fix="give the weights of that very model, written with safetensors.torch.save_model(model, path)",
        )


def _refused_weights(what: str) -> UsageError:
    return UsageError(f"--weights is for modules, and '{what}' is a graph", fix="leave it out, or capture the module with these weights")


def _from_file(path: Path, function: str, weights: Path | None) -> Subject:
    import torch

    loaded = import_file(path)
    builder = getattr(loaded, function, None)
    if not callable(builder):
        raise UsageError(f"{path} has no function '{function}'", fix=_near(function, [n for n in vars(loaded) if not n.startswith("_")]))
    result = builder()
    model, inputs = result if isinstance(result, tuple) else (result, None)  # pyright: ignore[reportUnknownVariableType]
    if isinstance(model, Graph):
        if weights is not None:
            raise _refused_weights(f"{path}:{function}")
        return Subject(function, graph=model)
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"{path}:{function} returned a {type(model).__name__}, needs a torch.nn.Module or (module, inputs)")
    if weights is not None:
        _load_weights(model, weights)
    return Subject(function, module=model, inputs=inputs)
