"""Tensor expressions read element by element, so that a kernel written by hand can compute them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm_ffi
from tvm import te, tirx
from tvm.ir import Call, Expr

#: How an element of a tensor that is not inlined is read, by its operation.
Readers = Mapping[Any, Callable[[tuple[Expr, ...]], Expr]]


class NotInlined(Exception):
    """A reduction that the kernel does not compute itself stands inside an expression."""


def element_of(tensor: te.Tensor, place: Sequence[Expr], readers: Readers) -> Expr:
    """The element of a tensor at a place, with everything down to `readers` computed on the spot.

    Raises NotInlined at a reduction or an extern kernel without a reader.
    """
    operation = tensor.op
    if operation in readers:
        return readers[operation](tuple(place))
    if not isinstance(operation, te.ComputeOp) or operation.reduce_axis:
        raise NotInlined(operation.name)
    names = {axis.var: index for axis, index in zip(operation.axis, place, strict=True)}
    return substituted(operation.body[tensor.value_index], names, readers)


def substituted(expression: Expr, names: Mapping[tirx.Var, Expr], readers: Readers) -> Expr:
    """An expression with its variables renamed and its reads of tensors resolved."""

    def rename(var: tirx.Var) -> Expr:
        return names.get(var, var)

    def resolve(call: Call) -> Expr:
        if getattr(call.op, "name", "") != "te.tensor_load":
            return call
        return element_of(call.args[0], list(call.args[1:]), readers)

    return tvm_ffi.structural_map(expression, [(tirx.Var, rename), (Call, resolve)], order="post")


__all__ = ["NotInlined", "Readers", "element_of", "substituted"]
