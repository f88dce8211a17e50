"""The table of lowering rules: operator type, domain and version range to a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from plait.ir import Value

if TYPE_CHECKING:
    from typing import TypeAlias

    from plait.frontends.onnx.call import Call
    from plait.frontends.onnx.operand import Operand

    Result: TypeAlias = Value | Operand | Sequence[Value | Operand | None] | None
    Rule: TypeAlias = Callable[[Call], Result]

F = TypeVar("F", bound="Callable[[Call], Result]")


@dataclass(frozen=True)
class Entry:
    """One rule and the operator set versions that it covers, both ends included."""

    rule: Rule
    since: int
    until: int | None

    def covers(self, version: int) -> bool:
        return self.since <= version and (self.until is None or version <= self.until)


_RULES: dict[tuple[str, str], list[Entry]] = {}


def canonical_domain(domain: str) -> str:
    """The domain as the tables spell it: `ai.onnx` is the empty string."""
    return "" if domain == "ai.onnx" else domain


def lowers(*op_types: str, domain: str = "", since: int = 1, until: int | None = None) -> Callable[[F], F]:
    """Decorator that registers a lowering rule.

    The rule takes a `Call` and returns the IR value of the first output, or one
    item per output of the node; `None` stands for an output that is not made.  A rule
    that returns `None` declines: the operator's function body takes over where onnx
    defines one, else the form of the operator is reported as unsupported.
    A later registration for the same operator and versions wins.

    Args:
        op_types: the operators that the rule lowers; `call.op_type` tells them apart.
        domain: their domain; the empty string is `ai.onnx`.
        since: the first operator set version that the rule covers.
        until: the last one; None for all to come.
    """

    def register(rule: F) -> F:
        for op_type in op_types:
            _RULES.setdefault((canonical_domain(domain), op_type), []).insert(0, Entry(rule, since, until))
        return rule

    return register


def find_rule(domain: str, op_type: str, version: int) -> Rule | None:
    """The rule for an operator under an operator set version; None where there is none."""
    for entry in _RULES.get((domain, op_type), ()):
        if entry.covers(version):
            return entry.rule
    return None


def supported_operators() -> dict[str, set[str]]:
    """Names of the operators that have rules, by domain."""
    found: dict[str, set[str]] = {}
    for domain, op_type in _RULES:
        found.setdefault(domain, set()).add(op_type)
    return found
