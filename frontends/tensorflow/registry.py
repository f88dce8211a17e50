"""The table of lowering rules: TensorFlow op type to a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from plait.ir import LoweringError, Value

if TYPE_CHECKING:
    from typing import TypeAlias

    from plait.frontends.tensorflow.call import Call
    from plait.frontends.tensorflow.operand import Item

    Result: TypeAlias = Value | Item | Sequence[Value | Item | None] | None
    Rule: TypeAlias = Callable[[Call], Result]

F = TypeVar("F", bound="Callable[[Call], Result]")

_RULES: dict[str, Rule] = {}


def lowers(*op_types: str, replace: bool = False) -> Callable[[F], F]:
    """Decorator that registers a lowering rule.

    The rule takes a `Call` and returns the IR value (or operand) of the first output,
    or one item per output of the node; `None` stands for an output that is not made.
    A rule that returns `None` declines: that form of the op is reported as unsupported.

    Args:
        op_types: the TensorFlow ops that the rule lowers; `call.op_type` tells them apart.
        replace: whether it may take the place of a rule that is there.

    Raises:
        LoweringError: an op has a rule and `replace` is not set.
    """

    def register(rule: F) -> F:
        for op_type in op_types:
            if op_type in _RULES and not replace:
                raise LoweringError(
                    f"{op_type} has a lowering rule",
                    where=f"rule '{getattr(rule, '__name__', rule)}'",
                    why=f"'{_RULES[op_type].__name__}' of {_RULES[op_type].__module__} lowers it",
                    remedy="pass replace=True to put the new rule in its place",
                )
        _RULES.update(dict.fromkeys(op_types, rule))
        return rule

    return register


def find_rule(op_type: str) -> Rule | None:
    """The rule for an op; None where there is none."""
    return _RULES.get(op_type)


def supported_operators() -> set[str]:
    """Names of the ops that have rules."""
    return set(_RULES)
