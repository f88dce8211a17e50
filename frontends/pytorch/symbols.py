"""Sizes: sympy expressions of torch.export to dims of the IR."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import sympy  # type: ignore[import-untyped]
import torch

from plait.ir.dims import IntLike, floor_div, maximum, minimum, modulo
from plait.ir.errors import LoweringError

#: Functions of two sizes, by the name of their sympy class.
_BINARY: dict[str, Callable[[IntLike, IntLike], IntLike]] = {
    "FloorDiv": floor_div,
    "CleanDiv": floor_div,
    "Mod": modulo,
    "PythonMod": modulo,
}
#: Functions of any number of sizes.
_VARIADIC: dict[str, Callable[[IntLike, IntLike], IntLike]] = {
    "Add": operator.add,
    "Mul": operator.mul,
    "Min": minimum,
    "Max": maximum,
}
#: Roundings and conversions that leave a whole number as it is.
_IDENTITY = frozenset(("TruncToInt", "FloorToInt", "CeilToInt", "RoundToInt", "ToFloat", "Identity", "floor"))


class UnknownSize(Exception):
    """A size is no expression of the sizes of the inputs, for it depends on the data or is not whole."""


class SymbolTable:
    """Translates sizes of the exported program; `symbols` maps the name of a torch symbol to a dim."""

    def __init__(self, symbols: Mapping[str, IntLike]) -> None:
        self.symbols = dict(symbols)

    def unbound(self, values: Sequence[int | torch.SymInt]) -> list[str]:
        """Torch symbols in a shape that have no dim: sizes that depend on the data of a tensor."""
        free = [s.name for v in values if not isinstance(v, int) for s in v.node.expr.free_symbols]
        return [name for name in dict.fromkeys(sorted(free)) if name not in self.symbols]

    def size(self, value: int | torch.SymInt) -> IntLike:
        """The dim of a size.  Raises UnknownSize where the IR cannot express it."""
        return value if isinstance(value, int) else self.expression(value.node.expr)

    def shape(self, values: torch.Size) -> tuple[IntLike, ...]:
        """The dims of a shape."""
        return tuple(self.size(value) for value in values)

    def expression(self, expression: sympy.Expr) -> IntLike:
        """The dim of a sympy expression.  Raises UnknownSize where the IR cannot express it."""
        if expression.is_Integer:
            return int(expression)
        if isinstance(expression, sympy.Float) and float(expression).is_integer():
            return int(expression)
        if isinstance(expression, sympy.Symbol):
            if expression.name not in self.symbols:
                raise UnknownSize(f"size {expression.name} depends on the data of a tensor")
            return self.symbols[expression.name]
        kind = type(expression).__name__
        if isinstance(expression, sympy.Pow) and expression.exp.is_Integer and int(expression.exp) >= 0:
            base = self.expression(expression.base)
            return reduce(operator.mul, [base] * int(expression.exp), 1)
        if kind in _IDENTITY:
            return self.expression(expression.args[0])
        arguments = expression.args
        if kind == "Mul" and any(a.is_Rational and not a.is_Integer for a in arguments):
            return self._fraction(expression)
        if kind in _BINARY or kind in _VARIADIC:
            combine = _BINARY.get(kind) or _VARIADIC[kind]
            return reduce(combine, (self.expression(argument) for argument in arguments))
        raise UnknownSize(
            f"size {expression} is no sum, product, quotient, remainder, minimum or maximum of sizes"
        )

    def _fraction(self, expression: sympy.Expr) -> IntLike:
        """A whole-valued product with a rational factor, as an exact floor division."""
        numerator, denominator = expression.as_numer_denom()
        if not denominator.is_Integer:
            raise UnknownSize(f"size {expression} is not whole")
        return floor_div(self.expression(numerator), int(denominator))


def solve_symbol(size: torch.SymInt, wanted: IntLike, root: IntLike, parameter: str) -> tuple[str, IntLike]:
    """The torch symbol inside `size` and its value, given that `size` equals the dim `wanted`.

    Both are linear in one symbol, a*s + b and c*root + d, with a dividing c and d - b.

    Raises:
        LoweringError: the expressions have different forms.
    """
    expression = size.node.expr
    free = sorted(expression.free_symbols, key=str)
    if len(free) == 1:
        polynomial = sympy.Poly(expression, free[0]) if expression.is_polynomial(free[0]) else None
        if polynomial is not None and polynomial.degree() == 1:
            slope, offset = (int(c) for c in polynomial.all_coeffs())
            value = floor_div(wanted - offset, slope)
            if value * slope + offset == wanted:
                return str(free[0]), value
    raise LoweringError(
        f"torch.export made the size {expression} of the dynamic dim {wanted} of '{parameter}'",
        why=f"this cannot be solved for {root}",
        remedy="give each independent size a name of its own in dynamic=",
    )
