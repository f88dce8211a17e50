"""Operators without a lowering, as the shared report spells them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from plait.frontends.onnx.registry import supported_operators
from plait.frontends.report import Report, UnsupportedError


@dataclass
class Unsupported:
    """One operator without a lowering, and the nodes that use it.

    Attributes:
        op_type, domain, version: which operator, under which operator set version.
        nodes: the names of its nodes, in model order.
        note: why, where that is more than a missing rule.
    """

    op_type: str
    domain: str
    version: int
    nodes: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def name(self) -> str:
        """As the report prints it and `plait.frontends.register` takes it."""
        return spelt(self.domain, self.op_type)


def spelt(domain: str, op_type: str) -> str:
    """`onnx::Relu`, `com.acme::Foo`."""
    return f"{domain or 'onnx'}::{op_type}"


def unsupported_error(found: Iterable[Unsupported], file: str) -> UnsupportedError:
    """One error that lists every operator without a lowering and says how to add one."""
    report = new_report()
    for entry in found:
        for node in entry.nodes:
            place = f"node '{node}'" + (f" ({entry.note})" if entry.note else "")
            report.add(entry.name, f"{place} under opset {entry.version}")
    return report.error("the model", file)


def new_report() -> Report:
    """An empty report on ONNX operators."""
    return Report(_supported, "rule(call)")


def _supported() -> list[str]:
    return sorted(spelt(domain, name) for domain, names in supported_operators().items() for name in names)
