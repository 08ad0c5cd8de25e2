"""The same random numbers in every run of a graph, and the user's generators left as they were."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int = 0) -> Generator[None]:
    """Within, torch draws the numbers of `seed`; then its generators go on where they were.

    CUDA generators take part once CUDA is in use. Before that, `torch.manual_seed` would note the seed for later,
    and nobody would take it back.
    """
    import torch

    if torch.cuda.is_initialized():
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            yield
        return
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
