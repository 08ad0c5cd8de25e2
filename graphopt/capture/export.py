"""Calls torch.export, with the model in eval mode, and translates what it raises.

The model is left as it was found: every sub-module gets its own mode back.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import sys
import traceback
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from graphopt.capture.names import is_torch_file, short_file
from graphopt.errors import CaptureError, ExampleInputError, GraphoptWarning, UnsupportedModelError

__all__ = ["check_signature", "evaluation_mode", "export_model"]

WAYS_OUT = (
    "capture a sub-module that does not decide on tensor values (for a detector its backbone), "
    "write the decision with torch.cond or torch.where, or make the sizes that it depends on static"
)


def export_model(
    model: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    dynamic_shapes: Mapping[str, object] | None,
    *,
    announce: bool = True,
) -> ExportedProgram:
    """The graph of a model before decomposition, in eval mode and without gradients; `announce` says whether to warn of train mode.

    Raises:
        ExampleInputError: the inputs do not fit the model.
        UnsupportedModelError: the model can't be traced; the message names its line.
        CaptureError: the dynamic dimensions do not fit the model.
    """
    try:
        with evaluation_mode(model, announce=announce), torch.no_grad(), _quiet():
            return torch.export.export(model, args, dict(kwargs), dynamic_shapes=dynamic_shapes, strict=False)
    except Exception as error:  # a model's forward may raise anything; it stays the cause
        raise _translate(error, model, args, kwargs) from error


@contextmanager
def evaluation_mode(model: nn.Module, *, announce: bool = True) -> Generator[None]:
    """Put a model into eval mode, and every sub-module back into its own mode and flags afterwards.

    The change to train mode first, and again at the end, is what makes modules drop tensors that they keep
    from an earlier eval run (timm's attention bias caches): frozen into the graph, such a tensor would cut
    off the parameter that it came from; left behind by tracing, it would be a fake one.
    """
    found = [(module, _plain_attributes(module)) for module in model.modules()]
    training = sum(module.training for module, _ in found)
    switchable = _switch(model)
    if training and switchable and announce:
        warnings.warn(
            f"the model is in train mode ({training} of {len(found)} modules): it is captured in eval mode, and left in train mode. "
            "Batch norms and dropouts of the graph still follow train() and eval() of the module made from it",
            GraphoptWarning,
            stacklevel=6,
        )
    try:
        yield
    finally:
        if switchable:
            _switch(model)
        for module, attributes in found:
            for name, value in attributes.items():
                if module.__dict__.get(name) is not value:
                    setattr(module, name, value)


@contextmanager
def _quiet() -> Generator[None]:
    """Keep torch from printing its graph and its log of a failure: the exception that follows says it once.

    What the model itself prints appears when tracing succeeds.
    """
    printed = io.StringIO()
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stderr(printed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
            # torch puts these attributes back itself, and a graph is one call: there is nothing to do about it.
            warnings.filterwarnings("ignore", message=".*assigned during export.*")
            yield
    finally:
        logging.disable(level)
    sys.stderr.write(printed.getvalue())


def _plain_attributes(module: nn.Module) -> dict[str, object]:
    """Flags and numbers that a module keeps, its mode among them. Tracing runs forward, which may change them
    (rwkv notes that it has rescaled its weights) while the tensors that go with them are put back by torch."""
    return {name: value for name, value in vars(module).items() if isinstance(value, bool | int | float | str)}


def _switch(model: nn.Module) -> bool:
    """Train mode and back to eval mode; False where the model can't switch, as modules of exported programs."""
    try:
        model.train()
        model.eval()
    except NotImplementedError:
        return False
    return True


def check_signature(model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
    """Check that a model's forward takes these arguments.

    Raises:
        ExampleInputError: too many, too few or unknown ones; the message shows the signature and what was given.
    """
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return  # a forward without signature (made in C): the call itself will tell
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        given = [_describe(item) for item in args] + [f"{name}={_describe(item)}" for name, item in kwargs.items()]
        raise ExampleInputError(
            f"the example inputs do not fit {type(model).__name__}.forward{signature}: {error}; got ({', '.join(given)})",
            fix="pass one example per parameter: capture(model, (x, ...), kwargs={...})",
        ) from error


def _describe(item: object) -> str:
    if isinstance(item, torch.Tensor):
        return f"{str(item.dtype).removeprefix('torch.')}[{','.join(map(str, item.shape))}]"
    return repr(item) if isinstance(item, bool | int | float | str | type(None)) else type(item).__name__


def _translate(error: Exception, model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> CaptureError:
    if isinstance(error, CaptureError):
        return error
    where = _user_line(error)
    text = _first_lines(error)
    kind = type(error).__name__
    if "data-dependent" in str(error).lower() or kind in ("GuardOnDataDependentSymNode", "DataDependentOutputException"):
        return UnsupportedModelError(
            f"{type(model).__name__} decides or sizes something by the values of a tensor, which a graph can't follow: {text}",
            where=where,
            fix=WAYS_OUT,
        )
    # torch 2.11 keeps outputs in a weak dictionary, which fails on classes that it does not know.
    if "not a known type" in str(error) or (kind == "TypeError" and "weakref.py" in (where or "")):
        return UnsupportedModelError(
            f"{type(model).__name__} returns a class that torch can't take apart: {text}",
            where=where,
            fix="return tensors in tuples, lists and dicts, or register the class: torch.export.register_dataclass(Output)",
        )
    if (
        "user-specified ranges" in str(error)
        or "onstraints violated" in str(error)
        or "dynamic_shapes" in str(error)
        or ("marked" in str(error) and "dynamic" in str(error))
    ):
        return CaptureError(
            f"the dynamic dimensions do not fit {type(model).__name__}: {_long(error)}",
            where=where,
            fix="leave that axis out of dynamic=, or give the range that the model needs with torch.export.Dim(name, min=..., max=...)",
        )
    if kind in (
        "UserError",
        "Unsupported",
        "InternalTorchDynamoError",
        "UnsupportedOperatorException",
        "SpecViolationError",
    ) or "pytree" in str(error):
        return UnsupportedModelError(f"{type(model).__name__} can't be traced: {_long(error)}", where=where, fix=WAYS_OUT)
    given = [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, torch.Tensor)]
    return ExampleInputError(
        f"{type(model).__name__} fails on the example inputs ({', '.join(map(_describe, given))}): {kind}: {text}",
        where=where,
        fix=_mismatch(model, given) or "pass inputs with which the model runs: model.eval()(*inputs)",
    )


def _mismatch(model: nn.Module, given: list[torch.Tensor]) -> str | None:
    """A difference between inputs and parameters in dtype or device, said in one sentence."""
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    if not parameters:
        return None
    devices = {str(p.device) for p in parameters}
    dtypes = {str(p.dtype).removeprefix("torch.") for p in parameters}
    for tensor in given:
        if str(tensor.device) not in devices:
            return f"an input is on {tensor.device}, the parameters are on {', '.join(sorted(devices))}: move one to the other"
        name = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_floating_point() and name not in dtypes:
            return f"an input is {name}, the parameters are {', '.join(sorted(dtypes))}: convert one to the other"
    return None


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _long(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("The error above occurred when calling")]
    return " ".join(lines[:4]).replace('For more information, run with TORCH_LOGS="+dynamic". ', "")[:600] or type(error).__name__


def _user_line(error: BaseException) -> str | None:
    """File and line of the innermost frame of the traceback that is neither torch's nor ours."""
    found: str | None = None
    for frame in traceback.extract_tb(error.__traceback__):
        file = frame.filename
        if not is_torch_file(file) and "/graphopt/capture/" not in file.replace("\\", "/"):
            found = f"{short_file(file)}:{frame.lineno}" + (f": {frame.line.strip()}" if frame.line else "")
    return found
