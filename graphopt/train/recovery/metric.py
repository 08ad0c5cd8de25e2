"""The caller's metric as one finite number, or one error that says why it is none."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from graphopt.errors import GraphoptError, UsageError
from graphopt.train.recovery.network import Network

__all__ = ["measured"]


def measured(metric: Callable[[torch.nn.Module], float], network: Network) -> float:
    """The metric of the network as it is now; random numbers that it draws change nothing.

    Raises:
        UsageError: it raises, or returns no finite number.
    """
    module = network.publish()
    try:
        with torch.random.fork_rng(devices=[]):
            found: object = metric(module)
    except GraphoptError:
        raise
    except Exception as error:
        raise UsageError(f"the metric raised {type(error).__name__}: {error}", fix="call it with the module by itself") from error
    finally:
        module.eval()
    try:
        value = float(found)  # pyright: ignore[reportArgumentType]  # whatever is no number raises
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"the metric returned a {type(found).__name__}, needs one number") from error
    if not math.isfinite(value):
        raise UsageError(
            f"the metric is {value}, needs a finite number",
            fix="call it with the module by itself; if training made the weights NaN, use a smaller lr",
        )
    return value
