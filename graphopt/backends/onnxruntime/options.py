"""Options of a session: which providers, how many threads, how far to optimise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import onnxruntime

from graphopt.errors import BackendError

__all__ = ["SessionOptions"]

_LEVELS = {
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

_CONFIG = {"session.force_spinning_stop": "1"}
"""Threads stop spinning when a run ends. Otherwise they burn the cores that other sessions, or torch, want next, and a
comparison of two sessions in turn measures that. `session_config` has the last word."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How sessions are made.

    `providers` are ONNX Runtime's execution providers in order of preference. `threads` work inside one op,
    `inter_op_threads` run ops side by side; 0 leaves the number to ONNX Runtime. `optimization` is `disabled`,
    `basic`, `extended` or `all`. `session_config` are further entries by ONNX Runtime's own keys; threads stop spinning
    after a run unless `session.force_spinning_stop` is set to 0.
    `strict_nan` adds nodes where kernels overlook NaN (max pools, amax, amin, argmax, argmin).
    `decompose_attention` writes attention in basic ops, for runtimes without the Attention op.
    """

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    threads: int = 0
    inter_op_threads: int = 0
    optimization: str = "all"
    session_config: Mapping[str, str] = field(default_factory=dict[str, str])
    strict_nan: bool = False
    decompose_attention: bool = False

    @staticmethod
    def parse(given: Mapping[str, Any]) -> SessionOptions:
        """Options from keywords, checked.

        Raises:
            BackendError: an unknown option, a value of the wrong type or range, or a provider that is not there.
        """
        known = {entry.name for entry in fields(SessionOptions)}
        for name in given:
            if name not in known:
                raise BackendError(f"onnxruntime has no option '{name}'", fix=f"options: {', '.join(sorted(known))}")
        made = SessionOptions(
            providers=_names(given.get("providers")),
            threads=_count(given, "threads"),
            inter_op_threads=_count(given, "inter_op_threads"),
            optimization=_level(given.get("optimization", "all")),
            session_config=_entries(given.get("session_config", {})),
            strict_nan=_flag(given, "strict_nan"),
            decompose_attention=_flag(given, "decompose_attention"),
        )
        made.check_providers()
        return made

    def check_providers(self) -> None:
        """Check that every provider is there.

        Raises:
            BackendError: one is not; the message names those that are.
        """
        available = onnxruntime.get_available_providers()
        for name in self.providers:
            if name not in available:
                raise BackendError(f"execution provider '{name}' is not available", fix=f"available: {', '.join(available)}")

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the manifest; `parse` reads it."""
        return {**asdict(self), "providers": list(self.providers), "session_config": dict(self.session_config)}

    def native(self) -> Any:
        """ONNX Runtime's own options.

        Raises:
            BackendError: it refuses an entry of `session_config`.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = self.inter_op_threads
        if self.inter_op_threads > 1:
            options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        options.graph_optimization_level = _LEVELS[self.optimization]
        for key, value in {**_CONFIG, **self.session_config}.items():
            try:
                options.add_session_config_entry(key, value)
            except RuntimeError as error:
                raise BackendError(f"ONNX Runtime refuses session_config {key!r}: {error}") from error
        return options


def _names(given: object) -> tuple[str, ...]:
    if given is None:
        return ("CPUExecutionProvider",)
    names = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise BackendError(f"providers is {given!r}, needs a list of names", fix='for example ["CPUExecutionProvider"]')
    return tuple(str(name) for name in names)


def _count(given: Mapping[str, Any], name: str) -> int:
    value = given.get(name, 0)
    if type(value) is not int or not 0 <= value <= 4096:
        raise BackendError(f"{name} is {value!r}, needs an integer from 0 to 4096")
    return value


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if type(value) is not bool:
        raise BackendError(f"{name} is {value!r}, needs true or false")
    return value


def _level(value: object) -> str:
    if not isinstance(value, str) or value not in _LEVELS:
        raise BackendError(f"optimization is {value!r}, needs one of {', '.join(_LEVELS)}")
    return value


def _entries(given: object) -> dict[str, str]:
    if not isinstance(given, Mapping) or not all(isinstance(k, str) and isinstance(v, str) for k, v in given.items()):
        raise BackendError(f"session_config is {given!r}, needs texts by text")
    return {str(key): str(value) for key, value in given.items()}
