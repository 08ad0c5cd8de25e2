"""What a backend is, and how one is found.

    executable = lower(graph, "onnxruntime", threads=2)
    executable(x)                     the model's own call and output
    executable.run([x])               flat inputs, flat outputs
    executable.save("folder/")

A backend is registered by name and imported when it is first used:

    register_backend("tpu", "my_package.tpu:TpuBackend")
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.analysis.table import counted
from graphopt.backends.calling import flatten_call, restore_output
from graphopt.errors import BackendError, RunInputError, UsageError
from graphopt.ir.graph import Graph

if TYPE_CHECKING:
    import torch

__all__ = ["Backend", "Executable", "backend", "backends", "lower", "register_backend"]


class Executable(ABC):
    """A graph made ready to run.

    Calling it takes what the model took, as torch tensors or numpy arrays, and returns what the model
    returned; the results are numpy arrays when every input was one.
    """

    def __init__(self, graph: Graph, report: Sequence[str] = ()) -> None:
        self._graph = graph
        self._report = tuple(report)

    @property
    def graph(self) -> Graph:
        """The graph that runs."""
        return self._graph

    @property
    def report(self) -> tuple[str, ...]:
        """One line per decision of the backend: what runs where, and why."""
        return self._report

    @abstractmethod
    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The flat outputs for flat inputs, without gradients.

        Raises:
            RunInputError: number, dtype or shape of the inputs do not fit.
            SymbolError: a size is outside the range of its symbol.
        """

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write the executable to a folder, without pickle."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run with the model's own arguments.

        Raises:
            RunInputError: the arguments do not fit the call that was captured.
        """
        import numpy

        flat = flatten_call(self.graph, args, kwargs)
        as_arrays = bool(flat) and all(isinstance(given, numpy.ndarray) for given in flat)
        outputs: Sequence[Any] = self.run([self._tensor(index, given) for index, given in enumerate(flat)])
        if as_arrays:
            outputs = [output.cpu().numpy() for output in outputs]
        return restore_output(self.graph.structure, outputs)

    def _tensor(self, index: int, given: Any) -> torch.Tensor:
        import numpy
        import torch

        if isinstance(given, torch.Tensor):
            return given
        if isinstance(given, numpy.ndarray):
            plain = given.flags.writeable and all(stride >= 0 for stride in given.strides)
            with contextlib.suppress(TypeError, ValueError):  # a dtype or byte order that torch does not have
                return torch.from_numpy(given if plain else numpy.array(given, order="C"))
        value = self.graph.inputs[index]
        raise RunInputError(f"input {index} (%{value.name}) is a {_kind(given)}, needs a torch tensor or numpy array {value.type.text}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.graph.name}: {counted(self.graph.node_count, 'node')}>"


def _kind(given: object) -> str:
    dtype = getattr(given, "dtype", None)
    return type(given).__name__ + (f" of {dtype}" if dtype is not None else "")


class Backend(ABC):
    """Makes executables from graphs."""

    name: ClassVar[str]

    @abstractmethod
    def lower(self, graph: Graph, **options: Any) -> Executable:
        """Make the graph ready to run.

        Raises:
            BackendError: an option is unknown, or the graph can't be expressed.
        """

    def load(self, path: str | Path) -> Executable:
        """Read back what `Executable.save` wrote.

        Raises:
            BackendError: this backend's executables can't be read back.
        """
        raise BackendError(f"backend '{self.name}' can't load executables", where=str(path), fix="load the graph and lower it again")


_BACKENDS: dict[str, str] = {
    "cpu": "graphopt.backends.cpu.backend:CpuBackend",
    "cuda": "graphopt.backends.cuda.backend:CudaBackend",
    "onnxruntime": "graphopt.backends.onnxruntime:OnnxRuntimeBackend",
    "reference": "graphopt.backends.reference.backend:ReferenceBackend",
    "torch": "graphopt.backends.torch.backend:TorchBackend",
}


def register_backend(name: str, target: str) -> None:
    """Make a backend known under a name; `target` is `module:Class`, imported when it is first used.

    Raises:
        BackendError: the name is taken by another target, or `target` has another form.
    """
    if _BACKENDS.get(name, target) != target:
        raise BackendError(f"backend '{name}' is registered as {_BACKENDS[name]}, can't be {target} too")
    module, _, class_name = target.partition(":")
    if not module or not class_name.isidentifier():
        raise BackendError(f"backend '{name}' is registered as '{target}', needs 'module:Class'")
    _BACKENDS[name] = target


def backends() -> Mapping[str, str]:
    """Names of all backends and where each lives."""
    return dict(sorted(_BACKENDS.items()))


def backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        BackendError: there is none, the message lists near names; or it can't be imported.
    """
    target = _BACKENDS.get(name)
    if target is None:
        near = difflib.get_close_matches(name, _BACKENDS, n=3) or sorted(_BACKENDS)
        raise BackendError(f"no backend is called '{name}'", fix=f"near names: {', '.join(near)}")
    module_name, _, class_name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise BackendError(f"backend '{name}' can't be imported from {target}: {error}") from error
    made = found()
    if not isinstance(made, Backend):
        raise BackendError(f"backend '{name}' is {target}, which is no Backend")
    return made


def lower(graph: Graph, target: str = "onnxruntime", **options: Any) -> Executable:
    """Make a graph ready to run on a backend.

    Raises:
        BackendError: no such backend, an unknown option, or the backend can't express the graph.
        UsageError: `graph` is no graph.
    """
    if not isinstance(graph, Graph):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise UsageError(f"lower takes a Graph, got {type(graph).__name__}", fix="lower(capture(model, inputs), target)")
    return backend(target).lower(graph, **options)
