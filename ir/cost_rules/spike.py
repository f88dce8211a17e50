"""Cost of the spike family: what spikes is worked on."""

from __future__ import annotations

import math

from plait.ir.cost_rules.table import Cost, Sizes, cost_rule
from plait.ir.ops import spike
from plait.ir.types import SpikeType


@cost_rule(spike.Threshold)
def threshold(op: spike.Threshold, sizes: Sizes) -> Cost:
    """A comparison for each element."""
    return sizes.cost(op, flops=sizes.count(op.x))


@cost_rule(spike.SpikeLinear)
def spike_linear(op: spike.SpikeLinear, sizes: Sizes) -> Cost:
    """For each event, one addition (a synaptic event) to each output; no multiplication."""
    *lead, features = sizes.shape(op.x)
    outputs = sizes.shape(op.w)[0]
    rows = math.prod(lead)
    return _by_events(op, sizes, rows * features * outputs, rows)


@cost_rule(spike.SpikeConv2d)
def spike_conv2d(op: spike.SpikeConv2d, sizes: Sizes) -> Cost:
    """For each event in a window, one addition to each output channel; no multiplication."""
    places = sizes.shape(op.result)
    window = math.prod(sizes.shape(op.w)[1:])
    return _by_events(op, sizes, math.prod(places) * window, places[0] * places[2] * places[3])


def _by_events(op: spike.SpikeLinear | spike.SpikeConv2d, sizes: Sizes, additions: int, rows: int) -> Cost:
    """Cost of a sum of spikes that would take `additions` if all inputs fired, in `rows` sums an output.

    Of the weights, those are read of which some row spikes: with density d and n rows, a share
    1 - (1 - d)^n.  Without a density everything counts; the dense kernel multiplies too; counting bits
    (popcount) takes one operation for 32 inputs, whatever the density.
    """
    kind = op.x.type
    assert isinstance(kind, SpikeType)
    bias = 0 if op.b is None else sizes.count(op.result)
    if op.kernel == "dense":
        return sizes.cost(op, macs=additions, flops=2 * additions + bias)
    if op.kernel == "popcount":
        return sizes.cost(op, flops=additions / 32 + bias, exact=False)
    if kind.density is None:
        return sizes.cost(op, macs=additions, flops=additions + bias, exact=False)
    synaptic = additions * kind.density
    share = 1.0 - (1.0 - kind.density) ** rows
    read = sizes.bytes(op.x) + sizes.bytes(op.w) * share + (0 if op.b is None else sizes.bytes(op.b))
    return Cost(synaptic, synaptic + bias, read, sizes.written(op))


@cost_rule(spike.IntegrateAndFire)
def integrate_and_fire(op: spike.IntegrateAndFire, sizes: Sizes) -> Cost:
    """Add, compare and reset."""
    return sizes.cost(op, flops=3 * sizes.count(op.v))


@cost_rule(spike.Lif)
def lif(op: spike.Lif, sizes: Sizes) -> Cost:
    """Subtract, multiply, add, compare and reset."""
    return sizes.cost(op, flops=5 * sizes.count(op.v))


@cost_rule(spike.RankOrderCode)
def rank_order_code(op: spike.RankOrderCode, sizes: Sizes) -> Cost:
    """A sort by digits: three passes of a few operations a value, an estimate."""
    return sizes.cost(op, flops=3 * 8 * sizes.count(op.x), exact=False)


@cost_rule(spike.FirstSpikeConv2d)
def first_spike_conv2d(op: spike.FirstSpikeConv2d, sizes: Sizes) -> Cost:
    """Each input that fires adds one weight to each neuron that sees it; each neuron compares at each step.

    An estimate: neurons that fire stop taking part.  Without a density all inputs are taken to fire.
    """
    batch = sizes.shape(op.x)[0]
    outputs, *window = sizes.shape(op.w)
    neurons = batch * outputs * math.prod(op.places(sizes.shape(op.x)))
    additions = neurons * math.prod(window) * (1.0 if op.density is None else op.density)
    if op.density is None:
        additions = int(additions)
    return sizes.cost(op, macs=additions, flops=additions + neurons * op.steps, exact=False)


@cost_rule(spike.FirstSpikePool2d)
def first_spike_pool2d(op: spike.FirstSpikePool2d, sizes: Sizes) -> Cost:
    """A comparison for each element of each window."""
    return sizes.cost(op, flops=sizes.count(op.results[0]) * math.prod(op.kernel))


@cost_rule(spike.Winners)
def winners(op: spike.Winners, sizes: Sizes) -> Cost:
    """Each round of the competition compares all neurons."""
    return sizes.cost(op, flops=op.count * sizes.count(op.times), exact=False)


@cost_rule(spike.Stdp)
def stdp(op: spike.Stdp, sizes: Sizes) -> Cost:
    """Five operations for each weight of each winner, an upper bound: slots may be empty."""
    batch, slots, _ = sizes.shape(op.winners)
    return sizes.cost(op, flops=batch * slots * 5 * math.prod(sizes.shape(op.w)[1:]), exact=False)
