"""Feeds damaged IR text to the parser and the verifier, and good graphs through text and back.

    python -m tools.fuzz_text --count 20000            # damaged texts
    python -m tools.fuzz_text --graphs 5000            # round trips
    python -m tools.fuzz_text --count 1 --seed 1234    # one again

Damage is done to bytes, to tokens and to lines. Every text has to be read, or refused with a `ParseError`
or `VerifyError`, within two seconds and without recursion or memory running away; what is read has to
be written and read back to the same. torch is never imported. The exit status is 1 if anything was found.
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

from graphopt.errors import ParseError, VerifyError
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.ops import verify
from tests.support.random_graphs import random_graph

__all__ = ["check_round_trip", "check_text", "damaged_text", "main"]

_SECONDS = 2.0
_PLACED = re.compile(r"line \d+, column \d+: \S")
_TOKEN = re.compile(r'%"(?:[^"\\]|\\.)*"|"(?:[^"\\]|\\.)*"|%?[A-Za-z0-9_.]+|\s+|.', re.DOTALL)
_EXTREMES = (
    "0",
    "-1",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "1" * 400,
    "1e999",
    "-0.0",
    "1e-400",
    "nan",
    "inf",
    "$99999999999",
    "$0",
    "none",
    "true",
    "f32",
    "graph",
    "return",
    "param",
    "regions",
    "sparse<2:4 axis=1 0.5>",
    "at",
    "batch",
    "b*b*b*b*b*b*b*b",
    "(1//0)",
    "min(batch, 3)",
    "(batch + 1)//(batch - batch)",
    "{}",
    "()",
    "[]",
    '"\\ud800"',
    '"\\u0000"',
    "%x",
    "\x00",
    "\ufeff",
    "\u202e",
    "#",
    "(" * 100,
    "[" * 2000,
    "-" * 5000,
    "{" + '"a": {' * 200,
    "min(" * 1000,
    "((b+c)*(b-d))*" * 12 + "1",
)


def _mutant(rng: random.Random, text: str) -> str:
    """The text with one to four kinds of damage."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        text = rng.choice(_MUTATIONS)(rng, text)
    return text


def _bytes(rng: random.Random, text: str) -> str:
    """Flip, drop, insert or repeat bytes; what is no UTF-8 then is replaced, as a caller would."""
    raw = bytearray(text.encode())
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(raw) + 1)
        match rng.randrange(4):
            case 0 if raw:
                raw[at % len(raw)] ^= 1 << rng.randrange(8)
            case 1:
                del raw[at : at + rng.choice((1, 1, 5, 50))]
            case 2:
                raw.insert(at, rng.randrange(256))
            case _:
                raw[at:at] = raw[max(0, at - rng.choice((1, 10, 100))) : at]
    return raw.decode("utf-8", "replace")


def _truncate(rng: random.Random, text: str) -> str:
    return text[: rng.randrange(len(text) + 1)]


def _tokens(rng: random.Random, text: str) -> str:
    """Drop, repeat, swap or replace tokens."""
    tokens = _TOKEN.findall(text)
    if not tokens:
        return text
    for _ in range(rng.choice((1, 1, 2, 5))):
        a, b = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        match rng.randrange(4):
            case 0:
                tokens[a] = ""
            case 1:
                tokens[a] = tokens[b]
            case 2:
                tokens[a], tokens[b] = tokens[b], tokens[a]
            case _:
                tokens[a] = rng.choice(_EXTREMES)
    return "".join(tokens)


def _lines(rng: random.Random, text: str) -> str:
    """Drop, repeat or swap lines: values read before they are defined, defined twice, types that do not fit."""
    lines = text.split("\n")
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(3):
        case 0:
            del lines[a]
        case 1:
            lines.insert(b, lines[a])
        case _:
            lines[a], lines[b] = lines[b], lines[a]
    return "\n".join(lines)


def _numbers(rng: random.Random, text: str) -> str:
    """Another number at one place."""
    places = list(re.finditer(r"\d+", text))
    if not places:
        return text
    place = rng.choice(places)
    return text[: place.start()] + rng.choice(("0", "1", "2", "7", "65536", "9223372036854775807")) + text[place.end() :]


