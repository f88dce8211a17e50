"""raise-spike-products: weighted sums of zeros and ones that are spikes become sums over events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from plait.ir import Loc, Op, QuantType, SpikeType, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core, nn, spike
from plait.passes.base import register
from plait.passes.constants import uniform
from plait.passes.rewriter import Replace, RewritePass, Rewriter, Skip, rule

#: Ops that only move elements, so that they do to spikes what they do to the numbers 0 and 1.
Move = core.Reshape | core.Transpose


@register
@dataclass(frozen=True)
class RaiseSpikeProducts(RewritePass):
    """Drive the weights of dense layers and convolutions by events where their operand is spikes as numbers.

    Such an operand is a cast of spikes, or of truth values, or a choice of 1 and 0 by truth values,
    reshaped or not.  A spike op has no activation: run this pass before `fuse-activation`.

    Options:
        bools: whether truth values count as spikes.  They often are masks with few zeros, where a sum
            over events is slower than the dense product.

    Given:
        @w : f32[4,6]
        %v : f32[B,2,3]
        %s = spike.threshold(%v) {level=1.0} : spike[B,2,3]
        %x = core.cast(%s) : f32[B,2,3]
        %f = core.reshape(%x) : f32[B,6]
        %y = nn.linear(%f, @w) : f32[B,4]
        return %y
    Result:
        %s = spike.threshold(%v) {level=1.0} : spike[B,2,3]
        %f.spikes = core.reshape(%s) : spike[B,6]
        %y = spike.linear(%f.spikes, @w) : f32[B,4]
        return %y
    """

    name: ClassVar[str] = "raise-spike-products"
    bools: bool = True


@rule(RaiseSpikeProducts, "linear(cast(spikes), w, b) => spike.linear(spikes, w, b)")
def raise_spike_linear(op: nn.Linear, rw: Rewriter, options: RaiseSpikeProducts) -> Replace | Skip:
    """A dense layer on spikes.

    Given:
        @w : f32[4,6]
        @b : f32[4]
        %v : f32[B,6]
        %s = spike.threshold(%v) {level=1.0} : spike[B,6]
        %x = core.cast(%s) : f32[B,6]
        %y = nn.linear(%x, @w, @b) : f32[B,4]
        return %y
    Result:
        %s = spike.threshold(%v) {level=1.0} : spike[B,6]
        %y = spike.linear(%s, @w, @b) : f32[B,4]
        return %y
    """
    spikes = _operand(op, rw, options)
    if isinstance(spikes, Skip):
        return spikes
    return rw.replace(op, with_=spike.SpikeLinear(spikes, op.w, op.b))


@rule(RaiseSpikeProducts, "conv2d(cast(spikes), w, b) => spike.conv2d(spikes, w, b)")
def raise_spike_conv2d(op: nn.Conv2d, rw: Rewriter, options: RaiseSpikeProducts) -> Replace | Skip:
    """A convolution of spikes; of truth values, `spike.threshold` makes spikes.

    Given:
        @w : f32[4,3,3,3]
        %m : bool[B,3,8,8]
        %x = core.cast(%m) : f32[B,3,8,8]
        %y = nn.conv2d(%x, @w) {stride=[2,2], pad=[1,1]} : f32[B,4,4,4]
        return %y
    Result:
        %x = core.cast(%m) : f32[B,3,8,8]
        %x.spikes = spike.threshold(%x) {level=0.5} : spike[B,3,8,8]
        %y = spike.conv2d(%x.spikes, @w) {stride=[2,2], pad=[1,1]} : f32[B,4,4,4]
        return %y
    """
    if op.groups != 1:
        return Skip(f"groups={op.groups}, and spike.conv2d has one group")
    if op.dilation != (1, 1):
        return Skip(f"dilation={list(op.dilation)}, and spike.conv2d has none")
    spikes = _operand(op, rw, options)
    if isinstance(spikes, Skip):
        return spikes
    return rw.replace(op, with_=spike.SpikeConv2d(spikes, op.w, op.b, stride=op.stride, pad=op.pad))


@rule(RaiseSpikeProducts, "scan(... yield cast(spikes)) => cast(scan(... yield spikes))")
def yield_spikes(op: core.Scan, rw: Rewriter) -> Replace | Skip:
    """A loop hands its spikes on as spikes: a quarter of the bytes, and products behind it see them.

    Given:
        %i : f32[T,B]
        %v : f32[B]
        %s, %l = core.scan(%i, %v) : f32[T,B], f32[B] do (%a: f32[B], %b: f32[B]) {
          %f, %n = spike.integrate_and_fire(%a, %b) {v_th=1.0, reset="zero"} : spike[B], f32[B]
          %c = core.cast(%f) : f32[B]
          yield %c, %n
        }
        return %s, %l
    Result:
        %s.spikes, %l = core.scan(%i, %v) : spike[T,B], f32[B] do (%a: f32[B], %b: f32[B]) {
          %f, %n = spike.integrate_and_fire(%a, %b) {v_th=1.0, reset="zero"} : spike[B], f32[B]
          yield %f, %n
        }
        %s = core.cast(%s.spikes) : f32[T,B]
        return %s, %l
    """
    yielded, count = list(op.body.results), len(op.results) - op.carries
    made: list[Op] = []
    for index, (value, result) in enumerate(zip(yielded[:count], op.results, strict=False)):
        cast = value.producer
        if not isinstance(cast, core.Cast) or not isinstance(cast.x.type, SpikeType) or not result.users:
            continue
        yielded[index] = cast.x
        # The cast reads the numbers until all their readers read it; then they become spikes.
        outside = core.Cast(result, out=TensorType(cast.out.dtype, result.shaped.shape))
        loc = Loc.fuse([op.loc, cast.loc], via=rw.pass_name)
        name, graph = result.name, rw.graph
        numbers = graph.add(outside, loc=loc, before=op.next, region=op.parent).result
        graph.replace_uses(result, numbers)
        outside.set_operands(lambda _, spikes=result: spikes)  # type: ignore[misc]
        result.type = SpikeType(result.shaped.shape, cast.x.type.density)
        graph.rename(result, graph.free_name(f"{name}.spikes"))
        graph.rename(numbers, name)
        made.append(outside)
    if not made:
        return Skip(f"{op.results[0] if op.results else 'the loop'} stacks no cast of spikes that is read")
    dropped = [value.producer for value in op.body.results[:count]]
    op.body.set_results(yielded)
    for inner in dropped:
        if inner is not None and inner.parent is not None and not inner.result.users:
            rw.graph.erase(inner)
    return Replace(tuple(made))


def _operand(op: nn.Linear | nn.Conv2d, rw: Rewriter, options: RaiseSpikeProducts) -> Value | Skip:
    """The operand of a product as spikes, in front of it, or why it has none."""
    if op.act != "none":
        return Skip(f"{op.result} applies {op.act}, and {_counterpart(op)} applies nothing")
    if isinstance(op.w.type, QuantType):
        return Skip(f"{op.w} is {op.w.type}, and {_counterpart(op)} wants dense weights")
    source, moves = op.x, list[Any]()
    while isinstance(source.producer, Move):
        moves.append(source.producer)
        source = source.producer.x
    found = _source(source)
    if isinstance(found, Skip):
        return found
    if found == "bools":
        if not options.bools:
            return Skip(f"{source} comes of truth values, and bools=false")
        return _insert(rw, spike.Threshold(op.x, level=0.5), f"{op.x.name}.spikes", op, moves)
    for move in reversed(moves):
        found = _insert(rw, _moved(move, found), f"{move.name}.spikes", op, [move])
    return found


def _source(x: Value) -> Value | Literal["bools"] | Skip:
    """The spikes that a value holds as numbers, whether it holds truth values so, or why it does neither."""
    producer = x.producer
    if isinstance(producer, core.Cast):
        kind = producer.x.shaped
        if isinstance(kind, SpikeType):
            return producer.x
        if kind.dtype is t.boolean:
            return "bools"
        return Skip(f"{x} is a cast of {kind}; the rule wants one of spikes or truth values")
    if isinstance(producer, core.Where):
        chosen = (uniform(producer.x), uniform(producer.y))
        if chosen == (1, 0):
            return "bools"
        return Skip(f"{x} does not choose 1 and 0; the rule wants spikes or truth values as numbers")
    what = "no result of an op" if producer is None else f"the result of {producer.opname}"
    return Skip(f"{x} is {what}; the rule wants a core.cast of spikes or truth values")


def _moved(move: Any, spikes: Value) -> Op:
    """A move of spikes in the place of one of numbers."""
    if isinstance(move, core.Reshape):
        return move.evolve(x=spikes, out=SpikeType(move.out.shape, _density(spikes)))
    moved: Op = move.evolve(x=spikes)
    return moved


def _density(spikes: Value) -> float | None:
    kind = spikes.type
    return kind.density if isinstance(kind, SpikeType) else None


def _insert(rw: Rewriter, op: Op, name: str, before: Op, matched: list[Any]) -> Value:
    return rw.insert(op, before=before, name=rw.graph.free_name(name), matched=matched)


def _counterpart(op: Op) -> str:
    return f"spike.{op.opname.partition('.')[2]}"
