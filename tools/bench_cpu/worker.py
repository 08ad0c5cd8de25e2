"""One arm in a process of its own, driven by lines of JSON: `python -m tools.bench_cpu.worker <arguments>`.

    {"do": "turn", "seconds": 0.15, "least": 2}  ->  {"milliseconds": [3.9, 3.8, ...]}
    {"do": "error"}                              ->  {"error": 4.1e-07}
    {"do": "quit"}

The first line it writes is {"ready": {...}} or {"failed": "why"}. Replies go to the descriptor that was its standard output;
whatever a library prints goes to standard error.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_LONGEST_TURN = 64


def _settle_in(cores: list[int], threads: int) -> None:
    """Keep to the cores, and go when the driver goes, even while stopped. Before any library starts its threads."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.sched_setaffinity(0, cores)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)


def _turn(run: Any, seconds: float, least: int) -> list[float]:
    """Milliseconds of single runs for so long; one untimed run first brings weights back into the caches."""
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or (time.perf_counter() < end and len(times) < _LONGEST_TURN):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def main(arguments: list[str] | None = None) -> int:
    """Load, say so, and serve until told to quit or the driver closes the pipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arm")
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--cores", required=True, help="comma-separated")
    options = parser.parse_args(arguments)
    _settle_in([int(core) for core in options.cores.split(",")], options.threads)
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.filterwarnings("ignore")

    from tools.bench_cpu.arms import make

    start = time.perf_counter()
    try:
        ready = make(options.arm, options.folder, options.folder.parent, options.name, options.threads)
        ready.run()
    except Exception as error:  # noqa: BLE001  # the driver reports it
        replies.write(json.dumps({"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]}) + "\n")
        return 1
    seconds = round(time.perf_counter() - start, 2)
    replies.write(json.dumps({"ready": {"version": ready.version, "note": ready.note, "seconds": seconds}}) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        match request["do"]:
            case "turn":
                reply: dict[str, Any] = {"milliseconds": _turn(ready.run, request["seconds"], request["least"])}
            case "error":
                from tools.bench_cpu.errors import error_of

                reply = {"error": error_of(ready.outputs(), options.folder)}
            case _:
                break
        replies.write(json.dumps(reply) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
