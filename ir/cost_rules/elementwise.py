"""Cost of elementwise ops and activations: a number of FLOPs per element of the result."""

from __future__ import annotations

from plait.ir.cost_rules.table import ACTIVATION_FLOPS, SOFTMAX_FLOPS, TRANSCENDENTAL, Cost, Sizes, cost_rule
from plait.ir.op import Op
from plait.ir.ops import core, nn

ELEMENT_FLOPS: dict[type[Op], int] = {
    **dict.fromkeys(
        (
            core.Neg,
            core.Abs,
            core.Sign,
            core.Sqrt,
            core.Rsqrt,
            core.Reciprocal,
            core.Floor,
            core.Ceil,
            core.Round,
            core.Trunc,
            core.Not,
            core.IsNan,
            core.IsInf,
            core.Cast,
            core.FloorDiv,
            core.Maximum,
            core.Minimum,
            core.Eq,
            core.Ne,
            core.Lt,
            core.Le,
            core.Gt,
            core.Ge,
            core.And,
            core.Or,
            core.Xor,
            core.ShiftLeft,
            core.ShiftRight,
            core.Where,
            nn.Relu,
        ),
        1,
    ),
    **dict.fromkeys(
        (
            core.Exp,
            core.Expm1,
            core.Log,
            core.Log1p,
            core.Sin,
            core.Cos,
            core.Tan,
            core.Asin,
            core.Acos,
            core.Atan,
            core.Sinh,
            core.Cosh,
            core.Asinh,
            core.Acosh,
            core.Atanh,
            core.Erf,
            core.Atan2,
            nn.Tanh,
        ),
        TRANSCENDENTAL,
    ),
    core.BitCast: 0,
    core.Pow: 2 * TRANSCENDENTAL + 1,  # exp(right * log(left))
    core.Fmod: 4,  # divide, truncate, multiply, subtract
    core.Remainder: 4,  # divide, floor, multiply, subtract
    nn.Relu6: 2,
    nn.LeakyRelu: 2,
    nn.Prelu: 2,
    nn.Elu: TRANSCENDENTAL + 2,
    nn.Selu: TRANSCENDENTAL + 3,
    nn.Sigmoid: ACTIVATION_FLOPS["sigmoid"],
    nn.Silu: ACTIVATION_FLOPS["silu"],
    nn.Softplus: 2 * TRANSCENDENTAL + 2,  # multiply, exp, log1p, divide
    nn.Mish: 3 * TRANSCENDENTAL + 1,  # exp, log1p, tanh, multiply
    nn.Hardswish: ACTIVATION_FLOPS["hardswish"],
    nn.Hardsigmoid: ACTIVATION_FLOPS["hardsigmoid"],
    nn.Softmax: SOFTMAX_FLOPS,
}


@cost_rule(*ELEMENT_FLOPS)
def elementwise(op: Op, sizes: Sizes) -> Cost:
    """The table's FLOPs for each element of the result."""
    return sizes.cost(op, flops=ELEMENT_FLOPS[type(op)] * sizes.count(op.result))


@cost_rule(core.Add, core.Sub, core.Mul, core.Div)
def arithmetic(op: core.Arithmetic, sizes: Sizes) -> Cost:
    """One FLOP and the fused activation."""
    return sizes.cost(op, flops=(1 + ACTIVATION_FLOPS[op.act]) * sizes.count(op.result))


@cost_rule(core.Clamp)
def clamp(op: core.Clamp, sizes: Sizes) -> Cost:
    """One FLOP for each bound."""
    return sizes.cost(op, flops=((op.low is not None) + (op.high is not None)) * sizes.count(op.result))


@cost_rule(nn.Gelu)
def gelu(op: nn.Gelu, sizes: Sizes) -> Cost:
    """By erf or tanh."""
    kind = "gelu" if op.approximate == "none" else "gelu_tanh"
    return sizes.cost(op, flops=ACTIVATION_FLOPS[kind] * sizes.count(op.result))


@cost_rule(nn.LogSoftmax)
def log_softmax(op: nn.LogSoftmax, sizes: Sizes) -> Cost:
    """Largest, subtract, exp, sum and subtract per element; a logarithm per row."""
    count = sizes.count(op.result)
    rows = count // max(sizes.shape(op.x)[op.axis], 1)
    return sizes.cost(op, flops=SOFTMAX_FLOPS * count + TRANSCENDENTAL * rows)
