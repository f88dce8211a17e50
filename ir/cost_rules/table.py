"""The table of cost rules: op class -> function of the op and its sizes.

Conventions.  One multiply-accumulate (MAC) is two FLOPs.  An elementwise operation
is one FLOP an element, whatever the element type; a transcendental function counts
`TRANSCENDENTAL`, the length of a usual polynomial with its range reduction, and what
is composed of several counts their sum.  Bytes are those of the operand types and
result types, each value once, at their logical bit width; views move none, and ops
that pick rows read what they pick.  Pads count as elements that take part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from plait.ir.dims import IntLike, evaluate
from plait.ir.op import Op
from plait.ir.region import Region
from plait.ir.types import GraphType, ShapedType
from plait.ir.value import Value

Number = int | float | None

#: FLOPs of exp, log, sin, tanh, erf and the like.
TRANSCENDENTAL = 8

#: FLOPs per element of the activations that an op may fuse.
ACTIVATION_FLOPS: dict[str, int] = {
    "none": 0,
    "relu": 1,
    "relu6": 2,
    "leaky_relu": 2,  # multiply, choose
    "sigmoid": TRANSCENDENTAL + 3,  # negate, exp, add, divide
    "tanh": TRANSCENDENTAL,
    "gelu": TRANSCENDENTAL + 4,  # multiply, erf, add, two multiplies
    "gelu_tanh": TRANSCENDENTAL + 8,  # x^3 and two constants (5), tanh, add, two multiplies
    "silu": TRANSCENDENTAL + 3,  # negate, exp, add, divide
    "hardswish": 5,
    "hardsigmoid": 4,
}

#: FLOPs per element to round a real number to a quantised type: scale, round, zero point, two bounds.
QUANTIZE_FLOPS = 5

#: FLOPs per element to bring a sum to another grid: multiply, add, shift, zero point, two bounds.
FIXED_POINT_FLOPS = 6

#: FLOPs per element of a quantised tensor made real: subtract the zero point, multiply.
DEQUANTIZE_FLOPS = 2

SOFTMAX_FLOPS = TRANSCENDENTAL + 4  # largest, subtract, exp, sum, divide


@dataclass(frozen=True)
class Cost:
    """Work of an op or a graph.

    Attributes:
        macs: multiply-accumulates (of spike ops: synaptic events, which only add).
        flops: operations on elements, two for each dense MAC.
        bytes_read, bytes_written: memory traffic with every value moved once.
        exact: False where a figure is an estimate or a bound.

    A figure that is not known is None; it prints as `?` and makes sums None.
    """

    macs: Number = 0
    flops: Number = 0
    bytes_read: Number = 0
    bytes_written: Number = 0
    exact: bool = True

    def __add__(self, other: Cost) -> Cost:
        return self._combine(other, lambda a, b: a + b, self.exact and other.exact)

    def maximum(self, other: Cost) -> Cost:
        """The larger figure of each kind, an estimate."""
        return self._combine(other, max, False)

    def scaled(self, times: int) -> Cost:
        """The cost of doing it `times` times."""
        return self._combine(self, lambda a, b: a * times, self.exact)

    def figures(self) -> tuple[Number, Number, Number, Number]:
        """macs, flops, bytes read, bytes written."""
        return self.macs, self.flops, self.bytes_read, self.bytes_written

    def _combine(self, other: Cost, how: Callable[[Any, Any], Any], exact: bool) -> Cost:
        """Each figure combined with that of `other`; unknown where either is."""
        macs, flops, read, written = (
            None if a is None or b is None else how(a, b)
            for a, b in zip(self.figures(), other.figures(), strict=True)
        )
        return Cost(macs, flops, read, written, exact)

    @property
    def bytes_moved(self) -> Number:
        """Bytes read and written together."""
        if self.bytes_read is None or self.bytes_written is None:
            return None
        return self.bytes_read + self.bytes_written

    def to_dict(self) -> dict[str, Number | bool]:
        """The figures by name; unknown ones are None."""
        return {
            "macs": self.macs,
            "flops": self.flops,
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "exact": self.exact,
        }

    def __str__(self) -> str:
        mark = "" if self.exact else "~"
        return f"{mark}{engineering(self.flops, 'FLOP')}, {engineering(self.bytes_moved, 'B')}"


UNKNOWN_COST = Cost(None, None, None, None, exact=False)


def engineering(number: Number, unit: str) -> str:
    """`2.36 GFLOP`: three significant digits and a decimal prefix; `? FLOP` where unknown."""
    if number is None:
        return f"? {unit}"
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size * 0.9995:
            return (
                f"{number / size:.3g} {prefix}{unit}"
                if number < size * 999.5
                else f"{number / size:.0f} {prefix}{unit}"
            )
    return f"{number:.0f} {unit}"


@dataclass(frozen=True)
class Sizes:
    """Dim values, and what a rule wants to know of types under them."""

    dims: Mapping[str, int]
    region_cost: Callable[[Region, Mapping[str, int]], Cost]

    def dim(self, dim: IntLike) -> int:
        """Value of a dim.  Raises InputError naming a symbol without a value."""
        return evaluate(dim, self.dims)

    def shape(self, value: Value) -> tuple[int, ...]:
        """Shape of a tensor value."""
        return tuple(evaluate(dim, self.dims) for dim in value.shaped.shape)

    def count(self, value: Value) -> int:
        """Number of elements of a tensor value."""
        return evaluate(value.shaped.count, self.dims)

    def bytes(self, value: Value) -> int:
        """Bytes of a value."""
        assert isinstance(value.type, (ShapedType, GraphType))
        return value.type.bytes_at(self.dims)

    def read(self, op: Op) -> int:
        """Bytes of the operands, each value once."""
        return sum(self.bytes(value) for value in dict.fromkeys(op.operands))

    def written(self, op: Op) -> int:
        """Bytes of the results."""
        return sum(self.bytes(value) for value in op.results)

    def region(self, region: Region) -> Cost:
        """Cost of the ops of a region, done once."""
        return self.region_cost(region, self.dims)

    def cost(self, op: Op, *, flops: Number = 0, macs: Number = 0, exact: bool = True) -> Cost:
        """A cost with the whole operands read and the whole results written."""
        return Cost(macs, flops, self.read(op), self.written(op), exact)


Rule = Callable[[Any, Sizes], Cost]
F = TypeVar("F", bound=Rule)

RULES: dict[type[Op], Rule] = {}


def cost_rule(*classes: type[Op]) -> Callable[[F], F]:
    """Register a function as the cost rule of op classes.  Raises TypeError when one has some already."""

    def register(function: F) -> F:
        for cls in classes:
            if cls in RULES:
                raise TypeError(f"op {cls.opname} has a cost rule already")
            RULES[cls] = function
        return function

    return register
