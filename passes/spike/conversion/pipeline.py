"""A trained ReLU network to a spiking one: a float graph and data in, a graph over time out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch

from plait.ir import Graph, InputError, Op, SpikeType, TensorType, Value
from plait.ir.errors import did_you_mean
from plait.passes.quantize.calibrate import Batch, batches_of, run
from plait.passes.spike.conversion.balance import Scale, measure_scales, neurons_of, wanted_scales
from plait.passes.spike.conversion.convert import Conversion
from plait.passes.spike.conversion.prepare import prepare
from plait.passes.spike.conversion.report import LayerActivity, SpikingReport
from plait.passes.spike.conversion.result import Spiking
from plait.passes.spike.conversion.roles import Plan, Role, plan

Coding = Literal["constant", "bernoulli"]
Pooling = Literal["current", "spikes"]


def to_spiking(
    graph: Graph,
    data: Iterable[Any],
    *,
    steps: int,
    percentile: float = 99.9,
    coding: Coding = "constant",
    initial: float = 0.5,
    pooling: Pooling = "current",
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    limit: int | None = None,
) -> Spiking:
    """Convert a ReLU network to a network of integrate-and-fire neurons with the same weights.

    An activation a becomes a neuron that fires at a rate of min(max(a, 0) / scale, 1), up to 1 / steps a
    layer; its scale is a percentile of the activations on `data`, and the threshold is 1 everywhere: scales
    go into weights and biases (Diehl et al. 2015, doi 10.1109/IJCNN.2015.7280696; Rueckauer et al. 2017,
    doi 10.3389/fnins.2017.00682).  Firing resets by subtraction.  All layers run in each step of one
    `core.scan`.  The last layer does not spike: what lies behind it is computed as it is, on the mean of its
    current over time.  Batch normalisation is folded, max pooling passes the
    spikes of the neuron that has fired most, residual branches meet at one scale.

    Args:
        graph: any float graph whose layers are convolutions and dense layers, and whose activations between
            them are rectified; it stays as it is.
        data: calibration batches, each a mapping by input, a sequence, or the sole input.
        steps: of time for one sample.
        percentile: of the activations of a layer, that is its highest rate; above 0 and up to 100.
        coding: `constant`: the first layer's current is that of the numbers, the same at each step, and is
            computed once.  `bernoulli`: an input, which must not be negative, spikes at each step with
            probability x / scale; the draws are those of `core.random`, the same in each run.
        initial: potential at the start, 0..1: with 0 rates are rounded down to multiples of 1 / steps, with
            0.5 to the nearest one, which needs fewer steps (Bu et al. 2022, arXiv 2202.01440).
        pooling: of averages: `current`: exact, but the layer behind it sums currents and not spikes.
            `spikes`: neurons behind the average make spikes of it again (Diehl et al. 2015), which are
            rounded once more and drive the next layer by events.
        seed: of the draws.
        dims: values of dims that no input shows.
        limit: batches to read at most.

    Returns:
        The graph over time; the types of its spikes carry the densities that were measured on `data`.

    Raises:
        InputError: all ops without a spiking counterpart at once; a graph without neurons; an option out of
            its range; no data, data that is not finite or does not fit, or negative data for `bernoulli`.
    """
    _check_options(steps, percentile, initial)
    _check_choice("coding", coding, get_args(Coding))
    _check_choice("pooling", pooling, get_args(Pooling))
    batches = batches_of(graph, data, limit)
    source = prepare(graph, spiking_averages=pooling == "spikes")
    coded = tuple(source.inputs) if coding == "bernoulli" else ()
    for value in coded:
        if not isinstance(value.type, TensorType) or value.type.dtype.name != "f32":
            raise InputError(
                f"input {value.name} is {value.type}",
                where=f"graph @{graph.name}",
                why='coding="bernoulli" makes spikes of f32 tensors',
                remedy='use coding="constant"',
            )
    roles = plan(source, coded=bool(coded))
    scales = measure_scales(source, batches, roles, percentile, coded=coded, dims=dims)
    wanted = wanted_scales(source, roles, scales)
    seeds = {value.name: seed + index for index, value in enumerate(coded)}
    conversion = Conversion(source, roles, scales, wanted, steps=steps, seeds=seeds, initial=initial)
    found = conversion.run()
    densities = measure_densities(found, batches, dims)
    rows = _rows(roles, coded, scales, densities)
    samples = sum(_samples(source, batch) for batch in batches)
    remarks = _remarks(roles, conversion.dense)
    return Spiking(found, source, SpikingReport(rows, steps, coding, percentile, samples, remarks))


def _check_options(steps: int, percentile: float, initial: float) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps is {steps}", why="it is a whole number from 1 on")
    if not 0.0 < percentile <= 100.0:
        raise InputError(f"percentile is {percentile}", why="it lies above 0 and up to 100")
    if not 0.0 <= initial < 1.0:
        raise InputError(f"initial is {initial}", why="it lies from 0 on and below the threshold, 1")


def _check_choice(name: str, given: str, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise InputError(
            f"{name} is '{given}'{did_you_mean(given, choices)}", why=f"it is one of {', '.join(choices)}"
        )


def measure_densities(
    graph: Graph, batches: Sequence[Batch], dims: Mapping[str, int] | None = None
) -> dict[str, float]:
    """Mean spikes of each element and step, by name of the value; they are written into the types too."""
    ones: dict[Value, int] = {}
    seen: dict[Value, int] = {}

    def count(value: Value, x: Any) -> None:
        if isinstance(value.type, SpikeType) and isinstance(x, torch.Tensor):
            ones[value] = ones.get(value, 0) + int(x.sum())
            seen[value] = seen.get(value, 0) + x.numel()

    for batch in batches:
        run(graph, batch, count, dims=dims)
    found = {value: ones[value] / max(1, seen[value]) for value in seen}
    for value, density in found.items():
        value.type = SpikeType(value.shaped.shape, density)
    return {value.name: density for value, density in found.items()}


def _rows(
    roles: Plan, coded: Sequence[Value], scales: Mapping[str, Scale], densities: Mapping[str, float]
) -> tuple[LayerActivity, ...]:
    rows = []
    for value in (*coded, *(op.results[0] for op in roles.neurons)):
        scale, op = scales[value.name], value.producer
        if f"{value.name}.spikes" not in densities:
            continue  # a rectifier of spikes, which are not negative
        origins = () if op is None else op.loc.origins
        rows.append(
            LayerActivity(
                name=value.name,
                op="input" if op is None else op.opname,
                path=origins[0].path if origins else "",
                neurons=neurons_of(value),
                scale=scale.scale,
                clipped=scale.clipped,
                rate=densities[f"{value.name}.spikes"],
            )
        )
    return tuple(rows)


def _samples(graph: Graph, batch: Batch) -> int:
    shapes = [tuple(getattr(batch[value.name], "shape", ())) for value in graph.inputs]
    return next((int(shape[0]) for shape in shapes if shape), 1)


def _remarks(roles: Plan, dense: Sequence[Op]) -> tuple[str, ...]:
    def named(role: Role) -> list[Op]:
        return [op for op in roles.roles if roles.roles[op] is role and op.operands]

    words = {
        "computed once and as it is": named(Role.NUMBERS),
        "computed on means over time": named(Role.READ_OUT),
        "sums currents and not spikes, which spike ops cannot": dense,
    }
    return tuple(
        f"{word}: {', '.join(f'%{op.name} ({op.opname})' for op in ops)}"
        for word, ops in words.items()
        if ops
    )


__all__ = ["Coding", "Pooling", "measure_densities", "to_spiking"]
