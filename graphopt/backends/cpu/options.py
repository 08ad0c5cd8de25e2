"""Options of the CPU backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from graphopt.backends.cpu.isa import available_cores
from graphopt.errors import BackendError

__all__ = ["CpuOptions"]

ISAS = ("native", "avx512", "avx2", "generic")


@dataclass(frozen=True, slots=True)
class CpuOptions:
    """How a network is lowered.

    `threads` work on one run; 0 is as many as this process may use. `isa` is `native` (the best of the others that
    this machine runs), `avx512`, `avx2` or `generic`. `measure` times the candidates of each layer on this machine,
    with results kept in the cache; without it a cost model picks.
    """

    threads: int = 0
    isa: str = "native"
    measure: bool = True

    @staticmethod
    def parse(given: Mapping[str, Any]) -> CpuOptions:
        """Options from keywords, checked.

        Raises:
            BackendError: an unknown option, or a value of the wrong type or range.
        """
        known = {entry.name for entry in fields(CpuOptions)}
        for name in given:
            if name not in known:
                raise BackendError(f"cpu has no option '{name}'", fix=f"options: {', '.join(sorted(known))}")
        made = CpuOptions(**given)
        if isinstance(made.threads, bool) or not isinstance(made.threads, int) or not 0 <= made.threads <= 1024:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BackendError(f"threads is {made.threads!r}, needs an integer from 0 to 1024")
        if made.isa not in ISAS:
            raise BackendError(f"isa is {made.isa!r}, needs one of {', '.join(ISAS)}")
        if not isinstance(made.measure, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BackendError(f"measure is {made.measure!r}, needs true or false")
        return made

    @property
    def thread_count(self) -> int:
        """The number of threads, with 0 resolved for this process."""
        return self.threads or available_cores()

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the manifest; `parse` reads it."""
        return asdict(self)
