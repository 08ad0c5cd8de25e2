"""Pipeline text, options, presets, and passes of other packages that come in through the entry point."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

import graphopt
from graphopt.errors import PassError, PassOptionError, UnknownPassError
from graphopt.passes.remove.fold_constants import FoldConstants
from graphopt.passes.remove.remove_dead_nodes import RemoveDeadNodes
from graphopt.pipeline.options import describe_options, make_pass, option_table
from graphopt.pipeline.passes import NumericClass, Outcome, Pass
from graphopt.pipeline.registry import Repeat, available, find, plan, resolve
from graphopt.pipeline.spec import RepeatSpec, Spec, parse_pipeline
from graphopt.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class Tuned(Pass):
    """Does nothing, with every type of option."""

    name = "tune-everything"
    numeric = NumericClass.EXACT
    ratio: float = field(default=0.5, metadata={"minimum": 0.0, "maximum": 1.0, "help": "share that stays"})
    count: int = 8
    fast: bool = False
    mode: Literal["near", "far"] = "near"
    names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None

    def apply(self, rewriter: Rewriter) -> Outcome:
        return Outcome(0)


@pytest.mark.parametrize(
    "text",
    [
        "tune-everything",
        "tune-everything{ratio=0.25}",
        'tune-everything{count=-3, fast=true, mode="far"}',
        'tune-everything{names=("a", "b c"), size=(1, 2)}',
        'tune-everything{names=("a",)}',
    ],
)
def test_repr_is_the_pipeline_text_and_reads_back(text: str) -> None:
    (spec,) = parse_pipeline(text)
    assert isinstance(spec, Spec)
    made = make_pass(Tuned, spec.options)
    assert repr(made) == text
    (again,) = parse_pipeline(repr(made))
    assert isinstance(again, Spec)
    assert make_pass(Tuned, again.options) == made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{raito=1.0}", "tune-everything has no option 'raito'.*did you mean ratio.*ratio: float = 0.5 in .0.0, 1.0.*count: int = 8"),
        ("{ratio=2}", "option 'ratio' of tune-everything is 2.0, needs a number >= 0.0 and <= 1.0"),
        ("{ratio=nan}", "option 'ratio' of tune-everything is nan, needs a number"),
        ("{count=many}", "option 'count' of tune-everything is the bare word many .*needs int"),
        ("{count=1.5}", "is 1.5, needs int"),
        ("{count=true}", "is true, needs int"),
        ('{mode="middle"}', 'is "middle", needs one of "near", "far"'),
        ("{names=1}", r"is 1, needs tuple\[str, ...\]"),
        ("{size=(1, 2, 3)}", r"is \(1, 2, 3\), needs tuple\[int, int\] or none"),
    ],
)
def test_options_that_do_not_fit_say_so_with_all_options(options: str, message: str) -> None:
    (spec,) = parse_pipeline("tune-everything" + options)
    assert isinstance(spec, Spec)
    with pytest.raises(PassOptionError, match=f"(?s){message}"):
        make_pass(Tuned, spec.options)


def test_options_given_in_python_fail_with_the_same_words() -> None:
    with pytest.raises(PassOptionError, match=r"option 'ratio' of tune-everything is 2\.0, needs a number >= 0\.0 and <= 1\.0"):
        Tuned(ratio=2)
    assert Tuned(ratio=1).ratio == 1.0
    assert repr(Tuned(ratio=1)) == "tune-everything{ratio=1.0}"
    assert describe_options(RemoveDeadNodes) == "remove-dead-nodes has no options"
    assert option_table(Tuned)[0] == {"name": "ratio", "type": "float", "default": "0.5", "help": "share that stays"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column 1: expected the name of a pass or preset, got the end of the text"),
        ("a,,b", "column 3: expected the name"),
        ("a b", "column 3: expected ',' or the end of the pipeline, got 'b'"),
        ("repeat(a", r"expected ',' or '\)' in repeat"),
        ("a{x=}", "options of 'a': .*expected a literal"),
        ("a{x=1", "options of 'a'"),
        ("a{x=__import__(1)}", "options of 'a'"),
        ("repeat(" * 20 + "a" + ")" * 20, "nested deeper than 8"),
    ],
)
def test_text_that_does_not_follow_the_grammar_is_told_with_a_column(text: str, message: str) -> None:
    with pytest.raises(PassError, match=message):
        parse_pipeline(text)


def test_groups_are_read() -> None:
    assert parse_pipeline("a, repeat(b{x=1}, c),") == (Spec("a"), RepeatSpec((Spec("b", {"x": 1}), Spec("c"))))


def test_names_specs_objects_and_groups_mix() -> None:
    steps = plan([RemoveDeadNodes(), "fold-constants{max_bytes=64}", ("remove-dead-nodes", "repeat(fold-constants)")])
    assert steps == (
        RemoveDeadNodes(),
        FoldConstants(max_bytes=64),
        Repeat((RemoveDeadNodes(), Repeat((FoldConstants(),)))),
    )
    assert resolve(steps) == [RemoveDeadNodes(), FoldConstants(max_bytes=64), RemoveDeadNodes(), FoldConstants()]
    assert resolve("fold-constants{max_bytes=64}") == [FoldConstants(max_bytes=64)]
    assert repr(steps[2]) == "repeat(remove-dead-nodes, repeat(fold-constants))"


@pytest.mark.parametrize("name", ["lossless", "lossless-training", "tidy"])
def test_presets_resolve(name: str) -> None:
    passes = resolve(name)
    assert len(passes) > 5
    assert all(pass_.numeric is not NumericClass.LOSSY for pass_ in passes)


def test_every_registered_pass_loads_and_has_its_name() -> None:
    for name in available():
        found = find(name)
        assert isinstance(found, tuple) or found.name == name


def test_unknown_names_list_near_names_and_a_way_out() -> None:
    with pytest.raises(UnknownPassError) as caught:
        resolve("fold-constant")
    text = str(caught.value)
    assert "no pass or preset is called 'fold-constant'" in text
    assert "did you mean fold-constants" in text
    assert "remove-dead-nodes" in text
    assert "pip install -e ." in text


def test_things_that_are_no_passes_are_told() -> None:
    with pytest.raises(PassError, match=r"write it with brackets: Name\(\)"):
        plan([RemoveDeadNodes])  # pyright: ignore[reportArgumentType]
    with pytest.raises(PassOptionError, match="'tidy' is a preset and has no options"):
        plan("tidy{x=1}")


PACKAGE = '''
from dataclasses import dataclass

from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.pattern import pattern_rule


def pattern(op, x):
    return op.neg(op.neg(x))


@dataclass(frozen=True)
class CancelNegations(RulePass):
    """Remove two negations in a row."""

    name = "cancel-negations"
    numeric = NumericClass.EXACT
    rules = (pattern_rule(pattern, lambda op, m: m.x),)


SMALL = ("cancel-negations", ("remove-dead-nodes",))
ENDLESS = ("acme-endless",)
NUMBER = 3
'''
ENTRY_POINTS = """[graphopt.passes]
cancel-negations = acme_passes:CancelNegations
acme-small = acme_passes:SMALL
acme-endless = acme_passes:ENDLESS
acme-number = acme_passes:NUMBER
acme-missing = acme_passes:Missing
acme-alias = acme_passes:CancelNegations
"""


@pytest.fixture
def third_party(tmp_path: Path) -> Iterator[Path]:
    """A package of somebody else, installed in a folder on the import path."""
    (tmp_path / "acme_passes.py").write_text(PACKAGE)
    info = tmp_path / "acme_passes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-passes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path.remove(str(tmp_path))
    sys.modules.pop("acme_passes", None)


@pytest.mark.usefixtures("third_party")
def test_a_pass_of_another_package_is_found_by_name() -> None:
    graph = graphopt.parse("graph g(%x: f32[2]) { %a: f32[2] = neg(%x) %b: f32[2] = neg(%a) %c: f32[2] = relu(%b) return %c }")
    result = graphopt.optimize(graph, ["acme-small"])
    assert str(result.graph) == "graph g(%x: f32[2]) {\n  %c: f32[2] = relu(%x)\n  return %c\n}\n"
    assert result.report.records[0].rewritten == 1
    assert available()["cancel-negations"].package == "acme-passes"


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acme-endless", "preset 'acme-endless' contains itself: acme-endless -> acme-endless"),
        ("acme-number", "entry point 'acme-number' leads to 3, needs a Pass class or a tuple of pipeline texts"),
        ("acme-missing", "entry point 'acme-missing' of acme-passes can't be imported: AttributeError"),
        ("acme-alias", "entry point 'acme-alias' leads to the pass 'cancel-negations': the names differ"),
    ],
)
def test_entry_points_that_do_not_hold_are_told(name: str, message: str) -> None:
    with pytest.raises(PassError, match=message):
        plan(name)


def test_two_packages_with_one_name_are_told(third_party: Path) -> None:
    info = third_party / "other_passes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-passes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[graphopt.passes]\ncancel-negations = other:CancelNegations\n")
    with pytest.raises(PassError, match=r"two packages announce a pass called 'cancel-negations': .*acme-passes"):
        available()


def test_available_passes_are_found_without_importing_the_library() -> None:
    assert not isinstance(available()["fold-constants"], type)
    assert available()["fold-constants"].package == "graphopt"
