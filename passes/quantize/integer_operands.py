"""What a layer in QDQ form reads as integers: its operands, their scales, and its bias in whole numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from plait.ir import Graph, InputError, QuantType, Value
from plait.ir.dims import bounds
from plait.ir.fixed_point import product_factor, scale_of
from plait.ir.ops import linalg, nn
from plait.ir.types import i32
from plait.passes.constants import dense_data
from plait.passes.quantize.raise_base import data_of, has_one_scale, source_of, stored_constant
from plait.passes.rewriter import Rewriter, Skip

#: Ops that sum products of their first two operands.
Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear | linalg.Matmul
LAYERS: tuple[type[Layer], ...] = get_args(Layer)
_LARGEST = (1 << 31) - 1


@dataclass(frozen=True)
class IntegerOperands:
    """Operands of a layer as stored integers.

    Attributes:
        x, w: quantised tensors.
        scales: what one unit of the sum stands for, s_x * s_w: float64, shape () or [outputs].
        room: the largest |bias| that leaves the sum in 32 bits.
    """

    x: Value
    w: Value
    scales: np.ndarray
    room: int


def bias_of(layer: Layer) -> Value | None:
    return None if isinstance(layer, linalg.Matmul) else layer.b


def output_axis(layer: Layer) -> int:
    """The axis of the weights that holds the outputs."""
    return layer.right.shaped.rank - 1 if isinstance(layer, linalg.Matmul) else 0


def with_operands(layer: Layer, x: Value, w: Value, b: Value | None, **fields: Any) -> Layer:
    """The same layer on other operands."""
    if isinstance(layer, linalg.Matmul):
        return layer.evolve(left=x, right=w, **fields)
    return layer.evolve(x=x, w=w, b=b, **fields)


def along_outputs(layer: Layer, vector: np.ndarray) -> np.ndarray:
    """A number for each output, shaped to broadcast against the result of a layer."""
    spatial = getattr(layer, "spatial", 0)
    return vector.reshape(-1, *(1,) * spatial)


def integer_operands(layer: Layer, graph: Graph) -> IntegerOperands | Skip:
    """The operands of a layer whose sum has one scale for each output, or why it has none."""
    x, w = source_of(layer.operands[0]), source_of(layer.operands[1])
    if isinstance(x, Skip):
        return x
    if isinstance(w, Skip):
        return w
    left, right = x.type, w.type
    if not has_one_scale(left):
        return Skip(f"{x} : {left} has several scales")
    assert isinstance(right, QuantType)
    if right.group is not None or right.axis not in (None, output_axis(layer)):
        return Skip(f"the scale of {w} : {right} varies along the summed axes")
    scales, zero = data_of(graph, right.scale), data_of(graph, right.zero_point)
    if scales is None or zero is None:
        return Skip(f"a parameter of {w} : {right} has no data")
    assert isinstance(left.scale, float)
    largest = _largest_sum(layer, x, w, zero, graph)
    if largest > _LARGEST:
        return Skip(f"its sums reach {largest}, more than 32 bits hold")
    spread = scales.astype(np.float64) if right.axis is not None else scales.astype(np.float64).reshape(())
    return IntegerOperands(x, w, np.asarray(left.scale * spread), _LARGEST - largest)


def _largest_sum(layer: Layer, x: Value, w: Value, zero: np.ndarray, graph: Graph) -> int:
    """A bound of |sum of (x - z_x) * (w - z_w)|: by the weights where they are known, else by their range."""
    left, right = x.type, w.type
    assert isinstance(left, QuantType)
    assert isinstance(right, QuantType)
    reach = max(abs(bound - int(left.zero_point)) for bound in left.range)
    constant = stored_constant(w)
    axis = output_axis(layer)
    if constant is not None and constant.data.size:
        spread = (
            zero.reshape([-1 if i == right.axis else 1 for i in range(right.rank)]) if zero.ndim else zero
        )
        sizes = np.abs(constant.data.astype(np.int64) - spread)
        summed = (right.rank - 2,) if isinstance(layer, linalg.Matmul) else tuple(range(axis + 1, right.rank))
        return reach * int(sizes.sum(axis=summed).max())
    depth: int | None = 1
    dims = right.shape[-2:-1] if isinstance(layer, linalg.Matmul) else right.shape[1:]
    for dim in dims:
        high = dim if isinstance(dim, int) else bounds(dim, graph.bounds())[1]
        depth = None if high is None or depth is None else depth * high
    if depth is None:
        return 0  # nothing limits the depth, so that no bound is known
    widest = max(abs(bound - int(point)) for bound in right.range for point in np.unique(zero))
    return reach * widest * depth


def integer_bias(layer: Layer, found: IntegerOperands, rw: Rewriter) -> Value | Skip | None:
    """round(b / (s_x * s_w)) as an i32 constant; None where there is no bias."""
    given = bias_of(layer)
    if given is None:
        return None
    data = dense_data(given)
    if data is None:
        return Skip(f"the bias {given} is no constant with data")
    whole = np.rint(data.astype(np.float64) / found.scales)
    largest = float(np.abs(whole).max(initial=0.0))
    if not largest <= found.room:
        return Skip(
            f"the bias {given} reaches {largest:.3g} units of the sum, which has room for {found.room}"
        )
    return rw.constant(f"{given.name}.{i32}", whole.astype(np.int32))


def no_factor(found: IntegerOperands, out: QuantType, graph: Graph) -> Skip | None:
    """Why a sum cannot be brought to the grid of `out` by integers; None where it can."""
    left, right = found.x.type, found.w.type
    assert isinstance(left, QuantType)
    assert isinstance(right, QuantType)
    try:
        product_factor(
            scale_of(left, lambda name: graph.constants[name].data),
            scale_of(right, lambda name: graph.constants[name].data),
            out,
        )
    except InputError as problem:
        return Skip(f"{problem.what}: {problem.why}")
    return None