def _names(rng: random.Random, text: str) -> str:
    """One value under the name of another."""
    names = re.findall(r"%[A-Za-z0-9_.]+", text)
    if not names:
        return text
    return text.replace(rng.choice(names), rng.choice(names), rng.choice((1, 2, -1)))


def _nest(rng: random.Random, text: str) -> str:
    """The whole text as a region inside itself, many times."""
    for _ in range(rng.choice((1, 3, 40))):
        text = f"graph g() {{ f() regions {{ {text} }} return }}"
    return text


_MUTATIONS: Sequence[Callable[[random.Random, str], str]] = (
    *(_bytes,) * 2,
    _truncate,
    *(_tokens,) * 3,
    _lines,
    _numbers,
    _names,
    _nest,
)


def damaged_text(seed: int) -> str:
    """The text of a random graph with damage that depends on the seed alone."""
    graph = random_graph(
        seed % 997,
        nodes=8,
        symbolic=seed % 2 == 0,
        hostile=seed % 3 == 0,
        opaque=True,
        regions=seed % 5 == 0,
        sparsity=True,
    )
    return _mutant(random.Random(seed), show(graph, sources=seed % 4 == 0))


def check_text(text: str) -> str:
    """`read` or the class of the refusal.

    Raises:
        Exception: whatever else the parser or verifier raised, which they must not.
        AssertionError: it was read and does not survive being written.
    """
    try:
        graph = parse(text)
        verify(graph)
    except ParseError as error:
        return "ParseError" if _PLACED.match(str(error)) else "ParseError without a place"
    except VerifyError:
        return "VerifyError"
    written = show(graph, sources=True)
    assert show(parse(written), sources=True) == written, f"text changes on the way: {written[:400]}"
    return "read"


def check_round_trip(seed: int) -> None:
    """A random graph of this seed through text and back.

    Raises:
        AssertionError: it comes back as another graph.
    """
    graph = random_graph(
        seed,
        nodes=4 + seed % 23,
        symbolic=seed % 2 == 0,
        hostile=seed % 3 == 0,
        opaque=seed % 5 == 0,
        regions=seed % 7 == 0,
        sparsity=seed % 4 == 0,
    )
    verify(graph)
    for sources in (False, True):
        text = show(graph, sources=sources)
        again = parse(text)
        verify(again)
        assert again == graph
        assert show(again, sources=sources) == text
    assert graph.clone() == graph


def _too_slow(_signal: int, _frame: object) -> None:
    raise TimeoutError(f"no answer within {_SECONDS} s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=0, help="number of damaged texts")
    parser.add_argument("--graphs", type=int, default=0, help="number of graphs to send through text and back")
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGALRM, _too_slow)
    tally: Counter[str] = Counter()
    findings: list[str] = []
    slowest = (0.0, 0)
    start = time.perf_counter()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def attempt(kind: str, seed: int, action: Callable[[], object]) -> None:
        nonlocal slowest
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
        began = time.perf_counter()
        try:
            tally[str(action() or "round trips")] += 1
        except Exception as error:  # noqa: BLE001  # a fuzzer exists to see every exception
            findings.append(f"{kind} {seed}: {type(error).__name__}: {str(error)[:200]}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, (time.perf_counter() - began, seed))

    for seed in range(options.seed, options.seed + options.count):
        text = damaged_text(seed)
        attempt("text", seed, lambda text=text: check_text(text))
    for seed in range(options.seed, options.seed + options.graphs):
        attempt("graph", seed, lambda seed=seed: check_round_trip(seed))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) // 1024
    print(", ".join(f"{name}: {count}" for name, count in tally.most_common()))
    print(f"slowest {slowest[0] * 1000:.0f} ms (seed {slowest[1]}), memory grew by {grown} MiB, {time.perf_counter() - start:.0f} s in all")
    print(f"torch imported: {'torch' in sys.modules}")
    for finding in findings[:20]:
        print(finding)
    print(f"{len(findings)} findings")
    return 1 if findings or "torch" in sys.modules else 0


if __name__ == "__main__":
    sys.exit(main())
