"""Mixed precision: the width of each layer by how much the outputs suffer from it, within a budget.

Each layer is quantised alone at each candidate width, and the error of the outputs measured on
calibration data.  Errors of layers are taken to add up, which holds to first order (Dong et al.
2019, arXiv 1905.03696, measure curvature to the same end); the choice is then a multiple-choice
knapsack problem, solved by dynamic programming (see `choose`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from plait.ir import Graph, InputError, Op
from plait.ir.bind import default_dims
from plait.ir.cost import op_cost
from plait.ir.errors import did_you_mean
from plait.passes.quantize.calibrate import Batch, Item, batches_of, observe, run
from plait.passes.quantize.insert import insert_qdq, place, weight_of, weights_to_quantise
from plait.passes.quantize.knapsack import choose
from plait.passes.quantize.layers import WeightGrid
from plait.passes.quantize.observers import Observer
from plait.passes.quantize.scheme import OpScheme, grid_of_weight, parameter_shape

#: What an op costs under a scheme, in the units of the budget; costs of ops are added up.
OpCost = Callable[[Op, OpScheme], float]
#: How bad a graph is, on the caller's own terms: lower is better.
Measure = Callable[[Graph], float]
Widths = Literal["weight", "both"]

#: Bits that an operand in floating point counts as.
FLOAT_BITS = 32


@dataclass(frozen=True)
class WidthRow:
    """A layer in a choice of widths.

    Attributes:
        name: of the op.
        path: main module path of the op.
        bits: the chosen width.
        parameters: number of its weights.
        cost: in the units of the budget.
        losses: the measured loss at each candidate width, the layer alone quantised.
    """

    name: str
    path: str
    bits: int
    parameters: int
    cost: float
    losses: dict[int, float]


@dataclass(frozen=True)
class MixedPrecision:
    """A choice of widths within a budget.

    Attributes:
        schemes: of all ops, by name, the chosen widths put in.
        rows: the layers that were chosen for, in order.
        budget, cost: allowed and reached, in `unit`.
        loss: the sum of the chosen losses.
        uniform: cost and loss of one width for all layers, by width.
        method: how the choice was made.
    """

    schemes: dict[str, OpScheme]
    rows: tuple[WidthRow, ...]
    budget: float
    cost: float
    loss: float
    unit: str
    uniform: dict[int, tuple[float, float]]
    method: str

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        found["schemes"] = {name: scheme.to_dict() for name, scheme in self.schemes.items()}
        return found

    def __str__(self) -> str:
        widths = sorted(self.uniform)
        head = ("op", "weights", "bits", self.unit, *(f"loss at {bits}" for bits in widths))
        table = [head]
        for row in self.rows:
            losses = (f"{row.losses[bits]:.3g}" for bits in widths)
            table.append((row.name, str(row.parameters), str(row.bits), f"{row.cost:.6g}", *losses))
        for bits in widths:
            cost, loss = self.uniform[bits]
            blank = [""] * len(widths)
            blank[widths.index(bits)] = f"{loss:.3g}"
            table.append((f"all at {bits}", "", str(bits), f"{cost:.6g}", *blank))
        columns = list(zip(*table, strict=True))
        sizes = [max(map(len, column)) for column in columns]
        lines = [
            "  ".join([row[0].ljust(sizes[0]), *(c.rjust(w) for c, w in zip(row[1:], sizes[1:]))]).rstrip()
            for row in table
        ]
        lines.insert(1, "-" * max(map(len, lines)))
        lines.insert(2 + len(self.rows), lines[1])
        lines.append(
            f"{self.cost:.6g} of {self.budget:.6g} {self.unit}, loss {self.loss:.3g}; by {self.method}"
        )
        return "\n".join(lines)


def choose_bits(
    graph: Graph,
    schemes: Mapping[str, OpScheme],
    data: Iterable[Item],
    *,
    budget: float,
    candidates: Sequence[int] = (4, 6, 8),
    cost: Literal["size", "bops"] | OpCost = "size",
    widths: Widths | None = None,
    measure: Measure | None = None,
    observer: str | Callable[[], Observer] = "mse",
    weight_grid: WeightGrid = grid_of_weight,
    dims: Mapping[str, int] | None = None,
    limit: int | None = None,
) -> MixedPrecision:
    """Choose the width of each layer with constant weights.

    Args:
        graph: the float graph, optimised.
        schemes: what is quantised, and how but for the width, by name of the op.
        data: calibration batches, see `batches_of`.
        budget: the most that the layers may cost together, in bytes, bit operations, or the
            units of `cost`.
        candidates: widths to choose from.
        cost: `size` in bytes of packed weights with their scales and zero points; `bops`, MACs
            times the bits of both operands (floating point counts as 32), at the sizes of
            `dims`, or of the first batch; or a function of an op and a scheme, for instance a
            latency in ms.
        widths: whether a width is that of the `weight`, or of activations too (`both`); by
            default `weight` for size and `both` otherwise.  A value that several layers read
            takes the widest that any of them has.
        measure: what a graph in QDQ form loses, for instance a share of wrong labels; by default
            the squared error of all outputs over their squared size, on `data`.
        observer: measures the ranges of activations.
        weight_grid: makes the grid of each weight.
        limit: batches to read at most.

    Raises:
        InputError: no layer to choose for, no or bad candidates, an unknown cost, a budget that
            even the smallest widths exceed, or what `batches_of` and `observe_values` raise.
    """
    chosen = _widths(cost, widths)
    options = sorted(set(candidates))
    if not options:
        raise InputError(
            "there is no candidate width", where="choose_bits", remedy="give some, such as (4, 8)"
        )
    layers = [op for op, _, _ in weights_to_quantise(graph, schemes)]
    if not layers:
        raise InputError(
            "no layer has weights to quantise",
            where=f"graph @{graph.name}",
            remedy="give schemes of convolutions and dense layers",
        )
    batches = batches_of(graph, data, limit)
    by_width = {
        bits: {op.name: with_width(schemes[op.name], bits, chosen) for op in layers} for bits in options
    }
    price = _cost(graph, cost, batches[0], dims)
    costs = [[price(op, by_width[bits][op.name]) for bits in options] for op in layers]
    lowest = sum(map(min, costs))
    if lowest > budget * (1 + 1e-9):
        raise InputError(
            f"the budget is {budget:.6g} {_unit(cost)}",
            where="choose_bits",
            why=f"{len(layers)} layers at the cheapest of {options} bits cost {lowest:.6g}",
            remedy="raise the budget, or allow fewer bits",
        )
    losses = sensitivities(
        graph, by_width, batches, measure=measure, observer=observer, weight_grid=weight_grid, dims=dims
    )
    found = choose(costs, [[losses[op.name][bits] for bits in options] for op in layers], budget)
    assert found is not None  # the cheapest choice is within the budget
    picked = [options[k] for k in found.options]
    rows = tuple(
        WidthRow(
            op.name,
            op.loc.origins[0].path if op.loc.origins else "",
            bits,
            _parameters(op),
            costs[i][options.index(bits)],
            losses[op.name],
        )
        for i, (op, bits) in enumerate(zip(layers, picked, strict=True))
    )
    uniform = {
        bits: (sum(row[k] for row in costs), sum(losses[op.name][bits] for op in layers))
        for k, bits in enumerate(options)
    }
    return MixedPrecision(
        {**schemes, **{row.name: by_width[row.bits][row.name] for row in rows}},
        rows,
        budget,
        found.cost,
        found.loss,
        _unit(cost),
        uniform,
        "exact dynamic programming" if found.exact else "dynamic programming, thinned out",
    )


def with_width(scheme: OpScheme, bits: int, widths: Widths) -> OpScheme:
    """A scheme at another width, of the weight alone or of activations too."""
    if widths == "both":
        return scheme.with_bits(bits)
    assert scheme.weight is not None
    return OpScheme(scheme.activation, scheme.weight.with_bits(bits))


def sensitivities(
    graph: Graph,
    by_width: Mapping[int, Mapping[str, OpScheme]],
    data: Iterable[Item],
    *,
    measure: Measure | None = None,
    observer: str | Callable[[], Observer] = "mse",
    weight_grid: WeightGrid = grid_of_weight,
    dims: Mapping[str, int] | None = None,
    limit: int | None = None,
) -> dict[str, dict[int, float]]:
    """The loss from quantising each op alone, by name and width.

    Args:
        by_width: the schemes of the ops, by name, at each width.
        measure: see `choose_bits`; what the float graph itself loses is subtracted.

    The graph runs once for each op and width.  Raises InputError as `observe` does.
    """
    batches = batches_of(graph, data, limit)
    judge = measure or output_error(graph, batches, dims)
    base = judge(graph)
    alone = [
        (name, bits, {name: scheme}) for bits, schemes in by_width.items() for name, scheme in schemes.items()
    ]
    places = [place(graph, single).measured for *_, single in alone]
    wanted = {name for placed in places for name in placed}
    observers = observe(graph, batches, wanted, observer, dims=dims) if wanted else {}
    found: dict[str, dict[int, float]] = {}
    for (name, bits, single), placed in zip(alone, places, strict=True):
        grids = {value: observers[value].grid(scheme) for value, scheme in placed.items()}
        weights = {
            op.name: weight_grid(scheme, constant.data, str(constant))
            for op, constant, scheme in weights_to_quantise(graph, single)
        }
        loss = judge(insert_qdq(graph, single, grids, weights)) - base
        if not np.isfinite(loss):
            raise InputError(
                f"the loss is {loss} with %{name} at {bits} bits",
                where="sensitivity",
                remedy="check the measure, and the data",
            )
        found.setdefault(name, {})[bits] = float(loss)
    return found


def output_error(graph: Graph, batches: Sequence[Batch], dims: Mapping[str, int] | None = None) -> Measure:
    """A measure: sum over outputs of ||y' - y||^2 / ||y||^2 against the float graph, on batches."""
    expected = [_outputs(graph, batch, dims) for batch in batches]
    sizes = [sum(float(y.square().sum()) for y in same) for same in zip(*expected, strict=True)]

    def measure(candidate: Graph) -> float:
        errors = [0.0] * len(sizes)
        for batch, wanted in zip(batches, expected, strict=True):
            for k, (y, found) in enumerate(zip(wanted, _outputs(candidate, batch, dims), strict=True)):
                errors[k] += float((found - y).square().sum())
        return sum(error / size for error, size in zip(errors, sizes, strict=True) if size > 0)

    return measure


