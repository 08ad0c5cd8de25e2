"""Hands out batches of trials to worker processes.

A batch that can't be compiled, or takes its process down, is cut in halves until the network is found that does it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.check_cpu.sanitizers import environment
from tools.check_cpu.trial import Outcome, Settings, Trial

__all__ = ["run_all"]

_REPOSITORY = Path(__file__).parents[2]
_LAST_LINES = 30


def run_all(
    trials: Sequence[Trial], settings: Settings, *, batch: int, jobs: int, seconds: float, report: Callable[[Trial, Outcome], None]
) -> None:
    """Run every trial, `batch` of them compiled together, `jobs` batches side by side; `report` is called once for each.

    `seconds` is what a network may take, waiting for the compiler included.
    """
    line = _Line([list(trials[start : start + batch]) for start in range(0, len(trials), batch)])

    variables = environment(settings.sanitize)
    errors: list[BaseException] = []

    def serve() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised again below, where somebody sees it
            errors.append(error)
            line.end()

    def work() -> None:
        worker: _Worker | None = None
        while (todo := line.take()) is not None:
            worker = worker or _Worker(settings, variables)
            outcomes, failure = worker.run(todo, seconds)
            if not worker.is_usable:
                worker.close()
                worker = None
            halves: list[list[Trial]] = []
            if failure and len(todo) > 1:
                halves = [todo[: len(todo) // 2], todo[len(todo) // 2 :]]
            else:
                with line.lock:
                    for trial, outcome in zip(todo, [Outcome(failure)] if failure else outcomes, strict=True):
                        report(trial, outcome)
            line.done(halves)
        if worker is not None:
            worker.close()

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class _Line:
    """Batches that wait. It ends when none waits and none is worked on: what is worked on may come back in halves."""

    def __init__(self, batches: list[list[Trial]]) -> None:
        self.lock = threading.Lock()
        self._waiting = deque(batches)
        self._taken = 0
        self._changed = threading.Condition(self.lock)

    def take(self) -> list[Trial] | None:
        """The next batch; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._taken)
            if not self._waiting:
                return None
            self._taken += 1
            return self._waiting.popleft()

    def end(self) -> None:
        """Give out no more."""
        with self._changed:
            self._waiting.clear()
            self._taken = 0
            self._changed.notify_all()

    def done(self, more: list[list[Trial]]) -> None:
        """A batch that was taken is finished, and these come out of it."""
        with self._changed:
            self._taken -= 1
            self._waiting.extend(more)
            self._changed.notify_all()


class _Worker:
    """A process that runs trials until it dies or is closed."""

    def __init__(self, settings: Settings, variables: dict[str, str]) -> None:
        self._errors: Any = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        self.is_usable = True
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.check_cpu.worker", json.dumps(asdict(settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=_REPOSITORY,
            env=os.environ | variables,
        )

    def run(self, trials: Sequence[Trial], seconds: float) -> tuple[list[Outcome], str]:
        """Outcomes, or why there are none."""
        assert self._process.stdin is not None, "it was opened with pipes"
        assert self._process.stdout is not None, "it was opened with pipes"
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(trials).encode() + b"\n")
            self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], seconds * len(trials))
        if not ready:
            self.is_usable = False
            return [], f"took more than {seconds:.0f} seconds"
        line = self._process.stdout.readline()
        if not line:
            self.is_usable = False
            return [], self._last_words()
        found: dict[str, Any] = json.loads(line)
        if "failure" in found:
            return [], found["failure"]
        return [Outcome(**entry | {key: tuple(entry[key]) for key in ("algorithms", "foreign")}) for entry in found["outcomes"]], ""

    def _last_words(self) -> str:
        """Signal or exit code, and the end of what it printed, or the sanitizer's report."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        start = next(
            (index for index, line in enumerate(lines) if "Sanitizer" in line or "runtime error" in line), max(0, len(lines) - _LAST_LINES)
        )
        return f"the process ended with {code}\n" + "\n".join(lines[start : start + _LAST_LINES])

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        pipes: tuple[Any, ...] = (self._process.stdin, self._process.stdout, self._errors)
        for pipe in pipes:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
