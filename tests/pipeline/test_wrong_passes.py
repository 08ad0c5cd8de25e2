"""Every wrong pass is caught, rolled back and named, and right passes around it stay."""

from __future__ import annotations

import pytest

from graphopt.errors import BrokenPromiseError, PassError
from graphopt.ir.graph import Graph
from graphopt.ops import verify
from graphopt.passes.remove.merge_reshapes import MergeReshapes
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.passes import Pass
from tests.support.folding import filled
from tests.support.wrong_passes import NETWORK, WRONG_PASSES, Raises

# What the report has to say: the rule, and the value or node at which the graphs part.
EXPECTED = {
    "wrong-drop-bias": ("rounding: rtol = atol = 1e-09", "%conv"),
    "wrong-axis": ("exact: the same bits", "%soft"),
    "wrong-pad": ("rounding", "%conv"),
    "wrong-fold-nan": ("exact: the same bits", "%zero"),
    "wrong-fold-special": ("exact: the same bits", "%rest"),
    "wrong-dtype": ("the graph is invalid after it", "f16"),
    "wrong-use": ("the graph is invalid after it", "head"),
    "wrong-tie": ("tied parameters stay tied: 'head.weight' belonged to %tied", "%tied"),
    "wrong-name": ("inputs stay as they are: were %x: f32[2,3,8,8], are %input_1", "input_1"),
    "wrong-stage": ("acts in train mode and was removed", "dropout"),
    "wrong-output": ("exact: the same bits", "%head"),
    "wrong-weights": ("rounding", "%conv"),
}


@pytest.fixture
def network() -> Graph:
    return filled(NETWORK)


@pytest.mark.parametrize("check", ["default", "full"])
@pytest.mark.parametrize("wrong", WRONG_PASSES, ids=repr)
def test_a_wrong_pass_is_rolled_back_and_named(network: Graph, wrong: Pass, check: str) -> None:
    text = str(network)
    result = PassManager([MergeReshapes(), wrong, MergeReshapes()], check=check).run(network)  # pyright: ignore[reportArgumentType]
    verify(result.graph)
    assert str(result.graph) == text
    assert str(network) == text
    record = result.records[1]
    assert record.rewritten == 0
    assert record.name in str(result)
    if isinstance(wrong, Raises):
        assert record.status == "failed"
        assert record.exception == "ZeroDivisionError: of the pass's own making"
        return
    assert record.status == "rolled back"
    assert record.broken is not None
    rule, place = EXPECTED[wrong.name]
    assert rule in str(record.broken)
    assert place in str(record.broken)


@pytest.mark.parametrize("wrong", WRONG_PASSES, ids=repr)
def test_strict_raises(network: Graph, wrong: Pass) -> None:
    with pytest.raises(PassError if isinstance(wrong, Raises) else BrokenPromiseError, match=wrong.name):
        PassManager([wrong], strict=True).run(network)


def test_all_of_them_one_after_the_other_leave_the_graph_alone(network: Graph) -> None:
    text = str(network)
    result = PassManager(list(WRONG_PASSES)).run(network)
    assert str(result.graph) == text
    assert len(result.failures) == len(WRONG_PASSES)
    assert result.rewritten == 0