def _outputs(graph: Graph, batch: Batch, dims: Mapping[str, int] | None) -> list[torch.Tensor]:
    """The floating-point outputs on a batch, in float64."""
    found = run(graph, batch, dims=dims)
    return [y.to(torch.float64) for y in found if isinstance(y, torch.Tensor) and y.is_floating_point()]


# -- costs -----------------------------------------------------------------------
def _widths(cost: Literal["size", "bops"] | OpCost, given: Widths | None) -> Widths:
    if isinstance(cost, str) and cost not in ("size", "bops"):
        raise InputError(
            f"cost is '{cost}'{did_you_mean(cost, ('size', 'bops'))}",
            where="choose_bits",
            why="it is size, bops, or a function of an op and its scheme",
        )
    if given not in (None, "weight", "both"):
        raise InputError(f"widths is {given!r}", where="choose_bits", why="it is weight or both")
    return given or ("weight" if cost == "size" else "both")


def _unit(cost: Literal["size", "bops"] | OpCost) -> str:
    return {"size": "bytes", "bops": "BOPs"}[cost] if isinstance(cost, str) else "cost"


def _parameters(op: Op) -> int:
    weight = weight_of(op)
    assert weight is not None  # layers have one
    return int(weight.data.size)


def size_of_weight(op: Op, scheme: OpScheme) -> float:
    """Bytes of a layer's weight: packed integers, a float32 scale for each slice, and zero points.

    A weight that stays in floating point counts as it is.
    """
    weight = weight_of(op)
    assert weight is not None
    if scheme.weight is None:
        return float(weight.data.nbytes)
    slices = int(np.prod(parameter_shape(weight.data, scheme.weight)))
    return -(-weight.data.size * scheme.weight.bits // 8) + slices * (4 if scheme.weight.symmetric else 8)


def bit_operations(op: Op, scheme: OpScheme, dims: Mapping[str, int]) -> float:
    """MACs times the bits of the weight times those of the activations."""
    macs = op_cost(op, dims).macs
    if macs is None:
        raise InputError(
            f"the MACs of {op.opname} are not known", where=op.loc.readable(), remedy="use cost='size'"
        )
    weight = FLOAT_BITS if scheme.weight is None else scheme.weight.bits
    activation = FLOAT_BITS if scheme.activation is None else scheme.activation.bits
    return float(macs) * weight * activation


def _cost(
    graph: Graph, cost: Literal["size", "bops"] | OpCost, batch: Batch, dims: Mapping[str, int] | None
) -> OpCost:
    if cost == "size":
        return size_of_weight
    if cost == "bops":
        sizes = _dims_of(graph, batch, dims)
        return lambda op, scheme: bit_operations(op, scheme, sizes)
    return cost  # type: ignore[return-value]  # the two names are done with


def _dims_of(graph: Graph, batch: Batch, dims: Mapping[str, int] | None) -> dict[str, int]:
    """The values of the graph's dims: those given, then those that a batch shows on a plain axis."""
    found = dict(dims or {})
    for value in graph.inputs:
        given = batch[value.name]
        if isinstance(given, torch.Tensor):
            for dim, size in zip(value.shaped.shape, given.shape, strict=True):
                if str(dim) in graph.dims:
                    found.setdefault(str(dim), int(size))
    return default_dims(graph, found)
