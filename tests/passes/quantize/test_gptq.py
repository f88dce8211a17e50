"""GPTQ: the error of a layer's output, not of its weights, is what counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plait.ir import InputError
from plait.passes.quantize.calibrate import batches_of, observe_values
from plait.passes.quantize.gptq import gptq, gptq_round
from plait.passes.quantize.insert import weight_grids_of
from plait.passes.quantize.layers import Layer
from plait.passes.quantize.scheme import Grid, Scheme, grid_of_weight
from plait.passes.quantize.weight_grid import least_error_grid

from .trained import Task, pictures, rounded, sequences, weights_only


def correlated(taps: int, samples: int, seed: int = 0) -> np.ndarray:
    """Columns [taps, samples] that depend on each other, as activations do."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(taps, taps // 3)) @ random.normal(size=(taps // 3, taps))
    return (mixing @ random.normal(size=(taps, samples))) / taps + 0.1 * random.normal(size=(taps, samples))


def output_error(weight: np.ndarray, other: np.ndarray, columns: np.ndarray) -> float:
    return float((((weight - other).reshape(len(weight), -1) @ columns) ** 2).sum())


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(4, axis=0),
        Scheme(3, axis=0, symmetric=False),
        Scheme(4, group=12),
        Scheme(4),
        Scheme(4, axis=0, signed=False, symmetric=False),
    ],
)
@pytest.mark.parametrize("by_activation", [False, True])
def test_the_output_error_is_below_that_of_the_nearest(scheme: Scheme, by_activation: bool) -> None:
    weight = np.random.default_rng(1).normal(size=(16, 24)).astype(np.float32)
    columns = correlated(24, 300)
    stored, grid = gptq(weight, columns @ columns.T, scheme, by_activation=by_activation)
    low, high = scheme.range
    assert stored.dtype == (np.int8 if scheme.signed else np.uint8)
    assert low <= stored.min() <= stored.max() <= high
    nearest = grid.dequantise(grid.quantise(weight))
    assert output_error(weight, grid.dequantise(stored), columns) < 0.5 * output_error(
        weight, nearest, columns
    )


def test_block_size_changes_nothing_but_rounding_errors() -> None:
    weight = np.random.default_rng(1).normal(size=(8, 40)).astype(np.float32)
    columns = correlated(40, 500)
    found = [
        gptq(weight, columns @ columns.T, Scheme(4, axis=0), block=block)[0] for block in (1, 7, 40, 128)
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_uncorrelated_columns_are_rounded_to_the_nearest() -> None:
    weight = np.random.default_rng(1).normal(size=(8, 20)).astype(np.float32)
    for hessian in (np.eye(20), np.diag(np.arange(20.0))):  # the first tap of the second is never read
        stored, grid = gptq(weight, hessian, Scheme(4, axis=0))
        np.testing.assert_array_equal(stored, grid.quantise(weight))


def test_groups_are_rounded_apart() -> None:
    weight = np.random.default_rng(1).normal(size=(8, 3, 2, 2)).astype(np.float32)
    hessians = [c @ c.T for c in (correlated(12, 100, 1), correlated(12, 100, 2))]
    both, grid = gptq(weight, np.stack(hessians), Scheme(4, axis=0))
    for k, hessian in enumerate(hessians):
        part = slice(4 * k, 4 * k + 4)
        np.testing.assert_array_equal(both[part], gptq(weight[part], hessian, Scheme(4, axis=0))[0])
    assert grid.scale.shape == (8,)


def test_channels_of_large_magnitude_do_not_drown_the_others() -> None:
    weight = np.random.default_rng(1).normal(size=(16, 24)).astype(np.float32)
    columns = correlated(24, 300)
    outliers = np.where(np.arange(24) == 5, 300.0, 1.0)
    # The same layer twice; in the second, one channel is large and its weights are small.
    grid = grid_of_weight(Scheme(4, axis=1), weight)
    scaled = Grid(grid.scheme, grid.scale / outliers.astype(np.float32), grid.zero_point)
    plain = gptq(weight, columns @ columns.T, grid.scheme, grid=grid, by_activation=False)[0]
    columns *= outliers[:, None]
    other = gptq(
        weight / outliers.astype(np.float32),
        columns @ columns.T,
        grid.scheme,
        grid=scaled,
        by_activation=False,
    )[0]
    assert np.mean(plain != other) < 0.02


def test_a_singular_hessian_is_damped() -> None:
    weight = np.random.default_rng(1).normal(size=(4, 10)).astype(np.float32)
    column = np.arange(1.0, 11.0)[:, None]
    stored, grid = gptq(weight, column @ column.T, Scheme(4, axis=0), damp=0.0)
    nearest = grid.dequantise(grid.quantise(weight))
    assert output_error(weight, grid.dequantise(stored), column) < output_error(weight, nearest, column)


def test_bad_hessians() -> None:
    weight = np.ones((4, 6), np.float32)
    with pytest.raises(InputError, match="the Hessian is \\[5, 5\\] and the weight \\[4, 6\\]"):
        gptq(weight, np.eye(5), Scheme(4))
    with pytest.raises(InputError, match="not finite"):
        gptq(weight, np.full((6, 6), np.nan), Scheme(4))
    with pytest.raises(InputError, match="not positive semi-definite"):
        gptq(weight, -np.eye(6), Scheme(4))


# -- on trained networks -----------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "share"), [(pictures, 0.7), (sequences, 0.4)], ids=["pictures", "sequences"]
)
@pytest.mark.parametrize("scheme", [Scheme(3, axis=0), Scheme(3, symmetric=False, axis=0)], ids=str)
def test_a_trained_network_loses_less(make: object, share: float, scheme: Scheme) -> None:
    task: Task = make()  # type: ignore[operator]
    schemes = weights_only(task.graph, scheme)
    grids, stored = gptq_round(task.graph, schemes, task.calibration)
    assert set(grids) == set(stored) == set(schemes)
    nearest = task.error(rounded(task, schemes))
    assert task.error(rounded(task, schemes, grids, stored)) < share * nearest


