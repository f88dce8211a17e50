"""Threshold balancing: the activation that each neuron's highest rate stands for, from data.

A neuron with threshold 1 fires at most once a step, so that a rate of 1 is the largest activation it can
express.  Diehl et al. 2015 (doi 10.1109/IJCNN.2015.7280696) scale the weights of each layer by the largest
activation seen in it and in the layer in front of it; Rueckauer et al. 2017 (doi 10.3389/fnins.2017.00682)
take a high percentile of the activations, since the largest ones are rare and make all rates small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from plait.ir import Graph, InputError, Op, Region, TensorType, Value
from plait.ir.ops import core
from plait.passes.quantize.calibrate import Batch, observe_values
from plait.passes.quantize.histogram import Histogram
from plait.passes.spike.conversion.roles import LAYERS, LINEAR, MAXIMA, Plan, bound_of, is_neuron


@dataclass(frozen=True)
class Scale:
    """What a rate of 1 stands for, and the share of activations above it."""

    scale: float
    clipped: float


def measure_scales(
    graph: Graph,
    batches: Sequence[Batch],
    plan: Plan,
    percentile: float,
    *,
    coded: Sequence[Value] = (),
    dims: Mapping[str, int] | None = None,
) -> dict[str, Scale]:
    """The scale of each layer of neurons, by name of the activation.

    Neurons whose spikes are joined by core.concat share the largest of their scales, but for those whose
    bound it exceeds.  A layer that is silent on all data has a scale of 1.

    Args:
        percentile: of all activations of a layer over neurons and samples, above 0 and up to 100.
        coded: inputs that are coded by spikes; they get scales too.

    Raises:
        InputError: data on which a value is not finite; a coded input that is negative somewhere.
    """
    values = [*coded, *(op.results[0] for op in plan.neurons)]
    seen = {value.name: Histogram() for value in values}
    observe_values(graph, batches, seen, lambda name, x: seen[name].add(x), dims=dims)
    for value in coded:
        if seen[value.name].low < 0.0:
            raise InputError(
                f"input {value.name} is {seen[value.name].low:g} somewhere",
                where="calibration data",
                why="the probability of a spike stands for a number, and neither is negative",
                remedy='give data from 0 on and let the model normalise it, or use coding="constant"',
            )
    bounds = {op.results[0].name: bound_of(op) for op in plan.neurons}
    scales: dict[str, float] = {}
    for name, histogram in seen.items():
        found, bound = histogram.quantile(percentile / 100.0), bounds.get(name)
        found = found if found > 0.0 else histogram.high  # of a layer that is nearly silent
        found = found if bound is None else min(found, bound)
        scales[name] = found if found > 0.0 else 1.0
    for group in joined(plan):
        largest = max(scales[name] for name in group)
        for name in group:
            bound = bounds[name]
            if bound is None or largest <= bound:  # a rate of 1 is all that holds a bound
                scales[name] = largest
    above, total = dict.fromkeys(scales, 0), dict.fromkeys(scales, 0)

    def count(name: str, x: torch.Tensor) -> None:
        above[name] += int((x > scales[name]).sum())
        total[name] += x.numel()

    observe_values(graph, batches, scales, count, dims=dims)
    return {name: Scale(scale, above[name] / max(1, total[name])) for name, scale in scales.items()}


def joined(plan: Plan) -> list[set[str]]:
    """Names of neurons whose spikes meet in one core.concat, in groups without common members."""
    groups: list[set[str]] = []
    for op in plan.roles:
        if not isinstance(op, core.Concat) or not plan.within(op):
            continue
        found = set().union(*(_sources(value) for value in op.xs))
        for group in [g for g in groups if g & found]:
            groups.remove(group)
            found |= group
        if len(found) > 1:
            groups.append(found)
    return groups


def _sources(value: Value) -> set[str]:
    """Names of the neurons whose spikes a value holds, moved, joined or not."""
    op = value.producer
    if op is None:
        return set()
    if is_neuron(op):
        return {value.name}
    if isinstance(op, (core.Reshape, core.Transpose, core.Slice, core.Flip, *MAXIMA)):
        return _sources(op.operands[0])
    if isinstance(op, core.Concat):
        return set().union(*(_sources(x) for x in op.xs))
    return set()


def wanted_scales(graph: Graph, plan: Plan, scales: Mapping[str, Scale]) -> dict[Value, float]:
    """The scale at which each result of the network is wanted.

    It is that of the neurons which the value drives, through sums and pooling; 1 where it drives none.
    """
    wanted: dict[Value, float] = {}
    for op in reversed(graph.body):
        if plan.within(op):
            for value in op.results:
                found = [_wanted_by(user, wanted, scales) for user in value.users if plan.within(user)]
                wanted[value] = next((scale for scale in found if scale is not None), 1.0)
    return wanted


def _wanted_by(user: Op | Region, wanted: Mapping[Value, float], scales: Mapping[str, Scale]) -> float | None:
    assert isinstance(user, Op)
    result = user.results[0]
    if is_neuron(user):
        return scales[result.name].scale
    passing = (core.Add, core.Sub, core.Mul, core.Div, core.Concat, *LINEAR, *MAXIMA)
    return wanted[result] if isinstance(user, passing) and not isinstance(user, LAYERS) else None


def neurons_of(value: Value) -> int | None:
    """Number of elements of one sample, the first axis being samples."""
    count = 1
    assert isinstance(value.type, TensorType)
    for dim in value.type.shape[1:]:
        if not isinstance(dim, int):
            return None
        count *= dim
    return count
