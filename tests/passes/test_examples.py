"""The Given/Result example of every pass and every rule does what it says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from plait.ir import Graph, InputError, parse
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


@pytest.mark.parametrize("cls", PASSES.values(), ids=PASSES)
def test_example_of_pass(cls: type[Pass], assert_same: Callable[[Graph, Graph], None]) -> None:
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
def test_example_of_rule(cls: type[Pass], made: Rule, assert_same: Callable[[Graph, Graph], None]) -> None:
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
