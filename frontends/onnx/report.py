"""The report of operators without a lowering."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from plait.frontends.onnx.registry import supported_operators
from plait.ir import LoweringError
from plait.ir.errors import nearest

_SHOWN = 4


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

    def __str__(self) -> str:
        shown = ", ".join(repr(name) for name in self.nodes[:_SHOWN])
        more = f" and {len(self.nodes) - _SHOWN} more" if len(self.nodes) > _SHOWN else ""
        plural = "s" if len(self.nodes) != 1 else ""
        text = (
            f"{self.op_type} (domain {self.domain or 'ai.onnx'}, opset {self.version}), "
            f"{len(self.nodes)} node{plural}: {shown}{more}"
        )
        if self.note:
            text += f"; {self.note}"
        close = nearest_supported(self.op_type)
        return f"{text}; nearest supported: {close}" if close else text


def nearest_supported(op_type: str) -> str | None:
    """The supported operator whose name is most like `op_type`; None when none is close."""
    names = sorted({name for found in supported_operators().values() for name in found})
    exact = [name for name in names if name.lower() == op_type.lower()]
    return next(iter(exact or nearest(op_type, names)), None)


def unsupported_error(found: Iterable[Unsupported], file: str) -> LoweringError:
    """One error that lists every operator without a lowering and says how to add one."""
    entries = sorted(found, key=lambda entry: (-len(entry.nodes), entry.domain, entry.op_type))
    first = entries[0]
    domain = f', domain="{first.domain}"' if first.domain else ""
    count = len(entries)
    listing = "".join(f"\n    {entry}" for entry in entries)
    return LoweringError(
        f"{count} operator{'s have' if count != 1 else ' has'} no lowering:{listing}",
        where=file,
        why="no rule, model function or schema function covers them",
        remedy=(
            "register a lowering before calling lower_onnx:\n"
            "       from plait.frontends.onnx import lowers\n"
            f'       @lowers("{first.op_type}"{domain})\n'
            "       def rule(call):\n"
            "           return call.emit(...)  # an IR op on call.value(0), call.value(1), ..."
        ),
    )
