"""Matrix-product view of an op: convolutions as implicit GEMM, linear layers, attention.

An implicit GEMM of a convolution has one row per output position, one column
per output channel of a group, and a depth of kernel size times input channels of
a group (Chetlur et al., "cuDNN: efficient primitives for deep learning", 2014).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from plait.ir.dims import IntLike, evaluate
from plait.ir.op import Op
from plait.ir.ops import linalg, nn, spike
from plait.ir.ops.nn.conv import Convolution
from plait.ir.types import ShapedType
from plait.ir.value import Value


@dataclass(frozen=True)
class Contraction:
    """`batch` products of [rows, depth] by [depth, columns].

    `convolution` marks an implicit GEMM; `depthwise` one with a single column per
    group, which libraries run on the plain cores.
    """

    batch: int
    rows: int
    columns: int
    depth: int
    convolution: bool = False
    depthwise: bool = False

    @property
    def flops(self) -> int:
        """Two per multiply-accumulate."""
        return 2 * self.batch * self.rows * self.columns * self.depth


def shape_of(value: Value, dims: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a tensor under dim values; empty for a graph value."""
    if not isinstance(value.type, ShapedType):
        return ()
    return tuple(evaluate(dim, dims) for dim in value.type.shape)


def contractions(op: Op, dims: Mapping[str, int]) -> tuple[Contraction, ...]:
    """The matrix products that an op consists of; empty for an op that is none."""
    if isinstance(op, nn.ConvTranspose2d):
        return (_transposed(op, dims),)
    if isinstance(op, Convolution):
        return (_convolution(op, dims),)
    if isinstance(op, (spike.SpikeLinear, spike.SpikeConv2d)) and op.kernel in ("gather_rows", "popcount"):
        return ()  # sums the weights of the inputs that spike, or counts bits: no dense product
    if isinstance(op, spike.SpikeConv2d):
        return (_convolution(op, dims),)
    if isinstance(op, (nn.Linear, spike.SpikeLinear)):
        out, weight = shape_of(op.result, dims), shape_of(op.w, dims)
        return (Contraction(1, prod(out[:-1]), weight[0], weight[1]),)
    if isinstance(op, linalg.Matmul):
        left, out = shape_of(op.left, dims), shape_of(op.result, dims)
        return (_matmul(op, left, out, dims),)
    if isinstance(op, nn.Attention):
        q, k, v = (shape_of(value, dims) for value in (op.q, op.k, op.v))
        batch = prod(q[:-2])
        return (
            Contraction(batch, q[-2], k[-2], q[-1]),
            Contraction(batch, q[-2], v[-1], k[-2]),
        )
    return ()


def _matmul(
    op: linalg.Matmul, left: tuple[int, ...], out: tuple[int, ...], dims: Mapping[str, int]
) -> Contraction:
    # Leading dims that the right operand lacks are more rows of one product.
    if all(size == 1 for size in shape_of(op.right, dims)[:-2]):
        return Contraction(1, prod(out[:-1]), out[-1], left[-1])
    return Contraction(prod(out[:-2]), out[-2], out[-1], left[-1])


def _groups(op: Op) -> int:
    groups: IntLike = getattr(op, "groups", 1)
    return int(groups)


def _convolution(op: Convolution | spike.SpikeConv2d, dims: Mapping[str, int]) -> Contraction:
    out, weight, groups = shape_of(op.result, dims), shape_of(op.w, dims), _groups(op)
    return Contraction(
        batch=groups,
        rows=out[0] * prod(out[2:]),
        columns=weight[0] // groups,
        depth=prod(weight[1:]),
        convolution=True,
        depthwise=groups > 1 and weight[1] == 1,
    )


def _transposed(op: nn.ConvTranspose2d, dims: Mapping[str, int]) -> Contraction:
    x, weight, groups = shape_of(op.x, dims), shape_of(op.w, dims), _groups(op)
    return Contraction(
        batch=groups,
        rows=x[0] * prod(x[2:]),
        columns=weight[1] * prod(weight[2:]),
        depth=weight[0] // groups,
        convolution=True,
        depthwise=groups > 1 and weight[1] == 1 and weight[0] == groups,
    )
