"""Mixed precision: the knapsack solver against all choices, budgets that are kept, and what is gained."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.ir import Graph, InputError, Op
from plait.ir.cost import op_cost
from plait.passes.quantize.calibrate import batches_of
from plait.passes.quantize.insert import weight_of
from plait.passes.quantize.knapsack import choose
from plait.passes.quantize.mixed_precision import (
    MixedPrecision,
    bit_operations,
    choose_bits,
    output_error,
    size_of_weight,
    with_width,
)
from plait.passes.quantize.scheme import INT8, INT8_WEIGHT_ONLY, OpScheme, Scheme

from .trained import everything, pictures, rounded, sequences, weights_only

NUMBERS = st.floats(0, 100, allow_nan=False)


# -- the solver ------------------------------------------------------------------------
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.tuples(NUMBERS, st.floats(-5, 50)), min_size=1, max_size=4), min_size=1, max_size=5),
    st.floats(0, 300),
)
def test_no_choice_is_better(items: list[list[tuple[float, float]]], budget: float) -> None:
    costs, losses = ([[pair[k] for pair in row] for row in items] for k in (0, 1))
    found = choose(costs, losses, budget)
    every = [
        (sum(row[k] for row, k in zip(losses, picks, strict=True)), picks)
        for picks in itertools.product(*(range(len(row)) for row in costs))
        if sum(row[k] for row, k in zip(costs, picks, strict=True)) <= budget
    ]
    if not every:
        assert found is None or found.cost == pytest.approx(budget)
        return
    assert found is not None
    assert found.exact
    assert found.loss <= min(every)[0] + 1e-9
    assert found.cost <= budget * (1 + 1e-9)
    assert found.cost == pytest.approx(sum(row[k] for row, k in zip(costs, found.options, strict=True)))


def test_many_items_are_thinned_out_and_stay_near_the_best() -> None:
    random = np.random.default_rng(0)
    costs = np.sort(random.uniform(1, 10, (60, 3)), axis=1)
    losses = -np.sort(-random.exponential(size=(60, 3)), axis=1)
    budget = 0.6 * costs[:, -1].sum()
    best = choose(costs.tolist(), losses.tolist(), budget)
    rough = choose(costs.tolist(), losses.tolist(), budget, frontier=300)
    assert best is not None
    assert rough is not None
    assert not rough.exact
    assert rough.cost <= budget
    assert rough.loss <= best.loss * 1.05
    tight = choose(costs.tolist(), losses.tolist(), costs[:, 0].sum(), frontier=10)
    assert tight is not None
    assert tight.options == (0,) * 60


# -- on trained networks -----------------------------------------------------------
def size(graph: Graph, schemes: dict[str, OpScheme]) -> float:
    return sum(size_of_weight(op, schemes[op.name]) for op in graph.ops if op.name in schemes)


def of_width(graph: Graph, schemes: dict[str, OpScheme], bits: int) -> dict[str, OpScheme]:
    return {name: with_width(scheme, bits, "weight") for name, scheme in schemes.items()}


@pytest.fixture(scope="module")
def found() -> MixedPrecision:
    task = sequences()
    schemes = weights_only(task.graph, Scheme(8, axis=0))
    budget = size(task.graph, of_width(task.graph, schemes, 5))
    return choose_bits(task.graph, schemes, task.calibration, budget=budget, candidates=range(2, 9), limit=2)


def test_the_budget_is_kept_and_five_bits_for_all_are_beaten(found: MixedPrecision) -> None:
    task = sequences()
    uniform = of_width(task.graph, found.schemes, 5)
    assert size(task.graph, found.schemes) == pytest.approx(found.cost)
    assert found.cost <= found.budget == pytest.approx(size(task.graph, uniform))
    assert found.loss < 0.5 * found.uniform[5][1]
    assert len({row.bits for row in found.rows}) > 1
    assert task.error(rounded(task, found.schemes)) < 0.5 * task.error(rounded(task, uniform))
    assert found.method == "exact dynamic programming"


def test_fewer_bits_lose_more_in_each_layer(found: MixedPrecision) -> None:
    for row in found.rows:
        assert 0 <= row.losses[8] < 0.1 * row.losses[2]


def test_a_network_of_even_layers_loses_nothing() -> None:
    task = pictures()
    schemes = weights_only(task.graph, Scheme(8, axis=0))
    budget = size(task.graph, of_width(task.graph, schemes, 4))
    result = choose_bits(
        task.graph, schemes, task.calibration, budget=budget, candidates=(2, 3, 4, 5, 6), limit=1
    )
    assert result.loss <= result.uniform[4][1]
    assert size(task.graph, result.schemes) <= budget


def test_the_table(found: MixedPrecision) -> None:
    text = str(found)
    assert all(row.name in text and row.path for row in found.rows)
    assert f"of {found.budget:.6g} bytes" in text
    assert "all at 5" in text
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["rows"][0]["bits"] == found.rows[0].bits
    assert plain["schemes"][found.rows[0].name]["weight"]["bits"] == found.rows[0].bits


def test_bops_count_both_operands() -> None:
    task = pictures()
    schemes = everything(task.graph, INT8)
    layers = [op for op in task.graph.ops if op.name in schemes]
    dims = {"B": 64}
    eight = sum(bit_operations(op, INT8, dims) for op in layers)
    assert eight == sum(op_cost(op, dims).macs * 64 for op in layers)  # type: ignore[operator]
    assert bit_operations(layers[0], INT8_WEIGHT_ONLY, dims) == op_cost(layers[0], dims).macs * 8 * 32  # type: ignore[operator]
    result = choose_bits(
        task.graph, schemes, task.calibration, budget=eight / 2, cost="bops", candidates=(4, 6, 8), limit=1
    )
    reached = sum(bit_operations(op, result.schemes[op.name], dims) for op in layers)
    assert reached == pytest.approx(result.cost)
    assert reached <= eight / 2
    for row in result.rows:
        scheme = result.schemes[row.name]
        assert scheme.activation is not None
        assert scheme.weight is not None
        assert scheme.activation.bits == scheme.weight.bits == row.bits
    uniform = {name: INT8.with_bits(4) for name in schemes}
    assert task.error(rounded(task, result.schemes)) < task.error(rounded(task, uniform))


def test_a_cost_and_a_measure_may_be_handed_in() -> None:
    task = sequences()
    schemes = weights_only(task.graph, Scheme(8, axis=0))
    latency = {4: 1.0, 8: 3.0}
    asked: list[str] = []

    def cost(op: Op, scheme: OpScheme) -> float:
        asked.append(op.name)
        assert scheme.weight is not None
        return latency[scheme.weight.bits]

    def measure(graph: Graph) -> float:
        return 1.0 - task.accuracy(graph)

    result = choose_bits(
        task.graph,
        schemes,
        task.calibration,
        budget=len(schemes) + 4.0,
        candidates=(8, 4, 4),
        cost=cost,
        widths="weight",
        measure=measure,
    )
    assert set(asked) == set(schemes)
    assert sorted(row.bits for row in result.rows) == sorted([8, 8] + [4] * (len(schemes) - 2)) or (
        result.cost < len(schemes) + 4.0
    )
    assert result.cost <= len(schemes) + 4.0
    base = measure(task.graph)
    first = result.rows[0]
    alone = {first.name: with_width(schemes[first.name], 4, "weight")}
    assert first.losses[4] == pytest.approx(measure(rounded(task, alone)) - base)


def test_size_counts_scales_and_zero_points() -> None:
    graph = pictures().graph
    (op,) = (op for op in graph.ops if op.name == "last_norm" or op.loc.origins[0].path == "last")
    weight = weight_of(op)
    assert weight is not None
    count, outputs = weight.data.size, weight.data.shape[0]
    assert size_of_weight(op, OpScheme(None, Scheme(4))) == count / 2 + 4
    assert size_of_weight(op, OpScheme(None, Scheme(4, axis=0))) == count / 2 + 4 * outputs
    assert (
        size_of_weight(op, OpScheme(None, Scheme(3, axis=0, symmetric=False))) == count * 3 / 8 + 8 * outputs
    )
    assert size_of_weight(op, OpScheme(Scheme(8), None)) == 4 * count


def test_the_error_of_outputs_is_relative() -> None:
    task = sequences()
    measure = output_error(task.graph, batches_of(task.graph, [task.held_out]))
    assert measure(task.graph) == 0.0
    graph = rounded(task, weights_only(task.graph, Scheme(4, axis=0)))
    assert measure(graph) == pytest.approx(task.error(graph), rel=1e-4)


# -- bad input -----------------------------------------------------------------------
def test_bad_input() -> None:
    task = sequences()
    schemes = weights_only(task.graph, Scheme(8, axis=0))

    def refuse(match: str, **options: object) -> None:
        given = {"budget": 1e9, **options}
        with pytest.raises(InputError, match=match):
            choose_bits(task.graph, schemes, task.calibration, **given)  # type: ignore[arg-type]

    refuse("at the cheapest of \\[4, 6, 8\\] bits cost", budget=10)
    refuse("did you mean 'bops'", cost="bop")
    refuse("no candidate", candidates=())
    refuse("bits is 16", candidates=(8, 16))
    refuse("widths is 'weights'", widths="weights")
    refuse("the loss is nan", measure=lambda graph: float("nan"))
    with pytest.raises(InputError, match="no layer has weights"):
        choose_bits(task.graph, {}, task.calibration, budget=1e9)
