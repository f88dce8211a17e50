"""The table of lowering rules: which function lowers which operator overload.

A rule takes a `Builder` and the arguments of the operator, and returns what the
operator returns: a value, or a tuple of values.  Tensors arrive as `Value`,
sizes as `int` or `Dim`, element types as `DType`; layout, device and memory
format arguments are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from plait.ir.errors import LoweringError

Rule = Callable[..., Any]
R = TypeVar("R", bound=Rule)


class Refusal(Exception):
    """Raised by a rule whose operator is supported in general but not with these arguments."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


_RULES: dict[str, Rule] = {}


def register(*overloads: object, replace: bool = False) -> Callable[[R], R]:
    """Decorator that makes a function the lowering rule of operator overloads.

        @register("aten.relu.default")
        def relu(build: Builder, x: Value) -> Value:
            return build.emit(nn.Relu(x))

    Args:
        overloads: names such as "aten.add.Tensor", or the overload objects themselves; a
            packet, "aten.add", covers those of its overloads that have no rule of their own.
        replace: allow another rule in the place of one that exists.

    Raises:
        LoweringError: an overload has a rule already and `replace` is false.
    """

    def define(rule: R) -> R:
        if not rule.__module__.startswith(__package__):
            # The tables of this package come first, or they would find their places taken.
            from plait.frontends.pytorch import aten  # noqa: F401
        for name in map(str, overloads):
            if name in _RULES and not replace:
                raise LoweringError(
                    f"operator {name} has a lowering rule already",
                    why=f"it is {_RULES[name].__module__}.{_RULES[name].__qualname__}",
                    remedy="pass replace=True to register() to override it",
                )
            _RULES[name] = rule
        return rule

    return define


def find_rule(name: str) -> Rule | None:
    """The rule of an overload, or of its packet; None where neither has one."""
    return _RULES.get(name) or _RULES.get(name.rpartition(".")[0])


def supported() -> tuple[str, ...]:
    """Names of all overloads that have a rule, sorted."""
    return tuple(sorted(_RULES))
