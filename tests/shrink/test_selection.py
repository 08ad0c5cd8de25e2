"""Which units go: rankings, widths, patterns, schedules, and the reasons for what stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import pytest

from graphopt.analysis.axes.groups import AxisGroup, AxisGroups, Fixed, Member, Role
from graphopt.errors import PassOptionError
from graphopt.ir.graph import Value
from graphopt.ir.types import DType, TensorType
from graphopt.passes.shrink.selection import Selection, select, structure_of, width_step


def _value(name: str, *shape: int) -> Value:
    return Value(name, TensorType(DType.f32, shape))


def _group(name: str, size: int, *, kind: str = "channel", per_unit: int = 1, extra: Sequence[Member] = ()) -> AxisGroup:
    """A layer `name` whose rows make the units, `per_unit` rows each, and `name.next` that reads them."""
    units = numpy.repeat(numpy.arange(size), per_unit)
    rows = Member(_value(f"{name}.weight", size * per_unit, 3), 0, units, Role.WRITTEN, "rows")
    columns = Member(_value(f"{name}.next.weight", 5, size * per_unit), 1, units, Role.READ, "columns")
    return AxisGroup(name, kind, size, (rows, columns, *extra))


def _select(selection: Selection, groups: Sequence[AxisGroup], scores: Sequence[Any], fixed: Sequence[Fixed] = ()) -> Any:
    found = AxisGroups(tuple(groups), tuple(fixed))
    numbers = {group: numpy.array(score, dtype=numpy.float64) for group, score in zip(groups, scores, strict=True)}
    removal, skipped = select(found, numbers, selection)
    return {group.name: numpy.flatnonzero(gone).tolist() for group, gone in removal.items()}, skipped


FOUR = [4.0, 1.0, 3.0, 2.0]


def test_local_takes_the_least_important_of_each_group() -> None:
    removal, skipped = _select(Selection(0.5), [_group("a", 4), _group("b", 4)], [FOUR, FOUR[::-1]])
    assert removal == {"a": [1, 3], "b": [0, 2]}
    assert skipped == ()


def test_at_equal_importance_the_first_units_go() -> None:
    assert _select(Selection(0.5), [_group("a", 4)], [[1, 1, 1, 1]])[0] == {"a": [0, 1]}


@pytest.mark.parametrize(("size", "ratio", "kept"), [(4, 0.5, 2), (3, 0.5, 2), (2, 0.9, 1), (10, 0.95, 1), (10, 0.34, 7), (64, 0.3, 45)])
def test_the_nearest_number_stays_and_at_least_one(size: int, ratio: float, kept: int) -> None:
    removal, _ = _select(Selection(ratio), [_group("a", size)], [numpy.arange(size)])
    assert len(removal["a"]) == size - kept


@pytest.mark.parametrize(
    ("size", "per_unit", "multiple", "kept"), [(64, 1, 8, 32), (60, 1, 8, 32), (36, 1, 8, 16), (12, 64, 8, 6), (12, 4, 8, 6)]
)
def test_widths_are_multiples(size: int, per_unit: int, multiple: int, kept: int) -> None:
    removal, _ = _select(Selection(0.5, multiple_of=multiple), [_group("a", size, per_unit=per_unit)], [numpy.arange(size)])
    assert size - len(removal["a"]) == kept
    assert kept * per_unit % multiple == 0


def test_the_step_looks_at_weights_and_not_at_values_on_the_way() -> None:
    heads = Member(_value("x", 1, 12, 7, 64), 1, numpy.arange(12), Role.CARRIED, "heads")
    assert width_step(_group("a", 12, per_unit=64, extra=[heads]), 32) == 1
    assert width_step(_group("a", 12, per_unit=6), 32) == 16


def test_global_ranks_all_units_by_scores_relative_to_their_group() -> None:
    groups = [_group("a", 4), _group("b", 4)]
    removal, _ = _select(Selection(0.5, ranking="global"), groups, [[400, 390, 10, 410], [1, 0.1, 0.2, 0.3]])
    assert removal == {"a": [2], "b": [1, 2, 3]}


def test_scores_in_one_unit_are_ranked_as_they_are() -> None:
    groups = [_group("a", 4), _group("b", 4)]
    selection = Selection(0.5, ranking="global", comparable=True)
    removal, _ = _select(selection, groups, [[4.0, 3.9, 0.1, 4.1], [1, 0.01, 0.02, 0.03]])
    assert removal == {"a": [2], "b": [1, 2, 3]}
    removal, _ = _select(selection, groups, [[4.0, 3.9, 3.8, 4.1], [5, 0.01, 6, 7]])
    assert removal == {"a": [0, 1, 2], "b": [1]}


def test_global_leaves_a_unit_and_says_what_stays_whole() -> None:
    groups = [_group("a", 2), _group("b", 6)]
    removal, skipped = _select(Selection(0.5, ranking="global"), groups, [[1, 1], [9, 9, 0.001, 0.001, 0.001, 0.001]])
    assert removal == {"b": [2, 3, 4, 5]}
    assert skipped == (("a", "all of its units are more important than those of other groups"),)
    groups = [_group("a", 4), _group("b", 8)]
    selection = Selection(0.25, ranking="global", multiple_of=2)
    removal, skipped = _select(selection, groups, [[9, 9, 9, 0.001], [9, 9, 9, 9, 9, 9, 0.001, 0.001]])
    assert removal == {"b": [6, 7]}
    assert skipped == (("a", "no more than half a step of 2 of its units are less important than those of other groups"),)


def test_isomorphic_ranks_within_a_structure() -> None:
    groups = [_group("a", 4), _group("b", 4), _group("c", 4, kind="head")]
    assert structure_of(groups[0]) == structure_of(groups[1]) != structure_of(groups[2])
    scores = [[9, 9, 9, 1], [9, 1, 1, 1], [0.1, 0.1, 0.1, 9]]
    removal, _ = _select(Selection(0.5, ranking="isomorphic"), groups, scores)
    assert removal == {"a": [3], "b": [1, 2, 3], "c": [0, 1]}


def test_ratios_by_pattern_only_and_exclude() -> None:
    groups = [_group("layer1.0.conv1", 4), _group("layer1.1.conv1", 4), _group("layer2.0.conv1", 4), _group("head.fc", 4)]
    selection = Selection(
        0.5, ratios=(("layer1.0.*", 0.75), ("layer1.*", 0), ("head.*", 0.25)), exclude=("layer2.0.conv1",), ranking="global"
    )
    removal, skipped = _select(selection, groups, [FOUR] * 4)
    assert removal == {"layer1.0.conv1": [1, 2, 3], "head.fc": [1]}
    assert skipped == (("layer1.1.conv1", "ratio 0 by 'layer1.*'"), ("layer2.0.conv1", "excluded by 'layer2.0.conv1'"))
    removal, skipped = _select(Selection(0.5, only=("*.conv1",)), groups, [FOUR] * 4)
    assert sorted(removal) == ["layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1"]
    assert skipped == (("head.fc", "it is not among only=('*.conv1',)"),)


def test_a_layer_that_writes_into_a_group_names_it_too_and_one_that_reads_does_not() -> None:
    other = Member(_value("layer1.1.conv2.weight", 4, 3), 0, numpy.arange(4), Role.WRITTEN, "added")
    groups = [_group("stem", 4, extra=[other]), _group("b", 4)]
    assert sorted(_select(Selection(0.5, exclude=("layer1.*",)), groups, [FOUR, FOUR])[0]) == ["b"]
    with pytest.raises(PassOptionError, match=r"'stem\.next' in exclude is the name of no layer and no group"):
        _select(Selection(0.5, exclude=("stem.next",)), groups, [FOUR, FOUR])


def test_kinds() -> None:
    groups = [_group("a", 4), _group("b", 4, kind="head")]
    removal, skipped = _select(Selection(0.5, kinds=frozenset({"head"})), groups, [FOUR, FOUR])
    assert removal == {"b": [1, 3]}
    assert skipped == (("a", "its units are channel units, not head"),)


def test_reasons_of_groups_that_are_too_small_and_of_fixed_axes() -> None:
    groups = [_group("one", 1), _group("few", 6), _group("many", 64), _group("most", 20)]
    fixed = [Fixed(_value("fc.weight", 10, 64), 0, "%fc is an output")]
    scores = [numpy.arange(group.size) for group in groups]
    removal, skipped = _select(Selection(0.1, multiple_of=8), groups, scores, fixed)
    assert {name: len(gone) for name, gone in removal.items()} == {"many": 8, "most": 4}
    assert skipped == (
        ("one", "it has one unit"),
        ("few", "it has 6 units, which multiple_of=8 takes in steps of 8"),
        ("fc.weight axis 0", "%fc is an output"),
    )
    assert _select(Selection(0.1), [_group("a", 4)], [FOUR])[1] == (("a", "ratio 0.1 of 4 units is no more than half a unit"),)
    assert _select(Selection(0.25), [_group("a", 2)], [[1, 2]])[1] == (("a", "ratio 0.25 of 2 units is no more than half a unit"),)


def test_a_schedule_counts_from_the_first_size() -> None:
    removal, skipped = _select(Selection(0.5, sizes={"a": 8, "b": 8}), [_group("a", 6), _group("b", 4)], [[6, 5, 4, 3, 2, 1], FOUR])
    assert removal == {"a": [4, 5]}
    assert skipped == ()


def test_a_schedule_that_has_begun_may_leave_nothing_for_its_last_steps() -> None:
    groups = [_group("a", 8), _group("b", 8, kind="head")]
    selection = Selection(0.5, multiple_of=8, sizes={"a": 16, "b": 8, "gone": 2}, only=("a", "gone"), ratios=(("gone", 0.9),))
    removal, skipped = _select(selection, groups, [numpy.arange(8)] * 2)
    assert removal == {}
    assert skipped[0] == ("a", "it has 8 units, which multiple_of=8 takes in steps of 8")


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (
            Selection(0.5, only=("layer9.*",)),
            r"'layer9\.\*' in only is the name of no layer and no group\n  fix: near names: layer1\.0\.conv1; ",
        ),
        (Selection(0.5, exclude=("layer1.0.conv3",)), r"'layer1\.0\.conv3' in exclude is .* no group\n  fix: near names: layer1\.0\.conv1"),
        (Selection(0.5, ratios=(("nope", 0.5),)), r"'nope' in ratios is the name of no layer"),
        (Selection(0.5, only=("fc",)), r"'fc' in only means only layers that can't be cut: fc: %fc is an output"),
        (Selection(0.5, exclude=("*",)), r"nothing is left to cut of 2 groups, for example head: excluded by '\*'"),
        (
            Selection(0.5, kinds=frozenset({"head"})),
            r"no groups of head units that can be cut, only of channel units\n  fix: shrink-channels takes units of all kinds; ",
        ),
        (
            Selection(0.5, multiple_of=512),
            r"nothing is left to cut of 2 groups, .* multiple_of=512 takes in steps of 512\n  fix: exclude less, lower multiple_of, or",
        ),
    ],
)
def test_wishes_that_mean_nothing(selection: Selection, message: str) -> None:
    groups = [_group("layer1.0.conv1", 4), _group("head", 4)]
    fixed = [Fixed(_value("fc.weight", 10, 64), 0, "%fc is an output")]
    with pytest.raises(PassOptionError, match=message):
        _select(selection, groups, [FOUR, FOUR], fixed)


def test_a_graph_without_groups_says_why() -> None:
    fixed = [Fixed(_value("fc.weight", 10, 64), 0, "%fc is an output")]
    with pytest.raises(PassOptionError, match=r"no groups of units that can be cut, for example fc\.weight axis 0: %fc is an output"):
        _select(Selection(0.5), [], [], fixed)


def test_a_layer_that_is_fixed_anyway_may_be_excluded() -> None:
    fixed = [Fixed(_value("fc.weight", 10, 64), 0, "%fc is an output")]
    assert _select(Selection(0.5, exclude=("fc",)), [_group("a", 4)], [FOUR], fixed)[0] == {"a": [1, 3]}
