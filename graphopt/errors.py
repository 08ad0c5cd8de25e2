"""Every error graphopt raises on purpose, as one tree.

    GraphoptError
    ├── IRError                      the graph, its text or its types are wrong
    │   ├── ParseError               IR text does not follow the grammar
    │   ├── VerifyError              a graph breaks an invariant of the IR
    │   ├── TypeInferenceError       operands of an op do not fit together
    │   └── SymbolError              a symbolic dimension has no value or is out of its range
    ├── CaptureError                 a model could not become a graph
    │   ├── ExampleInputError        example inputs are missing or do not fit the model
    │   └── UnsupportedModelError    the model holds something that can't be captured
    ├── PassError                    a pass or pipeline can't run
    │   ├── UnknownPassError         no pass of that name
    │   ├── PassOptionError          an option is unknown or has a bad value
    │   ├── PipelineOrderError       the passes are in an order that can't work
    │   └── BrokenPromiseError       a pass changed numbers more than it declared
    ├── BackendError                 a graph could not be lowered, built or run
    │   ├── LoweringError            the backend can't express the graph
    │   └── RunInputError            inputs given to an executable do not fit its signature
    ├── ArtifactError                a saved folder is missing, damaged or unsafe
    └── UsageError                   a command line or call that makes no sense

Each message says what is wrong, where, and how to fix it:

    >>> print(ParseError("expected ']' after the shape", line=3, column=14))
    line 3, column 14: expected ']' after the shape
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "BackendError",
    "BrokenPromiseError",
    "CaptureError",
    "ExampleInputError",
    "GraphoptError",
    "GraphoptWarning",
    "IRError",
    "LoweringError",
    "ParseError",
    "PassError",
    "PassOptionError",
    "PipelineOrderError",
    "RunInputError",
    "SymbolError",
    "TypeInferenceError",
    "UnknownPassError",
    "UnsupportedModelError",
    "UsageError",
    "VerifyError",
]


class GraphoptError(Exception):
    """Base of every error that graphopt raises on purpose.

    `what` is one sentence with both sides of the mismatch, `where` names the node, file or
    option, `fix` says what to do. `str(error)` prints them one to a line.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  at {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class GraphoptWarning(UserWarning):
    """Something that works but that the caller should know: a model captured in eval mode though it was
    in train mode, a parameter that the captured graph does not read."""


class IRError(GraphoptError):
    """The graph, its text or its types are wrong."""


class ParseError(IRError):
    """IR text does not follow the grammar of `graphopt.ir.parser`.

    Cause: a typing mistake, a truncated file, or a file of a newer version.
    Example: `parse("graph f(%x: f32[2) {")`.
    Fix: the message has line and column (both from 1) of the first character that does not fit.
    """

    def __init__(self, what: str, *, line: int, column: int, fix: str | None = None) -> None:
        super().__init__(f"line {line}, column {column}: {what}", fix=fix)
        self.line = line
        self.column = column


class VerifyError(IRError):
    """A graph breaks an invariant: a value defined twice, used before its definition, a stored
    type that the op's rule does not give, a use list that does not match, an unknown symbol.

    Cause: a pass that edited the graph wrongly, or hand-written text.
    Example: `%y: f32[2] = relu(%x)` where `%x: f32[3]`.
    Fix: the message names the node, the stored and the expected type.
    """


class TypeInferenceError(IRError):
    """Operands of an op do not fit together: shapes, dtypes or attributes.

    Example: `add(%a: f32[1,48,56,56], %b: f32[1,64,56,56])`.
    Fix: the message has both shapes and the axis on which they differ.
    """


class SymbolError(IRError):
    """A symbolic dimension has no value, two values, or one outside its range.

    Example: running a graph with `batch in [1, 64]` on a batch of 128.
    Fix: pass inputs inside the range, or capture with a wider one.
    """


class CaptureError(GraphoptError):
    """A model could not become a graph."""


class ExampleInputError(CaptureError):
    """Example inputs are missing, or their number, dtype, shape or device does not fit the model.

    Example: `capture(torch.nn.Linear(4, 4))`.
    Fix: `capture(model, (torch.randn(1, 4),))`.
    """


class UnsupportedModelError(CaptureError):
    """The model holds something that can't be captured: data-dependent control flow,
    parameters on the meta device, sparse or quantised tensors.

    Fix: the message names the line of the model and the ways out, for example capturing a sub-module.
    """


class PassError(GraphoptError):
    """A pass or a pipeline can't run."""


class UnknownPassError(PassError):
    """No pass of that name is registered. The message lists near names."""


class PassOptionError(PassError):
    """A pass option is unknown or has a value of the wrong type or range.

    Example: `"fold-constants{max_bytes=many}"`.
    """


class PipelineOrderError(PassError):
    """The passes are in an order that can't work, for example a training-safe pass that needs
    batch norms after a deploy pass that folds them away."""


class BrokenPromiseError(PassError):
    """A pass changed numbers more than its numeric class allows.

    The pass manager rolls the pass back and records this in the report; it is raised only when
    the caller asked for strict checking.
    """


class BackendError(GraphoptError):
    """A graph could not be lowered, built or run."""


class LoweringError(BackendError):
    """The backend can't express the graph. The message names the node and the op."""


class RunInputError(BackendError):
    """Inputs given to an executable do not fit its signature: number, dtype or shape.

    Example: a `f32[1,3,224,224]` input given as float64.
    """


class ArtifactError(GraphoptError):
    """A saved folder is missing, damaged, of a newer version, or unsafe to read.

    Nothing of it was loaded and no code in it was run.
    """


class UsageError(GraphoptError):
    """A command line or call that makes no sense: an unknown model specification, two options
    that exclude each other."""
