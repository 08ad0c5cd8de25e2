"""Worker processes of which one at a time is awake.

Thread pools spin for a while after a run. An arm that waits for its turn is stopped (SIGSTOP), so nothing of it
can take a core from the arm whose turn it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Worker", "WorkerError"]

_REPOSITORY = Path(__file__).parents[2]


class WorkerError(RuntimeError):
    """A worker could not load its network, died, or took too long."""


@dataclass
class Worker:
    """An arm's process. Use it as a context manager: it is killed at the end."""

    arm: str
    name: str
    folder: Path
    threads: int
    cores: Sequence[int]
    seconds_to_load: float = 600.0
    version: str = ""
    note: str = ""
    loading: float = 0.0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _log: Any = field(default=None, repr=False)

    def __enter__(self) -> Worker:
        command = [sys.executable, "-m", "tools.bench_cpu.worker", self.arm, self.name, str(self.folder.resolve())]
        command += ["--threads", str(self.threads), "--cores", ",".join(map(str, self.cores))]
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, cwd=_REPOSITORY)
        try:
            reply = self._reply(self.seconds_to_load)
            if "failed" in reply:
                raise WorkerError(reply["failed"])
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.version, self.note, self.loading = reply["ready"]["version"], reply["ready"]["note"], reply["ready"]["seconds"]
        self._signal(signal.SIGSTOP)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        if self._log is not None:
            self._log.close()

    @property
    def pid(self) -> int:
        """The process id, for looking at what it does."""
        assert self._process is not None, "the worker was entered"
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """False once the process has ended."""
        return self._process is not None and self._process.poll() is None

    def turn(self, seconds: float, least: int = 2) -> list[float]:
        """Milliseconds of each of its runs: one after the other for so many seconds, at least so many.

        Raises:
            WorkerError: it died or does not answer.
        """
        return self._ask({"do": "turn", "seconds": seconds, "least": least}, 120 + 20 * seconds)["milliseconds"]

    def error(self) -> float:
        """Its largest error against the float64 reference, relative to the largest value.

        Raises:
            WorkerError: it died or does not answer.
        """
        return float(self._ask({"do": "error"}, 300)["error"])

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        assert self._process is not None, "the worker was entered"
        assert self._process.stdin is not None, "it was opened with pipes"
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            return self._reply(seconds)
        except BrokenPipeError as error:
            raise WorkerError(f"{self.arm} died: {self._last_words()}") from error
        finally:
            self._signal(signal.SIGSTOP)

    def _reply(self, seconds: float) -> dict[str, Any]:
        assert self._process is not None, "the worker was entered"
        assert self._process.stdout is not None, "it was opened with pipes"
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            raise WorkerError(f"{self.arm} did not answer within {seconds:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"{self.arm} died: {self._last_words()}")
        return json.loads(line)

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:])[-400:] or "it printed nothing"

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
