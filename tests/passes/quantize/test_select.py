"""Selection of ops by module path, kind and subgraph."""

from __future__ import annotations

import pytest

from plait.ir import Graph, InputError
from plait.ir.ops import nn
from plait.passes.quantize.insert import ABLE
from plait.passes.quantize.scheme import INT4_WEIGHT_ONLY, INT8
from plait.passes.quantize.select import Rule, matching, schemes_of

from .nets import residual


@pytest.fixture(scope="module")
def graph() -> Graph:
    return residual()


def kinds(graph: Graph, pattern: str) -> list[str]:
    return [op.opname for op in matching(graph, pattern)]


def test_by_module_path(graph: Graph) -> None:
    assert [op.groups for op in matching(graph, "depth*") if isinstance(op, nn.Conv2d)] == [8]
    assert "nn.linear" in kinds(graph, "head")


def test_by_kind(graph: Graph) -> None:
    assert kinds(graph, "op:nn.conv2d") == ["nn.conv2d"] * 3
    assert set(kinds(graph, "op:nn.*")) >= {"nn.conv2d", "nn.linear", "nn.max_pool2d"}


def test_by_subgraph(graph: Graph) -> None:
    convolutions = [op.name for op in graph.ops if isinstance(op, nn.Conv2d)]
    found = [op.name for op in matching(graph, f"from:%{convolutions[1]} to:%{convolutions[2]}")]
    assert found == convolutions[1:]
    assert len(matching(graph, "from:%image")) == len(list(graph.ops))
    assert [op.name for op in matching(graph, f"to:%{convolutions[0]}")] == convolutions[:1]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("depthwize", "did you mean 'depthwise'"),
        ("op:nn.conv2", "did you mean 'nn.conv2d'"),
        ("from:%imag", "no value %imag"),
        ("from:", "no subgraph"),
    ],
)
def test_a_pattern_that_matches_nothing(graph: Graph, pattern: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        matching(graph, pattern)


def test_an_empty_subgraph(graph: Graph) -> None:
    names = [op.name for op in graph.ops]
    with pytest.raises(InputError, match="nothing leads from"):
        matching(graph, f"from:%{names[-1]} to:%{names[0]}")


def test_the_last_rule_decides(graph: Graph) -> None:
    rules = [Rule("op:nn.*", INT8), Rule("head", INT4_WEIGHT_ONLY), Rule("stem", None)]
    found = schemes_of(graph, rules, ABLE)
    (linear,) = (op for op in graph.ops if isinstance(op, nn.Linear))
    first = next(op for op in graph.ops if isinstance(op, nn.Conv2d))
    assert found[linear.name] == INT4_WEIGHT_ONLY
    assert first.name not in found
    assert INT8 in found.values()


def test_a_rule_that_selects_nothing_quantisable(graph: Graph) -> None:
    with pytest.raises(InputError, match="no op that can be quantised"):
        schemes_of(graph, [Rule("op:nn.max_pool2d", INT8)], ABLE)
