"""How tensors and ops are to be quantised: widths, grids, and where a scale changes.

Scheme(bits=4, group=32)                       # int4, one scale for each 32 weights of a row
OpScheme(weight=Scheme(bits=8, axis=0))        # weights only
INT8                                           # 8-bit activations and weights, the default
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from plait.ir import InputError, QuantType
from plait.ir.types import Shape

MIN_BITS, MAX_BITS = 2, 8


@dataclass(frozen=True)
class Scheme:
    """The grid of one tensor: real = scale * (stored - zero_point).

    Args:
        bits: width, 2..8.
        symmetric: zero_point is 0; otherwise it is fitted (affine).
        signed: two's complement or unsigned integers.
        axis: the axis along which each slice has a scale of its own; None for one scale.
        group: number of neighbouring elements of the last axis that share a scale; excludes `axis`.
        narrow: leave out the lowest integer, so that the range is symmetric too (-127..127); signed only.

    Raises InputError for bits outside 2..8, a group below 1, `axis` beside `group`, or an unsigned
    narrow range, which would leave out zero.
    """

    bits: int = 8
    symmetric: bool = True
    signed: bool = True
    axis: int | None = None
    group: int | None = None
    narrow: bool = False

    def __post_init__(self) -> None:
        if (
            isinstance(self.bits, bool)
            or not isinstance(self.bits, int)
            or not (MIN_BITS <= self.bits <= MAX_BITS)
        ):
            raise InputError(
                f"bits is {self.bits!r}",
                where="Scheme",
                why=f"a quantised tensor has {MIN_BITS} to {MAX_BITS} bits",
                remedy="give a whole number in that range; for 16 bits use the precision pass",
            )
        if self.narrow and not self.signed:
            raise InputError(
                "an unsigned range is narrow", where="Scheme", why="its lowest integer stands for zero"
            )
        if self.group is not None and self.group < 1:
            raise InputError(f"group is {self.group}", where="Scheme", why="a group has one element or more")
        if self.group is not None and self.axis is not None:
            raise InputError(
                f"axis={self.axis} and group={self.group} are both given",
                where="Scheme",
                why="groups run along the last axis of every row, which has a scale for each group",
                remedy="give one of them",
            )

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest stored integer in use."""
        if self.signed:
            high = (1 << (self.bits - 1)) - 1
            return (-high if self.narrow else -high - 1), high
        return 0, (1 << self.bits) - 1

    @property
    def levels(self) -> int:
        """Number of grid points."""
        low, high = self.range
        return high - low + 1

    def type_of(self, shape: Shape, scale: float | str, zero_point: int | str = 0) -> QuantType:
        """The quantised type of a tensor under this scheme; scale and zero point by value or by reference."""
        axis = self.axis if self.group is None else len(shape) - 1
        return QuantType(self.bits, self.signed, scale, shape, zero_point, axis, self.group)

    def with_bits(self, bits: int) -> Scheme:
        """The same scheme at another width."""
        return replace(self, bits=bits)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        kind = f"{'int' if self.signed else 'uint'}{self.bits}"
        parts = [kind, "symmetric" if self.symmetric else "affine"]
        if self.axis is not None:
            parts.append(f"axis {self.axis}")
        if self.group is not None:
            parts.append(f"group {self.group}")
        return " ".join(parts)


