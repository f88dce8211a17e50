"""waves-to-first-spikes: dense cumulative waves become first-spike times, which are computed by events.

A neuron of a rank-order network fires once.  Its wave of T zeros and ones says no more than one number, and
the T convolutions of a layer are one pass over the events of its inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from plait.ir import TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core, spike
from plait.passes.base import register
from plait.passes.constants import dense_data, uniform
from plait.passes.rewriter import Replace, Rewriter, Skip, rule
from plait.passes.spike.remarks import RemarkingPass
from plait.passes.spike.waves import clock_steps, wave_of


@register
@dataclass(frozen=True)
class WavesToFirstSpikes(RemarkingPass):
    """Compute first-spike times by layers on such times, where they are read off a dense wave.

    Times stay the same but where a potential meets the threshold up to rounding: sums have another order.
    Weights that are not known, or negative, keep the dense form, and a remark says so.

    Given:
        @w : f32[3,2,2,2]
        %t : u8[4,1,2,3,3]
        %c = core.iota() : u8[5]
        %k = core.reshape(%c) : u8[1,5,1,1,1]
        %e = core.le(%t, %k) : bool[4,5,2,3,3]
        %f = core.cast(%e) : f32[4,5,2,3,3]
        %x = core.reshape(%f) : f32[20,2,3,3]
        %p = nn.conv2d(%x, @w) : f32[20,3,2,2]
        %v = core.full() {value=1.5} : f32[]
        %g = core.gt(%p, %v) : bool[20,3,2,2]
        %z = core.reshape(%g) : bool[4,5,3,2,2]
        %n = core.full() {value=5} : u8[]
        %s = core.where(%z, %k, %n) : u8[4,5,3,2,2]
        %m = core.min(%s) {axes=[1]} : u8[4,3,2,2]
        return %m
    Result:
        %times = core.reshape(%t) : u8[4,2,3,3]
        %g.times = spike.first_spike_conv2d(%times, @w) {steps=5, v_th=1.5} : u8[4,3,2,2]
        %m = core.cast(%g.times) : u8[4,3,2,2]
        return %m
    """

    name: ClassVar[str] = "waves-to-first-spikes"
    follows: ClassVar[tuple[str, ...]] = ("fold-batch-norm",)


@rule(WavesToFirstSpikes, "first step of a wave => its first-spike times")
def read_times(op: core.Min, rw: Rewriter) -> Replace | Skip:
    """The smallest step at which a wave is 1, T where it never is.

    Given:
        %t : i64[2,1,2,3,3]
        %c = core.iota() : i64[5]
        %k = core.reshape(%c) : i64[1,5,1,1,1]
        %e = core.le(%t, %k) : bool[2,5,2,3,3]
        %n = core.full() {value=5} : i64[]
        %s = core.where(%e, %k, %n) : i64[2,5,2,3,3]
        %m = core.min(%s) {axes=[1]} : i64[2,2,3,3]
        return %m
    Result:
        %times.clamp = core.clamp(%t) {low=0.0, high=5.0} : i64[2,1,2,3,3]
        %times.cast = core.cast(%times.clamp) : u8[2,1,2,3,3]
        %times = core.reshape(%times.cast) : u8[2,2,3,3]
        %m = core.cast(%times) : i64[2,2,3,3]
        return %m
    """
    chosen = op.x.producer
    if tuple(op.axes) != (1,) or not isinstance(chosen, core.Where):
        return Skip("it is no smallest step over axis 1")
    steps = clock_steps(chosen.x)
    if steps is None or uniform(chosen.y) != steps:
        return Skip(f"{op.x} does not choose between a clock and its length")
    found = wave_of(chosen.condition)
    if isinstance(found, Skip):
        return found
    if found.steps != steps or chosen.condition.shaped.rank != 5:
        return Skip(f"{chosen.condition} has other steps than the clock")
    if op.x.shaped.shape != chosen.condition.shaped.shape:
        return Skip(f"{op.x} spreads {chosen.condition} over more places")
    times, kind = found.times(rw, op), op.result.shaped
    out = TensorType(kind.dtype, times.shaped.shape)
    cast = core.Cast(times, out=out)
    if op.keepdims:
        wide = rw.insert(cast, before=op, name=f"{op.result.name}.steps")
        return rw.replace(op, with_=core.Reshape(wide, out=kind))
    return rw.replace(op, with_=cast)


@rule(WavesToFirstSpikes, "bins of a descending order, scattered back => rank-order code")
def rank_order(op: core.ScatterElements, rw: Rewriter) -> Replace | Skip:
    """What `coding.rank_times` of the spiking family is lowered to.

    Given:
        %x : f32[2,6]
        %o, %i = core.sort(%x) {axis=1, descending=true} : f32[2,6], i64[2,6]
        %l = core.slice(%o) {axes=[1], starts=[5], stops=[6]} : f32[2,1]
        %a = core.gt(%o, %l) : bool[2,6]
        %b = core.cast(%a) : i64[2,6]
        %n = core.sum(%b) {axes=[1], keepdims=true} : i64[2,1]
        %p = core.iota() {axis=1, step=4} : i64[1,6]
        %d = core.clamp(%n) {low=1.0} : i64[2,1]
        %q = core.floor_div(%p, %d) : i64[2,6]
        %r = core.clamp(%q) {high=4.0} : i64[2,6]
        %z = core.full() {value=0} : i64[]
        %e = core.eq(%n, %z) : bool[2,1]
        %f = core.full() {value=0} : i64[2,6]
        %w = core.where(%e, %f, %r) : i64[2,6]
        %s = core.scatter_elements(%f, %i, %w) {axis=1} : i64[2,6]
        return %s
    Result:
        %s.times = spike.rank_order_code(%x) {steps=4} : u8[2,6]
        %s = core.cast(%s.times) : i64[2,6]
        return %s
    """
    order = op.indices.producer
    if not isinstance(order, core.Sort) or not order.descending or op.indices is not order.results[1]:
        return Skip("it does not scatter by a descending order")
    x = order.x
    if op.axis != 1 or op.reduce != "none" or x.shaped.rank != 2 or order.axis not in (1, -1):
        return Skip("it does not scatter along the order of each row")
    if x.shaped.dtype is not t.f32 or op.x.shaped.shape != x.shaped.shape:
        return Skip(f"{x} is {x.type}, and values f32[N,M] are wanted")
    steps = _bins(op.updates, order)
    if steps is None:
        return Skip(f"{op.updates} are no bins of equal population of the order")
    # Undo the flattening, so that layers find [B, C, H, W].
    reshaped = x.producer
    whole = reshaped.x if isinstance(reshaped, core.Reshape) and _flattens(reshaped) else x
    code = spike.RankOrderCode(whole, steps=steps)
    name = f"{op.result.name}.times"
    times = rw.insert(code, before=op, name=name)
    if whole is not x:
        flat = TensorType(t.u8, x.shaped.shape)
        times = rw.insert(core.Reshape(times, out=flat), before=op, name=f"{name}.flat")
    kind = op.result.shaped
    return rw.replace(op, with_=core.Cast(times, out=TensorType(kind.dtype, kind.shape)))


def _flattens(op: core.Reshape) -> bool:
    return op.x.shaped.rank >= 2 and op.x.shaped.shape[0] == op.result.shaped.shape[0]


def _bins(updates: Value, order: core.Sort) -> int | None:
    """T where updates are min(i * T // n, T) for the i-th of n values above the row's least, 0 if n is 0."""
    chosen = updates.producer
    if not isinstance(chosen, core.Where) or uniform(chosen.x) != 0:
        return None
    empty, capped = chosen.condition.producer, chosen.y.producer
    if not isinstance(empty, core.Eq) or uniform(empty.right) != 0:
        return None
    if not isinstance(capped, core.Clamp) or capped.low is not None or capped.high is None:
        return None
    quotient = capped.x.producer
    if not isinstance(quotient, core.FloorDiv):
        return None
    divisor = quotient.right.producer
    if not isinstance(divisor, core.Clamp) or (divisor.low, divisor.high) != (1.0, None):
        return None
    if divisor.x is not empty.left or not _counts_above(divisor.x, order):
        return None
    steps = int(capped.high)
    return steps if steps == capped.high and _multiples(quotient.left, steps, order) else None


def _counts_above(value: Value, order: core.Sort) -> bool:
    """Whether a value [N, 1] counts what is above the last of the order."""
    total = value.producer
    if not isinstance(total, core.Sum) or tuple(total.axes) != (1,) or not total.keepdims:
        return False
    above = total.x.producer
    if isinstance(above, core.Cast):
        above = above.x.producer
    if not isinstance(above, core.Gt) or above.left is not order.results[0]:
        return False
    last, size = above.right.producer, order.x.shaped.shape[1]
    return (
        isinstance(last, core.Slice)
        and last.x is order.results[0]
        and tuple(last.axes) == (1,)
        and isinstance(size, int)
        and tuple(last.starts) == (size - 1,)
        and tuple(last.stops) == (size,)
    )


def _multiples(value: Value, steps: int, order: core.Sort) -> bool:
    """Whether a value [1, M] is 0, T, 2T, ..."""
    size = order.x.shaped.shape[1]
    data = dense_data(value)
    if data is not None:
        flat = data.reshape(-1)
        return flat.shape == (size,) and all(int(v) == k * steps for k, v in enumerate(flat))
    op = value.producer
    if isinstance(op, core.Iota):
        return (op.start, op.step) == (0, steps) and value.shaped.shape == (1, size)
    if isinstance(op, core.Mul) and uniform(op.right) == steps:
        inner = op.left.producer
        inner = inner.x.producer if isinstance(inner, core.Reshape) else inner
        return isinstance(inner, core.Iota) and (inner.start, inner.step) == (0, 1)
    return False


__all__ = ["WavesToFirstSpikes"]
