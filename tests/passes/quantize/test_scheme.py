"""Schemes, grids, and schemes from text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from plait.ir import InputError
from plait.passes.quantize.parse import parse_rule, parse_scheme
from plait.passes.quantize.scheme import (
    INT4_WEIGHT_ONLY,
    INT8,
    Grid,
    OpScheme,
    Scheme,
    grid_from_range,
    grid_of_weight,
)

SCHEMES = st.builds(
    lambda signed, narrow, **fields: Scheme(signed=signed, narrow=narrow and signed, **fields),
    signed=st.booleans(),
    narrow=st.booleans(),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    axis=st.sampled_from([None, 0, -1]),
)


@pytest.mark.parametrize("bits", [1, 9, 0, -4, 4.0, True, "8"])
def test_bits_outside_their_range(bits: Any) -> None:
    with pytest.raises(InputError, match="2 to 8 bits"):
        Scheme(bits)


def test_axis_and_group_exclude_each_other() -> None:
    with pytest.raises(InputError, match="give one of them"):
        Scheme(4, axis=0, group=32)
    with pytest.raises(InputError, match="one element or more"):
        Scheme(4, group=0)


def test_activations_have_one_scale() -> None:
    with pytest.raises(InputError, match="leave out axis"):
        OpScheme(activation=Scheme(8, axis=0))
    with pytest.raises(InputError, match="neither"):
        OpScheme(None, None)


def test_an_unsigned_range_is_not_narrow() -> None:
    with pytest.raises(InputError, match="stands for zero"):
        Scheme(8, signed=False, narrow=True)


def test_ranges() -> None:
    assert Scheme(8).range == (-128, 127)
    assert Scheme(8, narrow=True).range == (-127, 127)
    assert Scheme(4, signed=False).range == (0, 15)
    assert Scheme(2).levels == 4
    assert str(Scheme(4, group=32).type_of((6, 64), "s")) == "qi4<@s, axis=1, group=32>[6,64]"


@given(
    scheme=SCHEMES,
    array=arrays(np.float32, array_shapes(min_dims=1, max_dims=3), elements=st.floats(-64, 64, width=32)),
)
def test_rounding_is_within_half_a_step(scheme: Scheme, array: np.ndarray) -> None:
    if scheme.symmetric and not scheme.signed:
        array = np.abs(array)
    grid = grid_of_weight(scheme, array)
    low, high = scheme.range
    stored = grid.quantise(array)
    assert stored.min() >= low
    assert stored.max() <= high
    step = grid.scale if scheme.axis is None else np.broadcast_to(grid.scale.max(), ())
    # A fitted zero point is rounded, which moves the ends of the range by half a step.
    allowed = step * (0.5 if scheme.symmetric else 1.0) * (1 + 1e-4) + 1e-6
    assert np.max(np.abs(grid.dequantise(stored) - array)) <= allowed


@given(scheme=SCHEMES, low=st.floats(-100, 0), high=st.floats(0, 100))
def test_zero_is_a_grid_point(scheme: Scheme, low: float, high: float) -> None:
    grid = grid_from_range(scheme, low, high)
    zero = grid.quantise(np.zeros((1, 1), np.float32))
    assert grid.dequantise(zero) == 0.0


def test_a_range_of_nothing_has_scale_one() -> None:
    assert grid_of_weight(Scheme(8), np.zeros((3, 4), np.float32)).scale == 1.0


def test_groups_have_scales_of_their_own() -> None:
    array = np.array([[1.0, -1.0, 100.0, 50.0], [0.1, 0.2, 3.0, 4.0]], np.float32)
    grid = grid_of_weight(Scheme(4, group=2), array)
    np.testing.assert_allclose(grid.scale, np.array([[1, 100], [0.2, 4]]) / 7, rtol=1e-6)
    assert (
        np.max(np.abs(grid.dequantise(grid.quantise(array)) - array) / grid.scale.repeat(2, -1)) <= 0.5 + 1e-6
    )
    with pytest.raises(InputError, match="do not divide"):
        grid_of_weight(Scheme(4, group=3), array)


def test_a_scale_must_be_positive() -> None:
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="positive and finite"):
            Grid(Scheme(8), np.array(bad, np.float32), np.array(0))


def test_schemes_from_text() -> None:
    assert parse_scheme("int8") == INT8
    assert parse_scheme("int4-weights") == INT4_WEIGHT_ONLY
    assert parse_scheme("a8w4g32") == OpScheme(Scheme(8, symmetric=False), Scheme(4, group=32))
    assert parse_scheme("w3").weight_only
    assert parse_rule("layer1.*=float").scheme is None
    assert parse_rule("op:nn.linear=w4g64").pattern == "op:nn.linear"
    with pytest.raises(InputError, match="int8"):
        parse_scheme("int88")
    with pytest.raises(InputError, match="2 to 8"):
        parse_scheme("a8w9")
    with pytest.raises(InputError, match="PATTERN=SCHEME"):
        parse_rule("layer1")
