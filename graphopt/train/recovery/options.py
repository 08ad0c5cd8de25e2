"""What `recover` was asked for, looked at before anything runs: a wrong number would end a run hours later, or quietly change it."""

from __future__ import annotations

from typing import cast

from graphopt.errors import UsageError
from graphopt.pipeline.context import Metric
from graphopt.train.checks import is_whole
from graphopt.train.recovery.network import Network

__all__ = ["check_choices", "check_counts", "check_frozen", "check_length", "check_memory", "check_metric", "check_micro_batch"]

_NEEDED = ("seed", "checkpoint_every", "batch_norm_batches")
"""Counts that can't be left out by None."""


def check_counts(least: int | None, **counts: object) -> None:
    """Refuse what is no whole number, or less than `least`. None leaves an option out, where that has a meaning.

    Raises:
        UsageError: with the option's name.
    """
    for name, number in counts.items():
        if number is None and name not in _NEEDED:
            continue
        if not is_whole(number):
            raise UsageError(f"{name} is {number!r}, needs a whole number")
        if least is not None and int(cast("int", number)) < least:
            raise UsageError(f"{name} is {number}, needs at least {least}")


def check_length(epochs: object, steps: object) -> None:
    """Refuse two lengths at once.

    Raises:
        UsageError: both were given.
    """
    if epochs is not None and steps is not None:
        raise UsageError(f"epochs={epochs} and steps={steps} were both given", fix="give one of them")


def check_choices(lr_schedule: object, batch_norms: object, features: object) -> None:
    """Refuse words that mean nothing here.

    Raises:
        UsageError: with what would mean something.
    """
    if lr_schedule not in ("cosine", "constant"):
        raise UsageError(f"lr_schedule is {lr_schedule!r}, needs 'cosine' or 'constant'")
    if batch_norms not in ("train", "frozen"):
        raise UsageError(f"batch_norms is {batch_norms!r}, needs 'train' or 'frozen'")
    if isinstance(features, str):  # its letters would be patterns
        raise UsageError(f"features is the text '{features}', needs a tuple of patterns", fix=f"features=('{features}',)")


def check_metric(metric: Metric | None, patience: int | None, evaluate_every: int | None) -> None:
    """Refuse a metric that can't be called, and options that wait for one.

    Raises:
        UsageError: with what is missing.
    """
    if metric is None and (patience is not None or evaluate_every is not None):
        raise UsageError("patience and evaluate_every were given without a metric, which they wait for", fix="pass metric=function(module)")
    if metric is not None and not callable(metric):  # pyright: ignore[reportUnnecessaryComparison]  # callers may be untyped
        raise UsageError(f"metric is a {type(metric).__name__}, needs a function of a module that returns a number")


def check_memory(memory: object) -> None:
    """Refuse an `activation_memory` that is no size.

    Raises:
        UsageError: it is neither bytes nor 'least'.
    """
    if memory is None or memory == "least" or (isinstance(memory, int) and not isinstance(memory, bool) and memory >= 1):
        return
    raise UsageError(f"activation_memory is {memory!r}, needs bytes or 'least'", fix="activation_memory=2 << 30")


def check_frozen(student: Network) -> None:
    """Refuse to freeze batch norms that can't be.

    Raises:
        UsageError: one computes with the statistics of its batch in every mode.
    """
    norm = student.mixes_rows()
    if norm is not None:
        raise UsageError(
            f"batch_norms is 'frozen', and '{norm}' computes with the statistics of its batch whatever the mode is",
            fix="give the result of optimize or its graph in place of a module that was made of one; a batch norm needs running statistics",
        )


def check_micro_batch(student: Network) -> None:
    """Refuse pieces of batches where a layer looks at all rows at once.

    Raises:
        UsageError: there is a batch norm.
    """
    norm = student.mixes_rows()
    if norm is not None:
        raise UsageError(
            f"micro_batch was given, and '{norm}' is a batch norm: it computes with the statistics of all rows that it sees at once",
            fix='batch_norms="frozen", or smaller batches in place of micro_batch, or fold them into their layers first: fold-batch-norm',
        )
