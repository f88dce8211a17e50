"""Canonical activations: limits as ReLU and ReLU6, gates as SiLU and Hardswish."""

from __future__ import annotations

import math

from plait.ir import Value
from plait.ir.ops import core, nn
from plait.passes.canonicalize.arithmetic import is_float
from plait.passes.canonicalize.definition import Canonicalize
from plait.passes.constants import uniform
from plait.passes.rewriter import Replace, Rewriter, Skip, rule


@rule(Canonicalize, "clamp(x) without bounds => x")
def idle_clamp(op: core.Clamp, rw: Rewriter) -> Replace | Skip:
    """A clamp that limits nothing.

    Given:
        %x : f32[B]
        %y = core.clamp(%x) : f32[B]
        return %y
    Result:
        return %x
    """
    if op.low is not None or op.high is not None:
        return Skip(f"it limits to {op.low}..{op.high}")
    return rw.replace_value(op.result, op.x)


@rule(Canonicalize, "clamp(x, 0, 6) => relu6(x); clamp(x, 0) => relu(x)")
def clamp_at_zero(op: core.Clamp, rw: Rewriter) -> Replace | Skip:
    """A clamp that is a rectifier.

    Given:
        %x : f32[B]
        %y = core.clamp(%x) {low=0.0, high=6.0} : f32[B]
        %z = core.clamp(%x) {low=0.0} : f32[B]
        return %y, %z
    Result:
        %y = nn.relu6(%x) : f32[B]
        %z = nn.relu(%x) : f32[B]
        return %y, %z
    """
    if not is_float(op.x):
        return Skip(f"{op.x} is {op.x.type}, no floating-point tensor")
    if op.low == 0 and op.high == 6:
        return rw.replace(op, with_=nn.Relu6(op.x))
    if op.low == 0 and op.high is None:
        return rw.replace(op, with_=nn.Relu(op.x))
    return Skip(f"it limits to {op.low}..{op.high}, neither 0..6 nor 0 and above")


def _limits(value: Value) -> tuple[float, float, Value] | None:
    """Bounds and operand of the op that computes `value`, if it limits a floating-point tensor."""
    op = value.producer
    if not is_float(value):
        return None
    if isinstance(op, nn.Relu):
        return 0.0, math.inf, op.x
    if isinstance(op, nn.Relu6):
        return 0.0, 6.0, op.x
    if isinstance(op, core.Clamp):
        low = -math.inf if op.low is None else op.low
        return low, math.inf if op.high is None else op.high, op.x
    return None


@rule(Canonicalize, "clamp(clamp(x)) => clamp(x)")
def double_clamp(op: core.Clamp | nn.Relu | nn.Relu6, rw: Rewriter) -> Replace | Skip:
    """Two limits, rectifiers included.

    Given:
        %x : f32[B]
        %y = nn.relu(%x) : f32[B]
        %z = core.clamp(%y) {high=6.0} : f32[B]
        return %z
    Result:
        %z = core.clamp(%x) {low=0.0, high=6.0} : f32[B]
        return %z
    """
    outer, inner = _limits(op.result), _limits(op.x)
    if outer is None or inner is None:
        return Skip(f"{op.x} is not limited already")
    low, high = (min(max(bound, outer[0]), outer[1]) for bound in inner[:2])
    merged = core.Clamp(
        inner[2], low=None if math.isinf(low) else low, high=None if math.isinf(high) else high
    )
    assert op.x.producer is not None  # _limits found it
    return rw.replace(op, with_=merged, matched=(op.x.producer,))


@rule(Canonicalize, "maximum(x, c) => clamp(x, c); minimum(x, c) => clamp(x, high=c)")
def limit_by_constant(op: core.Maximum | core.Minimum, rw: Rewriter) -> Replace | Skip:
    """A limit by one number.

    Given:
        %x : f32[B,4]
        %zero = core.full() {value=0.0} : f32[]
        %six = core.full() {value=6.0} : f32[]
        %y = core.maximum(%x, %zero) : f32[B,4]
        %z = core.minimum(%y, %six) : f32[B,4]
        return %z
    Result:
        %y = core.clamp(%x) {low=0.0} : f32[B,4]
        %z = core.clamp(%y) {high=6.0} : f32[B,4]
        return %z
    """
    bound = uniform(op.right)
    if bound is None or not math.isfinite(bound):
        return Skip(f"{op.right} is not known to be one finite number")
    if not is_float(op.left) or op.left.type != op.result.type:
        return Skip(f"{op.left} : {op.left.type} is broadcast, or no floating-point tensor")
    if isinstance(op, core.Maximum):
        return rw.replace(op, with_=core.Clamp(op.left, low=float(bound)))
    return rw.replace(op, with_=core.Clamp(op.left, high=float(bound)))


@rule(Canonicalize, "x * sigmoid(x) => silu(x); x * hardsigmoid(x) => hardswish(x)")
def self_gate(op: core.Mul, rw: Rewriter) -> Replace | Skip:
    """A tensor gated by itself.

    Given:
        %x : f32[B]
        %g = nn.sigmoid(%x) : f32[B]
        %y = core.mul(%x, %g) : f32[B]
        return %y
    Result:
        %y = nn.silu(%x) : f32[B]
        return %y
    """
    if op.act != "none":
        return Skip(f"{op.result} applies {op.act}")
    for x, gated in ((op.left, op.right), (op.right, op.left)):
        gate = gated.producer
        if not isinstance(gate, (nn.Sigmoid, nn.Hardsigmoid)) or gate.x is not x:
            continue
        if gated.use_count > 1:
            return Skip(f"the gate {gated} is read elsewhere too")
        if isinstance(gate, nn.Sigmoid):
            return rw.replace(op, with_=nn.Silu(x), matched=(gate,))
        if is_default_hardsigmoid(gate):
            return rw.replace(op, with_=nn.Hardswish(x), matched=(gate,))
    return Skip("neither operand is the sigmoid or hardsigmoid of the other")


def is_default_hardsigmoid(op: nn.Hardsigmoid) -> bool:
    """Whether alpha and beta are those that `act="hardsigmoid"` and hardswish imply.

    ONNX files carry them as 32-bit floats, hence the tolerance.
    """
    return math.isclose(op.alpha, 1 / 6, rel_tol=1e-6) and op.beta == 0.5
