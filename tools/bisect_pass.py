"""Names the pass that breaks a graph and the first node that goes wrong, and writes a small reproduction.

    python -m tools.bisect_pass saved.graph -p lossless
    python -m tools.bisect_pass torchvision:resnet18 -p my_pass.py:MyPass --reduce repro/

The subject is a saved graph, a file of IR text (its states get random numbers) or a model as the command line
takes it. Passes run one by one, the whole graph is compared after each. The exit code is 0 when nothing is
wrong, 1 when a pass was found, 2 for bad input. `--reduce` writes `repro.gir` (text) and `repro.graph` (with
numbers), and says how to run them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import graphopt
from graphopt.errors import GraphoptError
from graphopt.ir.graph import Graph
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.passes import Pass
from graphopt.pipeline.probes import fill_states
from graphopt.pipeline.records import BrokenPromise, PipelineResult
from graphopt.pipeline.registry import Repeat, Step
from tools.passes_by_name import load_passes
from tools.reduce import reduce_graph

__all__ = ["Culprit", "find_broken_pass", "main", "reduce_culprit"]


@dataclass(frozen=True)
class Culprit:
    """A pass that breaks a graph: the pass, the graph before it, and what is known of the damage."""

    pass_: Pass
    before: Graph
    broken: BrokenPromise | None
    exception: str

    @property
    def near(self) -> str | None:
        """Name of a value close to the damage."""
        return self.broken.value.removeprefix("%") or None if self.broken is not None else None

    def __str__(self) -> str:
        return str(self.broken) if self.broken is not None else f"{self.pass_!r} raised {self.exception}"


def find_broken_pass(graph: Graph, steps: Sequence[Step], *, seed: int = 0) -> Culprit | None:
    """The first pass that raises or breaks its promise on the graph that the passes before it leave."""
    for step in steps:
        if isinstance(step, Repeat):
            for _ in range(step.rounds):
                text = str(graph)
                graph_or_culprit = _through(graph, step.steps, seed)
                if isinstance(graph_or_culprit, Culprit):
                    return graph_or_culprit
                graph = graph_or_culprit
                if str(graph) == text:
                    break
            continue
        result = _alone(step, graph, seed)
        if _failed(result):
            record = result.records[0]
            return Culprit(step, graph, record.broken or result.broken, record.exception)
        graph = result.graph
    return None


def reduce_culprit(culprit: Culprit, *, seed: int = 0) -> Graph:
    """The smallest graph found on which the same pass fails in the same way."""
    raised = culprit.broken is None

    def fails(candidate: Graph) -> bool:
        result = _alone(culprit.pass_, candidate, seed)
        return _failed(result) and (result.records[0].status == "failed") == raised

    return reduce_graph(culprit.before, fails, near=culprit.near)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    parser = argparse.ArgumentParser(prog="bisect_pass", description="Find the pass that breaks a graph.")
    parser.add_argument("subject", help="saved graph, .gir text, or a model such as torchvision:resnet18")
    parser.add_argument("-p", "--passes", action="append", default=[], help="pipeline text, or file.py:Name; may be repeated")
    parser.add_argument("--reduce", type=Path, metavar="FOLDER", help="write the smallest graph that shows it")
    parser.add_argument("--seed", type=int, default=0, help="seed of random states and inputs")
    options = parser.parse_args(arguments)
    try:
        steps = load_passes(options.passes or ["lossless"])
        culprit = find_broken_pass(_load(options.subject, options.seed), steps, seed=options.seed)
        if culprit is None:
            print("no pass breaks its promise")
            return 0
        print(culprit)
        if options.reduce is not None:
            _write(culprit, options.reduce, options.passes, options.seed)
    except (GraphoptError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1


def _load(subject: str, seed: int) -> Graph:
    from graphopt.cli.models import load_subject

    return fill_states(load_subject(subject).captured(), seed=seed)


def _through(graph: Graph, steps: Sequence[Step], seed: int) -> Graph | Culprit:
    """The graph after all steps, or the culprit among them."""
    culprit = find_broken_pass(graph, steps, seed=seed)
    return culprit if culprit is not None else PassManager(steps, check="off").run(graph).graph


def _alone(pass_: Pass, graph: Graph, seed: int) -> PipelineResult:
    """One pass on a graph, compared region by region, as a whole and at the end."""
    result = PassManager([pass_], check="default", probes=2, seed=seed).run(graph)
    return result if _failed(result) else PassManager([pass_], check="full", probes=2, seed=seed).run(graph)


def _failed(result: PipelineResult) -> bool:
    return bool(result.failures) or result.broken is not None


def _write(culprit: Culprit, folder: Path, passes: Sequence[str], seed: int) -> None:
    small = reduce_culprit(culprit, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "repro.gir").write_text(graphopt.show(small), encoding="utf-8")
    small.save(folder / "repro.graph")
    shown = next((text for text in passes if text.endswith(f":{type(culprit.pass_).__name__}")), repr(culprit.pass_))
    print(f"\nreduced from {culprit.before.node_count} to {small.node_count} nodes:\n{graphopt.show(small)}")
    print(f"run it: python -m tools.bisect_pass {folder / 'repro.graph'} -p '{shown}'")


if __name__ == "__main__":
    sys.exit(main())
