"""Who runs when: the canary, every arm once, the canary again; then the next round, starting with the next arm."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from tools.bench_cpu.arms import OURS
from tools.bench_cpu.machine import Load, describe
from tools.bench_cpu.pool import Worker, WorkerError
from tools.bench_cpu.prepare import workload_folder
from tools.bench_cpu.records import ArmRecord, Case, Round, Session

__all__ = ["CANARY", "Settings", "measure"]

CANARY = "mobilenet_v2"
"""Run by ONNX Runtime around each round. It is quick to notice that something else runs on the machine."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much to measure: rounds, seconds of a turn, and for how long a worker may load (compilers take a while)."""

    rounds: int = 9
    seconds: float = 0.12
    least: int = 2
    loading: float = 900.0
    lock: Path | None = None


def measure(case: Case, arms: Sequence[str], root: Path, cores: Sequence[int], settings: Settings, say: Callable[[str], None]) -> Session:
    """Load the arms, one process each, and run the rounds. An arm that fails is recorded with its reason.

    Raises:
        WorkerError: the canary does not run.
    """
    records: dict[str, ArmRecord] = {}
    rounds: list[Round] = []
    with contextlib.ExitStack() as stack:
        say("loading the canary")
        canary = stack.enter_context(Worker("onnxruntime", CANARY, workload_folder(root, CANARY, 1), case.threads, cores))
        workers: dict[str, Worker] = {}
        for arm in arms:
            say(f"loading {arm}")
            worker = Worker(arm, case.model, workload_folder(root, case.model, case.batch), case.threads, cores, settings.loading)
            try:
                with _held(settings.lock if arm == OURS else None):  # ours measures while it loads
                    workers[arm] = stack.enter_context(worker)
                error = worker.error()
                records[arm] = ArmRecord(worker.version, worker.note, worker.loading, error)
            except WorkerError as error:
                records[arm] = ArmRecord(failure=str(error))
                workers.pop(arm, None)
        for number in range(settings.rounds):
            say(f"round {number + 1} of {settings.rounds}")
            try:
                with _held(settings.lock):
                    rounds.append(_round(canary, workers, number, settings))
            except WorkerError as error:
                dead = next((arm for arm, worker in workers.items() if not worker.is_alive), None)
                if dead is None:
                    raise
                records[dead] = ArmRecord(failure=str(error))
                del workers[dead]
    return Session(case, records, rounds, describe(), datetime.now(UTC).isoformat(timespec="seconds"))


def _round(canary: Worker, workers: Mapping[str, Worker], number: int, settings: Settings) -> Round:
    order = list(workers)
    shift = number % max(len(order), 1)
    load = Load([canary.pid, *(worker.pid for worker in workers.values())])
    before = median(canary.turn(settings.seconds / 3))
    times = {arm: median(workers[arm].turn(settings.seconds, settings.least)) for arm in order[shift:] + order[:shift]}
    after = median(canary.turn(settings.seconds / 3))
    return Round((before, after), times, load.of_others())


@contextlib.contextmanager
def _held(lock: Path | None) -> Generator[None]:
    """Hold an advisory lock meanwhile, for machines on which several people measure."""
    if lock is None:
        yield
        return
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)
