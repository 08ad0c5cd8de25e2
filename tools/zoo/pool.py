"""One process per model: forked from a warm parent, so that importing torch is paid once, with limits on time and memory."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

__all__ = ["HEAVY", "Examine", "run_all"]

HEAVY = (
    "regnet_y_128gf",
    "regnet_y_32gf",
    "regnet_x_32gf",
    "regnet_y_16gf",
    "regnet_x_16gf",
    "vit_h_14",
    "vit_l_",
    "vgg",
    "aimv2_large",
    "deepseek_vit_412m",
    "convnext_large",
    "wide_resnet101",
    "resnext101",
    "mobilenetv5",
    "samvit",
    "naflexvit",
)
"""Parts of names of models that need more than half of the machine's memory in float64."""

Examine = Callable[[str], dict[str, Any]]
"""Name of a model to its record; called in the model's own process, must not raise."""


def _child(name: str, examine: Examine, memory: int, channel: Connection) -> None:
    import torch

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # for the life of this process
    torch.set_num_threads(1)
    channel.send(examine(name))


def run_all(names: Sequence[str], examine: Examine, *, workers: int, limit: float, memory: int) -> Iterator[dict[str, Any]]:
    """Records of all models as they finish; of one that is stopped, `failed` is "process". Heavy ones run last, alone.

    `limit` is in seconds of wall time, `memory` in bytes of address space, twice as much for the heavy ones.
    """
    import torch

    for package in ("timm", "torchvision", "transformers", "graphopt.capture", "graphopt.pipeline.manager"):
        importlib.import_module(package)  # before forking, so that every child has them

    torch.set_num_threads(1)
    light = [n for n in names if not any(h in n for h in HEAVY)]
    heavy = [n for n in names if any(h in n for h in HEAVY)]
    for group, parallel in ((light, workers), (heavy, 1)):
        yield from _run_group(group, examine, parallel, limit, memory if parallel > 1 else 2 * memory)


def _run_group(names: list[str], examine: Examine, workers: int, limit: float, memory: int) -> Iterator[dict[str, Any]]:
    context = multiprocessing.get_context("fork")
    waiting = list(reversed(names))
    running: dict[Connection, tuple[str, BaseProcess, float]] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            name = waiting.pop()
            receive, send = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(name, examine, memory, send), daemon=True)
            process.start()
            send.close()
            running[receive] = (name, process, time.monotonic())
        for ready in wait(list(running), timeout=1.0):
            assert isinstance(ready, Connection)
            name, process, _ = running.pop(ready)
            try:
                record = ready.recv()
            except EOFError:
                process.join()
                record = {"name": name, "failed": "process", "reason": f"ended by exit code {process.exitcode} (memory limit or crash)"}
            process.join()
            yield record
        for channel, (name, process, began) in list(running.items()):
            if time.monotonic() - began > limit:
                process.kill()
                process.join()
                del running[channel]
                yield {"name": name, "failed": "process", "reason": f"time limit of {limit:.0f} s"}