def test_each_layer_alone_loses_less_on_the_data_it_was_shown() -> None:
    task = pictures()
    batches = batches_of(task.graph, task.calibration)
    for name, scheme in weights_only(task.graph, Scheme(3, axis=0)).items():
        grids, stored = gptq_round(task.graph, {name: scheme}, batches)
        (layer,) = (Layer(op) for op in task.graph.ops if op.name == name)
        seen: list[torch.Tensor] = []
        observe_values(task.graph, batches, [layer.x.name], lambda _, x, seen=seen: seen.append(x))
        columns = layer.columns(torch.cat(seen)).numpy()
        real = layer.w.data  # type: ignore[attr-defined]
        nearest = weight_grids_of(task.graph, {name: scheme})[name].quantise(real)
        errors = []
        for ints in (stored[name], nearest):
            difference = torch.from_numpy(grids[name].dequantise(ints) - real)
            errors.append(float(np.square(layer.matrix(difference).numpy() @ columns).sum()))
        assert errors[0] < errors[1], name


def test_a_weight_that_two_layers_read_is_rounded_once() -> None:
    task = sequences()
    graph = task.graph.clone()
    plain = graph.value("plain").producer
    assert plain is not None
    shared = graph.add_constant("shared", np.array(plain.w.data))  # type: ignore[attr-defined]
    again = graph.add(plain.evolve(x=plain.x, w=shared), name="again", before=plain, loc=plain.loc)  # type: ignore[attr-defined]
    graph.replace(plain, plain.evolve(x=again.result, w=shared))
    schemes = weights_only(graph, Scheme(4, axis=0))
    _, stored = gptq_round(graph, schemes, task.calibration)
    assert stored["again"] is stored["plain"]


def test_the_grid_may_be_another() -> None:
    task = pictures()
    schemes = weights_only(task.graph, Scheme(3, axis=0))
    grids, stored = gptq_round(task.graph, schemes, task.calibration, weight_grid=least_error_grid)
    plain = weight_grids_of(task.graph, schemes)
    assert all(np.all(grids[name].scale <= plain[name].scale) for name in schemes)
    assert task.error(rounded(task, schemes, grids, stored)) < task.error(rounded(task, schemes, grids))


@pytest.mark.parametrize(
    "scheme", [Scheme(2), Scheme(3, axis=0), Scheme(4, group=4), Scheme(3, symmetric=False)]
)
def test_least_error_grids(scheme: Scheme) -> None:
    weight = np.random.default_rng(0).standard_t(4, size=(16, 32)).astype(np.float32)
    plain, clipped = grid_of_weight(scheme, weight), least_error_grid(scheme, weight)
    assert clipped.scale.shape == plain.scale.shape

    def error(grid: object) -> float:
        return float(((grid.dequantise(grid.quantise(weight)) - weight) ** 2).sum())  # type: ignore[attr-defined]

    assert error(clipped) < 0.95 * error(plain)
