"""Runs trials in a process that may crash: a line `[["convnet", 3], ...]` comes in, a line of JSON goes out."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
import warnings
from dataclasses import asdict
from typing import Any

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Serve until the input ends. Replies go to what was standard output; libraries print to standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", help="JSON")
    options = parser.parse_args(arguments)
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    os.environ.pop("LD_PRELOAD", None)  # the sanitizers' runtimes are in this process; the compiler is not to be checked
    warnings.filterwarnings("ignore")

    import torch

    from tools.check_cpu.trial import Settings, run_trials

    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(options.settings)
    found["threads"] = tuple(found["threads"])
    settings = Settings(**found)
    for line in sys.stdin:
        trials = [(str(kind), int(seed)) for kind, seed in json.loads(line)]
        try:
            with torch.no_grad():
                reply: dict[str, Any] = {"outcomes": [asdict(outcome) for outcome in run_trials(trials, settings)]}
        except Exception as error:  # noqa: BLE001  # an exception that no one raised on purpose is a finding
            frames = traceback.extract_tb(error.__traceback__)
            where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "?"
            reply = {"failure": f"{type(error).__name__} at {where}: {error}"}
        replies.write(json.dumps(reply) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
