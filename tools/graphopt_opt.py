"""Runs passes on IR text: text in, text out.

    python -m tools.graphopt_opt graph.gir -p fold-constants -p "repeat(merge-reshapes, merge-permutes)"
    python -m tools.graphopt_opt - -p my_pass.py:MyPass --check --timing < graph.gir

The text goes to standard output, everything else to standard error. The exit code is 0, 1 when a pass raised
or broke its promise (it is rolled back), 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import graphopt
from graphopt.errors import GraphoptError
from graphopt.ir.graph import Graph
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.probes import fill_states
from graphopt.pipeline.records import PassRecord
from tools.passes_by_name import load_passes

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = _parser().parse_args(arguments)

    def after_pass(record: PassRecord, graph: Graph) -> None:
        if options.timing:
            check = record.verify_seconds + record.check_seconds
            print(f"# {record.spec}: {record.status}, {record.seconds * 1e3:.2f} ms, checks {check * 1e3:.2f} ms", file=sys.stderr)
        if options.print_after_all and record.status != "unchanged":
            print(f"# after {record.spec}: {record.status}, {record.rewritten} rewritten\n{graph}", file=sys.stderr)

    try:
        graph = graphopt.parse(_read(options.file))
        if options.check:
            graph = fill_states(graph, seed=options.seed)
        manager = PassManager(
            load_passes(options.passes),
            check="default" if options.check else "off",
            seed=options.seed,
            probes=options.probes,
            verify=not options.no_verify,
            after_pass=after_pass,
        )
        result = manager.run(graph)
    except (GraphoptError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(graphopt.show(result.graph), end="")
    for line in result.details() if options.report else []:
        print(f"# {line}", file=sys.stderr)
    for record in result.failures:
        print(f"error: {record.broken or f'{record.spec} raised {record.exception}'}", file=sys.stderr)
    if result.broken is not None:
        print(f"error: {result.broken}", file=sys.stderr)
    return 1 if result.failures or result.broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="graphopt_opt", description="Run passes on IR text.")
    parser.add_argument("file", help="file of IR text, or - for standard input")
    parser.add_argument("-p", "--passes", action="append", default=[], help="pipeline text, or file.py:Name; may be repeated")
    parser.add_argument("--check", action="store_true", help="compare numbers, on random states where the text has none")
    parser.add_argument("--probes", type=int, default=2, help="sets of random inputs to compare on")
    parser.add_argument("--seed", type=int, default=0, help="seed of random states and inputs")
    parser.add_argument("--timing", action="store_true", help="time of each pass")
    parser.add_argument("--report", action="store_true", help="what passes declined, and how numbers were compared")
    parser.add_argument("--print-after-all", action="store_true", help="the graph after each pass that changed it")
    parser.add_argument("--no-verify", action="store_true", help="do not verify the graph after each pass")
    return parser


def _read(file: str) -> str:
    return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
