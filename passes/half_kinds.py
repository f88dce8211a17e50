"""Which ops take halves, and which keep 32 bits, with the reason: the table of the pass `precision`."""

from __future__ import annotations

import math

from plait.ir import Constant, Op, TensorType, Value
from plait.ir.ops import core, linalg, message, nn, prob, quant, spike
from plait.ir.types import f32

#: Ops that multiply: they always take halves, which tensor cores multiply and sum up in f32.
PRODUCTS: tuple[type[Op], ...] = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear, linalg.Matmul,
    nn.Attention,
)  # fmt: skip

#: Ops that give halves where all that they read are halves.  Softmax is among them: its powers and
#: their sum are held in f32 by the reference semantics and by the code for both targets.
FOLLOWERS: tuple[type[Op], ...] = (
    core.Abs, core.Add, core.ArgMax, core.ArgMin, core.Broadcast, core.Cast, core.Ceil, core.Clamp,
    core.Concat, core.Div, core.Eq, core.Erf, core.Flip, core.Floor, core.GatherElements, core.GatherND,
    core.Ge, core.Gt, core.IsInf, core.IsNan, core.Le, core.Lt, core.Max, core.Maximum, core.Mean, core.Min,
    core.Minimum, core.Mul, core.Ne, core.Neg, core.Nonzero, core.Pad, core.Reshape, core.Roll, core.Round,
    core.ScatterElements, core.ScatterND, core.Sign, core.Slice, core.Sort, core.Sqrt, core.Sub, core.Sum,
    core.Take, core.TopK, core.Transpose, core.Triangle, core.Trunc, core.Unique, core.Where, message.Gather,
    nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Elu, nn.Embedding, nn.Gelu, nn.Hardsigmoid, nn.Hardswish,
    nn.LeakyRelu, nn.MaxPool2d, nn.MaxPoolIndices, nn.Prelu, nn.Relu, nn.Relu6, nn.Resize2d, nn.Selu,
    nn.Sigmoid, nn.Silu, nn.Softmax, nn.Tanh, quant.Quantize,
)  # fmt: skip

#: A sum of more elements than this is one of f32: halves have 11 bits (bf16 8), of which adding n
#: numbers one after another may cost log2(n).
LONGEST_SUM = 16

_RANGE = "it leaves the range of halves, or the part of it that has digits"
_STATISTICS = "its sums of squares and its epsilon need the range and the digits of f32"
_SUMS = "long sums of halves lose what is small beside them"
_PLACES = "large angles and positions have no digits left for their fraction"
_LIMITS = "near its limits, small differences of the operand are large ones of the result"
_FACTORS = "errors of a factorisation grow with the condition of the matrix"
_STATE = "small steps are lost beside the state that they are added to"
_COMPLEX = "complex numbers have parts of 32 bits or more"

#: Ops that stay in f32, with the reason.
KEPT: dict[type[Op], str] = {
    **dict.fromkeys(
        (core.Exp, core.Expm1, core.Sinh, core.Cosh, core.Tan, core.Pow, core.Reciprocal), _RANGE
    ),
    **dict.fromkeys((core.Rsqrt, core.Prod, core.CumProd, nn.Softplus, nn.Mish), _RANGE),
    **dict.fromkeys((nn.BatchNorm, nn.LayerNorm, nn.RmsNorm, nn.GroupNorm, nn.InstanceNorm), _STATISTICS),
    nn.LocalResponseNorm: _STATISTICS,
    **dict.fromkeys((core.CumSum, nn.Fold, message.Aggregate, message.SegmentReduce, message.Sddmm), _SUMS),
    message.EdgeSoftmax: _SUMS,
    **dict.fromkeys(
        (core.Log, core.Log1p, core.Acos, core.Asin, core.Acosh, core.Asinh, core.Atanh), _LIMITS
    ),
    **dict.fromkeys((nn.LogSoftmax, prob.LogSumExp), _LIMITS),
    **dict.fromkeys((core.Sin, core.Cos, core.Atan, core.Atan2, core.Remainder, core.Fmod), _PLACES),
    **dict.fromkeys((core.FloorDiv, core.Iota, nn.GridSample, nn.NonMaxSuppression), _PLACES),
    **dict.fromkeys((linalg.Cholesky, linalg.TriangularSolve, linalg.Eigh, linalg.LU, linalg.QR), _FACTORS),
    linalg.SVD: _FACTORS,
    **dict.fromkeys(
        (spike.Threshold, spike.SpikeLinear, spike.SpikeConv2d, spike.IntegrateAndFire, spike.Lif), _STATE
    ),
    **dict.fromkeys(
        (spike.FirstSpikeConv2d, spike.RankOrderCode, spike.Winners),
        "a spike is earlier or later by the rounding of a number",
    ),
    spike.Stdp: "changes of weights are below the step of half precision",
    **dict.fromkeys((core.Complex, core.Real, core.Imag), _COMPLEX),
    core.Dft: _SUMS,
    core.Random: "in another element type it would draw other numbers",
    core.BitCast: "it reads the bits of f32",
    quant.FakeQuant: "its grid is one of f32 numbers",
    quant.Dequantize: "it gives f32",
    message.Degree: "it counts in f32",
}


def is_f32(value: Value) -> bool:
    """Whether a value is a dense tensor of f32."""
    return isinstance(value.type, TensorType) and value.type.dtype is f32


def is_neutral(value: Value) -> bool:
    """Whether an f32 value comes in halves as readily: a constant, a fill, a truth value as a number."""
    if isinstance(value, Constant) or isinstance(value.producer, core.Full):
        return True
    return isinstance(value.producer, core.Cast) and value.producer.x.shaped.dtype.kind == "bool"


def reason_to_keep(op: Op) -> str | None:
    """Why an op of this kind, or of this size, stays in f32; None where it may take halves."""
    if op.regions:
        return "it holds a region"
    for kind, reason in KEPT.items():
        if isinstance(op, kind):
            return reason
    if not isinstance(op, (*PRODUCTS, *FOLLOWERS)):
        return "nothing is known about its precision"
    if getattr(op, "reduce", "none") in ("add", "mul"):
        return _SUMS
    summed = summed_elements(op)
    return _SUMS if summed is None or summed > LONGEST_SUM else None


def summed_elements(op: Op) -> int | None:
    """How many elements are summed for one of the result: 1 by other ops, None where a run shows it."""
    if isinstance(op, (core.Sum, core.Mean)):
        sizes = [op.x.shaped.shape[axis] for axis in op.axes]
    elif isinstance(op, nn.AvgPool2d):
        return math.prod(op.kernel)
    elif isinstance(op, nn.AdaptiveAvgPool2d):
        sizes = [(dim + n - 1) // n for dim, n in zip(op.x.shaped.shape[2:], op.size, strict=True)]
    else:
        return 1
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if len(known) == len(sizes) else None