@dataclass(frozen=True)
class OpScheme:
    """How an op is quantised: its activations and its weights.

    Attributes:
        activation: of the operands that are computed, and of the result; None leaves them in floating point.
        weight: of constant weights; None leaves them, and with them the op, in floating point.
    """

    activation: Scheme | None = Scheme(8, symmetric=False)
    weight: Scheme | None = Scheme(8, axis=0, narrow=True)

    def __post_init__(self) -> None:
        if self.activation is not None and (self.activation.axis, self.activation.group) != (None, None):
            raise InputError(
                f"the scheme of activations is {self.activation}",
                where="OpScheme",
                why="integer arithmetic needs one scale for a whole activation",
                remedy="leave out axis and group",
            )
        if self.activation is None and self.weight is None:
            raise InputError(
                "neither activations nor weights are quantised", where="OpScheme", remedy="use None"
            )

    @property
    def weight_only(self) -> bool:
        """Whether activations stay in floating point."""
        return self.activation is None

    def with_bits(self, bits: int) -> OpScheme:
        """The same schemes at another width."""
        return OpScheme(
            None if self.activation is None else self.activation.with_bits(bits),
            None if self.weight is None else self.weight.with_bits(bits),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        activation = "float activations" if self.activation is None else f"activations {self.activation}"
        return f"{activation}, " + ("float weights" if self.weight is None else f"weights {self.weight}")


#: 8-bit activations with a zero point, 8-bit weights with a scale for each output.
INT8 = OpScheme()
#: 8-bit weights, floating-point activations.
INT8_WEIGHT_ONLY = OpScheme(activation=None)
#: 4-bit weights in groups of 32 along each row, floating-point activations.
INT4_WEIGHT_ONLY = OpScheme(activation=None, weight=Scheme(4, group=32))


@dataclass(frozen=True)
class Grid:
    """A scheme with its numbers: what a tensor is quantised with.

    Attributes:
        scale: float32; shape () per tensor, [slices] along an axis, or, in groups, the shape of
            the tensor with the number of groups in the place of the last axis.
        zero_point: int32 of the same shape; zeros where the scheme is symmetric.
    """

    scheme: Scheme
    scale: np.ndarray
    zero_point: np.ndarray

    def __post_init__(self) -> None:
        scale = np.asarray(self.scale, np.float32)
        zero = np.broadcast_to(np.asarray(self.zero_point, np.int32), scale.shape).copy()
        if not np.all(np.isfinite(scale)) or np.any(scale <= 0):
            raise InputError(
                "a scale is not positive and finite",
                where="Grid",
                why=f"the scales run from {scale.min()} to {scale.max()}",
                remedy="check the data that the range was taken from",
            )
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "zero_point", zero)

    def spread(self, parameter: np.ndarray, rank: int) -> np.ndarray:
        """Scale or zero point, shaped so that it broadcasts against a tensor of `rank` axes."""
        if self.scheme.group is not None:
            return parameter.repeat(self.scheme.group, axis=-1)
        if self.scheme.axis is None:
            return parameter.reshape(())
        axis = self.scheme.axis % rank
        return parameter.reshape([-1 if i == axis else 1 for i in range(rank)])

    def quantise(self, real: np.ndarray) -> np.ndarray:
        """Stored integers (int8 or uint8): round(real / scale) + zero_point, halves to even, saturated."""
        low, high = self.scheme.range
        scale = self.spread(self.scale, real.ndim).astype(np.float32)
        zero = self.spread(self.zero_point, real.ndim)
        whole = np.rint(real.astype(np.float32) / scale) + zero
        return np.clip(whole, low, high).astype(np.int8 if self.scheme.signed else np.uint8)

    def dequantise(self, stored: np.ndarray) -> np.ndarray:
        """Real numbers in float32."""
        zero = self.spread(self.zero_point, stored.ndim)
        whole = (stored.astype(np.int32) - zero).astype(np.float32)
        found: np.ndarray = whole * self.spread(self.scale, stored.ndim)
        return found


def grid_from_range(scheme: Scheme, low: np.ndarray | float, high: np.ndarray | float) -> Grid:
    """The grid that covers low..high, and zero: zero must be a grid point, as padding and ReLU give it.

    Args:
        low: smallest value, by slice or group (see `Grid.scale`).
        high: largest value.

    A range that holds nothing but zero gets the scale 1.
    """
    low = np.minimum(np.asarray(low, np.float64), 0.0)
    high = np.maximum(np.asarray(high, np.float64), 0.0)
    first, last = scheme.range
    if scheme.symmetric:
        # An unsigned symmetric grid starts at zero, so it covers what is not negative.
        bound = np.maximum(-low, high) if scheme.signed else high
        scale = bound / last
        zero = np.zeros(scale.shape, np.int32)
    else:
        scale = (high - low) / (last - first)
        with np.errstate(divide="ignore", invalid="ignore"):
            zero = np.where(scale > 0, np.rint(first - low / np.where(scale > 0, scale, 1.0)), 0)
        zero = np.clip(zero, first, last).astype(np.int32)
    tiny = np.finfo(np.float32).tiny
    scale = np.where(scale > tiny, scale, 1.0)
    return Grid(scheme, scale.astype(np.float32), zero)


def slices_of(array: np.ndarray, scheme: Scheme, where: str = "the tensor") -> np.ndarray:
    """The elements that share a scale, along the last axis of the result.

    Returns [1, count] per tensor, [slices, count] along an axis, [..., groups, group] in groups.
    Raises InputError where groups do not divide the last axis, or the axis does not exist.
    """
    if scheme.group is not None:
        if array.ndim == 0 or array.shape[-1] % scheme.group:
            raise InputError(
                f"groups of {scheme.group} do not divide its last axis",
                where=where,
                why=f"its shape is {list(array.shape)}",
                remedy="use a group that divides the last axis, or axis=0",
            )
        return array.reshape(*array.shape[:-1], -1, scheme.group)
    if scheme.axis is None:
        return array.reshape(1, -1)
    if not -array.ndim <= scheme.axis < array.ndim:
        raise InputError(
            f"it has no axis {scheme.axis}", where=where, why=f"its shape is {list(array.shape)}"
        )
    return np.moveaxis(array, scheme.axis, 0).reshape(array.shape[scheme.axis], -1)


def parameter_shape(array: np.ndarray, scheme: Scheme) -> tuple[int, ...]:
    """The shape of the scale of a tensor under a scheme (see `Grid.scale`)."""
    if scheme.group is not None:
        return (*array.shape[:-1], array.shape[-1] // scheme.group)
    return () if scheme.axis is None else (array.shape[scheme.axis],)


def grid_of_weight(scheme: Scheme, array: np.ndarray, where: str = "the weight") -> Grid:
    """The grid that covers all elements of a tensor, from the smallest to the largest of each slice."""
    rows = slices_of(array.astype(np.float64), scheme, where)
    shape = parameter_shape(array, scheme)
    return grid_from_range(scheme, rows.min(-1).reshape(shape), rows.max(-1).reshape(shape))
