"""Rules: a number read from a tensor stays a scalar tensor, and what is computed with it too."""

from __future__ import annotations

from collections.abc import Callable

from plait.frontends.pytorch.builder import Builder, Operand
from plait.frontends.pytorch.registry import register
from plait.ir import types as t
from plait.ir.op import Op
from plait.ir.ops import core
from plait.ir.value import Value

_ARITHMETIC: dict[str, Callable[[Value, Value], Op]] = {
    "operator.add": core.Add,
    "operator.sub": core.Sub,
    "operator.mul": core.Mul,
    "operator.floordiv": core.FloorDiv,
    "operator.mod": core.Remainder,
    "torch.sym_max": core.Maximum,
    "torch.sym_min": core.Minimum,
    "operator.eq": core.Eq,
    "operator.ne": core.Ne,
    "operator.lt": core.Lt,
    "operator.le": core.Le,
    "operator.gt": core.Gt,
    "operator.ge": core.Ge,
}


@register("aten._local_scalar_dense.default")
def local_scalar_dense(build: Builder, x: Value) -> Value:
    """`x.item()`; a size that is made of it is refused where it occurs."""
    return build.reshape(x, ())


def whole_number_rule(name: str) -> Callable[[Builder, Operand, Operand], Value] | None:
    """Arithmetic and comparison of whole numbers, at least one of them read from a tensor."""
    operation = _ARITHMETIC.get(name)
    if operation is None:
        return None

    def rule(build: Builder, left: Operand, right: Operand) -> Value:
        dtypes = [build.kind(x).dtype for x in (left, right) if isinstance(x, Value)]
        dtype = next((each for each in dtypes if each.is_float), t.i64)
        return build.emit(operation(build.operand(left, dtype), build.operand(right, dtype)))

    return rule
