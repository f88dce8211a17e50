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
    """For each event, one addition (a synaptic event) to each output; no multiplication.

    Of the weights, the columns are read of which some row spikes: with density d
    and n rows, a share 1 - (1 - d)^n.  Without a density, or with the dense kernel,
    everything counts; the dense kernel multiplies too.
    """
    kind = op.x.type
    assert isinstance(kind, SpikeType)
    *lead, features = sizes.shape(op.x)
    outputs = sizes.shape(op.w)[0]
    rows = math.prod(lead)
    bias = 0 if op.b is None else rows * outputs
    if op.kernel == "dense":
        macs = rows * features * outputs
        return sizes.cost(op, macs=macs, flops=2 * macs + bias)
    if kind.density is None:
        events = rows * features * outputs
        return sizes.cost(op, macs=events, flops=events + bias, exact=False)
    synaptic = rows * features * outputs * kind.density
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


@cost_rule(spike.FirstSpikeConv2d)
def first_spike_conv2d(op: spike.FirstSpikeConv2d, sizes: Sizes) -> Cost:
    """An upper bound: as though every input fired, once, and every neuron took part to the last step.

    Each input that fires adds one weight to each neuron that sees it; each neuron compares at each step.
    """
    additions = sizes.count(op.results[0]) * math.prod(sizes.shape(op.w)[1:])
    compares = sizes.count(op.results[0]) * op.steps
    return sizes.cost(op, macs=additions, flops=additions + compares, exact=False)


@cost_rule(spike.FirstSpikePool2d)
def first_spike_pool2d(op: spike.FirstSpikePool2d, sizes: Sizes) -> Cost:
    """A comparison for each element of each window."""
    return sizes.cost(op, flops=sizes.count(op.results[0]) * math.prod(op.kernel))
