"""Tensor expressions inside kernels that are written as loops.

Emissions describe operands and epilogues as tensor expressions.  A kernel written as
loops reads the arrays itself, so that `Reader` turns each read of a tensor into a read of
its buffer, and each read of an intermediate map into the expression that computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm_ffi
from tvm import te, tirx
from tvm.ir import Expr
from tvm.ir.expr import Call

Place = tuple[Expr, ...]


def substitute(expression: Any, values: dict[Any, Expr]) -> Any:
    """An expression with variables replaced."""
    if not values:
        return expression
    return tvm_ffi.structural_map(expression, (tirx.Var, lambda var: values.get(var, var)), order="post")


class Reader:
    """Expands tensor expressions into expressions over buffers.

    A tensor is read from the buffer or by the function that it is bound to; any other must
    be a map, whose element is computed where it is read.
    """

    def __init__(self) -> None:
        self._sources: dict[Any, Callable[[Place], Expr]] = {}

    def bind(self, tensor: te.Tensor, buffer: Any) -> None:
        """Read a tensor from a buffer of its shape."""
        self._sources[tensor.op] = lambda place: buffer[place]

    def bind_function(self, tensor: te.Tensor, function: Callable[[Place], Expr]) -> None:
        """Read a tensor by a function of the place."""
        self._sources[tensor.op] = function

    def __call__(self, expression: Expr) -> Expr:
        """The expression without reads of tensors."""
        return tvm_ffi.structural_map(expression, (Call, self._expanded), order="post")

    def element(self, tensor: te.Tensor, place: Sequence[Expr]) -> Expr:
        """The element of a tensor at a place."""
        return self(tensor(*place))

    def computed(self, tensor: te.Tensor, place: Sequence[Expr]) -> Expr:
        """The expression that computes an element, even where the tensor is bound to a buffer."""
        axes = [axis.var for axis in tensor.op.axis]
        return self(substitute(tensor.op.body[tensor.value_index], dict(zip(axes, place, strict=True))))

    def _expanded(self, call: Any) -> Any:
        if getattr(call.op, "name", None) != "te.tensor_load":
            return call
        tensor, place = call.args[0], tuple(call.args[1:])
        source = self._sources.get(tensor.op)
        if source is not None:
            return source(place)
        return self.computed(tensor, place)
