"""The table of exports: how each op is written with ONNX operators.

    @exports(nn.Relu)
    def _relu(op: Any, writer: Writer) -> str:
        return writer.node("Relu", op.x)

A function adds nodes through the writer and returns the name of the op's result, or
one name for each.  It raises `Inexpressible` where ONNX lacks the form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from plait.ir import Op

Export = Callable[[Any, Any], "str | tuple[str, ...]"]
E = TypeVar("E", bound=Export)

EXPORTS: dict[type[Op], Export] = {}


class Inexpressible(Exception):
    """This form of an op has no counterpart in ONNX; the message says why."""


def exports(*classes: type[Op]) -> Callable[[E], E]:
    """Decorator that enters an export for some op classes."""

    def enter(function: E) -> E:
        for cls in classes:
            if cls in EXPORTS:
                raise TypeError(f"{cls.opname} has two exports")
            EXPORTS[cls] = function
        return function

    return enter
