"""Post-training quantisation from end to end: a float graph and data in, an integer graph out.

found = quantize(graph, batches, rules=[Rule("head", None), Rule("op:nn.linear", INT4_WEIGHT_ONLY)])
found.graph      # integer arithmetic, for compile()
found.qdq        # the same on rounded floating-point numbers: what `to_onnx` exchanges
print(found.report(batches))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from plait.ir import Graph, InputError, Op
from plait.ir.errors import did_you_mean
from plait.passes.manager import optimize
from plait.passes.quantize.insert import (
    ABLE,
    insert_qdq,
    place,
    weights_to_quantise,
)
from plait.passes.quantize.quantized import Quantized
from plait.passes.quantize.scheme import INT8, Grid, OpScheme, grid_of_weight
from plait.passes.quantize.select import Rule, schemes_of
from plait.passes.quantize.weight_grid import least_error_grid

Rounding = Literal["nearest", "gptq", "adaround"]
#: What a graph goes through before ranges are measured.
PREPARATION = (
    "canonicalize,fold-constants,fold-batch-norm,fuse-bias,fuse-activation,common-subexpression,dead-code"
)
RAISING = "raise-quantized,dead-code"


@dataclass(frozen=True)
class Budget:
    """What the quantised layers may cost together; their widths are chosen by measured sensitivity.

    Attributes:
        limit: in bytes, bit operations, or the units of `cost`.
        cost: `size`, `bops`, or a function of an op and its scheme, for instance a latency in ms.
        candidates: widths to choose from.
        measure: what a graph in QDQ form loses; by default the squared error of all outputs
            over their squared size.
    """

    limit: float
    cost: Literal["size", "bops"] | Callable[[Op, OpScheme], float] = "size"
    candidates: tuple[int, ...] = (4, 6, 8)
    measure: Callable[[Graph], float] | None = None


def quantize(
    graph: Graph,
    data: Iterable[Any],
    *,
    scheme: OpScheme = INT8,
    rules: Sequence[Rule] = (),
    observer: str = "mse",
    equalize: bool = False,
    smooth: float | None = None,
    rounding: Rounding = "nearest",
    clip_weights: bool = False,
    correct_biases: bool = False,
    budget: Budget | None = None,
    dims: Mapping[str, int] | None = None,
    limit: int | None = None,
) -> Quantized:
    """Quantise a graph after training.

    Args:
        graph: any float graph; it stays as it is.
        data: calibration batches, each a mapping by input, a sequence, or the sole input.
        scheme: how convolutions, dense layers, matrix products, and what lies between them are quantised.
        rules: exceptions, read in order (see `plait.passes.quantize.select`).
        observer: what measures ranges: min-max, moving-average, percentile, mse or entropy.
        equalize: cross-layer equalisation first (arXiv 1906.04721).
        smooth: migrate the ranges of activations into weights with this exponent, 0..1
            (SmoothQuant, arXiv 2211.10438).
        rounding: of weights: to the nearest, or `gptq` (arXiv 2210.17323) or `adaround` (arXiv 2004.10568).
        clip_weights: grids of weights that give the least squared error; otherwise they reach from the
            smallest to the largest weight.
        correct_biases: take the mean error of each layer off its bias (arXiv 1906.04721, section 4.2).
        budget: choose the width of each layer so that all together keep to it (see
            `plait.passes.quantize.mixed_precision`); the widths of `scheme` and `rules` do not count then.
        dims: values of dims that no input shows.
        limit: batches to read at most.

    Raises:
        InputError: no data, data that is not finite or does not fit, a rule that selects
            nothing, an unknown observer or rounding.
    """
    if rounding not in get_args(Rounding):
        raise InputError(
            f"rounding is '{rounding}'{did_you_mean(rounding, get_args(Rounding))}",
            why=f"it is one of {', '.join(get_args(Rounding))}",
        )
    if smooth is not None and not 0.0 <= smooth <= 1.0:
        raise InputError(f"smooth is {smooth}", why="the exponent lies in 0..1")
    from plait.passes.quantize.calibrate import batches_of, calibrate

    batches = batches_of(graph, data, limit)
    prepared, remarks = prepare_float(graph)
    schemes = requested(prepared, scheme, rules)
    if equalize:
        from plait.passes.quantize.equalize import equalize as equalise

        remarks += (f"equalised {equalise(prepared)} pairs of layers",)
    if smooth is not None:
        from plait.passes.quantize.smooth import smooth_by_data

        remarks += (f"smoothed {smooth_by_data(prepared, batches, schemes, smooth, dims)} layers",)
    choice = None
    if budget is not None:
        from plait.passes.quantize.mixed_precision import choose_bits

        choice = choose_bits(
            prepared,
            schemes,
            batches,
            budget=budget.limit,
            cost=budget.cost,
            candidates=budget.candidates,
            measure=budget.measure,
            observer=observer,
            dims=dims,
        )
        schemes = choice.schemes
    wanted = place(prepared, schemes).measured
    grids = calibrate(prepared, batches, wanted, observer, dims=dims) if wanted else {}
    weight_grids, stored = round_weights(prepared, schemes, rounding, batches, dims, clip=clip_weights)
    qdq = insert_qdq(prepared, schemes, grids, weight_grids, stored)
    if correct_biases:
        from plait.passes.quantize.bias_correction import correct_biases as correct

        remarks += (f"corrected {correct(prepared, qdq, batches, dims)} biases",)
    return Quantized(raised(qdq), qdq, prepared, schemes, grids, remarks, choice)


def prepare_float(graph: Graph) -> tuple[Graph, tuple[str, ...]]:
    """The optimised graph with attention written out, so that its products can be quantised; and remarks."""
    found, report = optimize(graph, f"{PREPARATION},expand-attention")
    return found, tuple(remark for row in report.rows for remark in row.remarks)


def requested(graph: Graph, scheme: OpScheme, rules: Sequence[Rule]) -> dict[str, OpScheme]:
    """The scheme of each op by name: `scheme` for all that can be quantised, and then the rules."""
    everything = [
        Rule(f"op:{name}", scheme) for name in sorted({op.opname for op in graph.ops if isinstance(op, ABLE)})
    ]
    if not everything:
        raise InputError(
            f"graph @{graph.name} has nothing to quantise",
            why=f"those are {', '.join(sorted(kind.opname for kind in ABLE))}",
        )
    return schemes_of(graph, [*everything, *rules], ABLE)


def round_weights(
    graph: Graph,
    schemes: Mapping[str, OpScheme],
    rounding: Rounding,
    batches: Sequence[Any],
    dims: Mapping[str, int] | None,
    *,
    clip: bool = False,
) -> tuple[dict[str, Grid], dict[str, np.ndarray]]:
    """Grids and stored integers of the weights, by name of the op; see `quantize` for the options."""
    weight_grid = least_error_grid if clip else grid_of_weight
    if rounding == "gptq":
        from plait.passes.quantize.gptq import gptq_round

        return gptq_round(graph, schemes, batches, weight_grid=weight_grid, dims=dims)
    if rounding == "adaround":
        from plait.passes.quantize.adaround import adaround

        return adaround(graph, schemes, batches, weight_grid=weight_grid, dims=dims)
    weights = weights_to_quantise(graph, schemes)
    return {op.name: weight_grid(scheme, w.data, str(w)) for op, w, scheme in weights}, {}


def raised(qdq: Graph) -> Graph:
    """The integer form of a graph in QDQ form."""
    return optimize(qdq, RAISING)[0]
