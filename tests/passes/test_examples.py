"""The Given/Result example of every pass and every rule does what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plait.ir import Graph, InputError, TensorType, parse
from plait.ir.interpret import interpret
from plait.ir.verify import verify
from plait.passes import PASSES, Pass, apply_rules, optimize
from plait.passes.examples import body_lines, examples_of
from plait.passes.rewriter import RULES, Rule

RULE_CASES = [
    pytest.param(cls, made, id=f"{cls.name}-{made.name}")
    for cls, held in RULES.items()
    if cls.name in PASSES
    for made in held
]


def run(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    inputs = []
    for value in graph.inputs:
        assert isinstance(value.type, TensorType)
        shape = tuple(dim if isinstance(dim, int) else 3 for dim in value.type.shape)
        inputs.append(random.normal(size=shape, scale=3).astype(value.type.dtype.numpy))
    return [np.asarray(tensor.to(torch.float64)) for tensor in interpret(graph, inputs)]


def assert_same(before: Graph, after: Graph) -> None:
    for old, new in zip(run(before), run(after), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", PASSES.values(), ids=PASSES)
def test_example_of_pass(cls: type[Pass]) -> None:
    examples = examples_of(cls)
    assert examples, f"pass {cls.name} shows no Given: and Result:"
    for example in examples:
        before = example.graph()
        after, report = optimize(before, [cls()])
        assert body_lines(after) == example.result
        assert report.changed
        assert parse(str(after)) == after
        assert_same(before, after)


@pytest.mark.parametrize(("cls", "made"), RULE_CASES)
def test_example_of_rule(cls: type[Pass], made: Rule) -> None:
    examples = examples_of(made.function)
    assert examples, f"rule {made.name} shows no Given: and Result:"
    for example in examples:
        before = example.graph()
        after = example.graph()
        known = tuple(after.walk())
        result = apply_rules(after, [made], cls.name, cls())
        assert result.rules[made.title] == result.rewrites > 0
        assert body_lines(after) == example.result
        verify(after, made_by=cls.name, known=known)
        assert_same(before, after)


def test_titles_and_names_of_rules_are_unique() -> None:
    names = [made.name for held in RULES.values() for made in held]
    titles = [made.title for held in RULES.values() for made in held]
    assert len(set(names)) == len(names)
    assert len(set(titles)) == len(titles)


def test_given_without_result_is_refused() -> None:
    def documented() -> None:
        """A rule.

        Given:
            %x : f32[4]
            return %x
        """

    with pytest.raises(InputError, match="do not alternate"):
        examples_of(documented)


def test_collector_sees_a_wrong_result() -> None:
    def documented() -> None:
        """A rule.

        Given:
            %x : f32[B]
            %y = nn.relu(%x) : f32[B]
            return %y
        Result:
            return %x
        """

    (example,) = examples_of(documented)
    assert body_lines(example.graph()) != example.result
