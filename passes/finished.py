"""Layers (or groups) that are finished, kept in files, so that a pass that is killed goes on behind the last one.

    FOLDER/sparsify-obs-<options>-<weights>-<data>-<version>/layer-00003.safetensors        one file per layer, never written again

The name of the folder is that of the run: digests of the pass with its options and the seed where it matters, of the graphs with
the bits of all their weights, of the calibration batches, and of the version of graphopt, whose passes may find other numbers than
those of the next. Another run has another folder, so its layers are never mixed up with these. A file is put in its place in one
step (`graphopt.train.recovery.checkpoint`), and writing one costs no more than its layer has numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from graphopt.analysis.table import counted
from graphopt.backends.reference.interpreter import state_tensor
from graphopt.errors import ArtifactError, PassError
from graphopt.ir.artifact import graphopt_version
from graphopt.ir.graph import Graph
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from graphopt.train.recovery.checkpoint import Checkpoint, discard_unfinished, fingerprint

__all__ = ["Finished"]

_PARTS = ("options", "weights", "data", "version")
_DIGITS = 16

_FORMAT = 1
"""To be raised where what a pass keeps is read or made in another way within one version of graphopt."""


class Finished:
    """What one run of a pass has finished; nothing is kept where the context has no folder for it."""

    def __init__(
        self,
        context: Context,
        pass_name: str,
        options: Mapping[str, Any],
        graph: Graph | Sequence[Graph],
        calibration: Calibration | None,
        *,
        several: bool = False,
        seeded: bool = True,
    ) -> None:
        """`several`: one pipeline may do this more than once, with other weights each time, which is nothing to be told.

        `seeded`: what is found depends on the seed.
        """
        self._folder: Path | None = None
        self._run = ""
        self._loaded = 0
        self._notes: list[str] = []
        if context.checkpoint is None:
            return
        parts = {
            "options": fingerprint((), {**options, "seed": context.seed} if seeded else options),
            "weights": _weights([graph] if isinstance(graph, Graph) else graph),
            "data": _data(calibration or ()),
            "version": fingerprint((), {"graphopt": graphopt_version(), "format": _FORMAT}),
        }
        self._run = fingerprint((), parts)
        self._folder = context.checkpoint / "-".join([pass_name, *(parts[part][:_DIGITS] for part in _PARTS)])
        try:
            if not self._folder.is_dir():
                self._notes += _others(self._folder, pass_name, alike=several)
                self._folder.mkdir(parents=True)
            discard_unfinished(self._folder)
        except OSError as error:
            raise PassError(f"checkpoint {self._folder} can't be made: {error}", fix="give a folder that can be written to") from error

    def result(self, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a part of the work gave: as it was kept, or computed now and kept. The same bits either way.

        Raises:
            PassError: the file can't be written.
        """
        if self._folder is None:
            return compute()
        checkpoint = Checkpoint(self._folder / f"{key}.safetensors", self._run)
        try:
            found = checkpoint.load()
        except ArtifactError as error:
            self._notes.append(f"computed again: {error.what}")
            found = None
        if found is not None:
            self._loaded += 1
            return found
        made = compute()
        try:
            checkpoint.save(made)
        except OSError as error:
            raise PassError(
                f"checkpoint {checkpoint.path} can't be written: {error}",
                fix="make room and run it again: what is finished is kept",
            ) from error
        kept = checkpoint.load()
        assert kept is not None, "it was written just now"
        return kept  # mapped from the file: finished layers take no memory that the system can't have back

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found in the folder."""
        were = "was" if self._loaded == 1 else "were"
        resumed = [f"{counted(self._loaded, 'finished part')} {were} read from {self._folder}"] if self._loaded else []
        return (*resumed, *self._notes)


def _weights(graphs: Sequence[Graph]) -> str:
    tensors = ((name, state_tensor(state)) for graph in graphs for name, state in graph.states.items() if state.data is not None)
    return fingerprint(tensors, {f"graph {index}": str(graph) for index, graph in enumerate(graphs)})


def _data(calibration: Iterable[Batch]) -> str:
    tensors: list[tuple[str, torch.Tensor]] = []
    for index, batch in enumerate(calibration):
        tensors += [(f"{index}", tensor) for tensor in (*batch.inputs, batch.target) if tensor is not None]
    return fingerprint(tensors)


def _others(folder: Path, pass_name: str, *, alike: bool) -> list[str]:
    """A note on runs of the same pass that differ from this one, and in what; with `alike` on those of the same weights alone."""
    mine = folder.name.removeprefix(f"{pass_name}-").split("-")
    found = [other.name.removeprefix(f"{pass_name}-").split("-") for other in folder.parent.glob(f"{pass_name}-*") if other.is_dir()]
    differing = [
        [part for part, here, there in zip_longest(_PARTS, mine, digests) if here != there]  # the first release wrote no version
        for digests in found
        if len(_PARTS) - 1 <= len(digests) <= len(_PARTS) and all(map(_is_digest, digests))
    ]
    differing = [parts for parts in differing if not alike or "weights" not in parts]
    if not differing:
        return []
    nearest = min(differing, key=len)
    others = [part for part in nearest if part != "version"]
    said = [*([f"other {' and '.join(others)}"] if others else []), *(["another version of graphopt"] if "version" in nearest else [])]
    return [f"started anew: what {folder.parent} holds of {pass_name} was made with {' and '.join(said)}"]


def _is_digest(text: str) -> bool:
    """The rest of the name of another pass, such as `sensitivity`, is none."""
    return re.fullmatch(f"[0-9a-f]{{{_DIGITS}}}", text) is not None
