"""Fixed-point factors: exact to 31 bits, rounded halves up, and refused where they mean nothing."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.ir import InputError, QuantType, parse_type
from plait.ir.fixed_point import bounds_of, fixed_point, product_factor, scale_of, sum_scales

FACTORS = st.floats(min_value=2.0**-40, max_value=2.0**29, allow_nan=False)
ACCUMULATORS = st.integers(-(2**31), 2**31 - 1)


@given(FACTORS)
def test_mantissa_has_31_bits_and_the_factor_is_near(factor: float) -> None:
    found = fixed_point(factor)
    mantissa, shift = int(found.mantissa), int(found.shift)
    if factor < 2.0**-32:
        assert mantissa == 0
        return
    assert 1 << 30 <= mantissa < 1 << 31
    assert 1 <= shift <= 62
    assert abs(Fraction(mantissa, 1 << shift) - Fraction(factor)) <= Fraction(factor) / 2**31
    assert float(found.factor) == float(Fraction(mantissa, 1 << shift))


@given(FACTORS, st.lists(ACCUMULATORS, min_size=1, max_size=8))
def test_rescale_rounds_halves_up_without_overflow(factor: float, totals: list[int]) -> None:
    found = fixed_point(factor)
    exact = Fraction(int(found.mantissa), 1 << int(found.shift))
    wanted = [int((total * exact + Fraction(1, 2)).__floor__()) for total in totals]
    assert found.rescale(np.array(totals, np.int32)).tolist() == wanted


def test_what_is_below_one_half_of_every_accumulator_vanishes() -> None:
    found = fixed_point(np.array([2.0**-33, 2.0**-32, 0.5]))
    assert found.mantissa.tolist() == [0, 1 << 30, 1 << 30]
    extremes = np.full(3, -(2**31), np.int64)
    assert found.rescale(extremes).tolist() == [0, 0, -(2**30)]


def test_a_factor_that_rounds_up_to_a_power_of_two() -> None:
    found = fixed_point(1.0 - 2.0**-40)
    assert (int(found.mantissa), int(found.shift)) == (1 << 30, 30)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf"), 2.0**30])
def test_factors_without_meaning_are_refused(factor: float) -> None:
    with pytest.raises(InputError, match="a factor between scales leaves"):
        fixed_point(factor)


def quantised(text: str) -> QuantType:
    kind = parse_type(text)
    assert isinstance(kind, QuantType)
    return kind


def test_rectifiers_are_bounds() -> None:
    out = quantised("qi8<0.05, zp=-100>[4]")
    assert bounds_of(out, "none") == (-128, 127)
    assert bounds_of(out, "relu") == (-100, 127)
    assert bounds_of(out, "relu6") == (-100, 20)
    assert bounds_of(quantised("qu4<1.0, zp=3>[4]"), "relu6") == (3, 9)


@given(
    st.floats(1e-6, 1e3),
    st.floats(1e-6, 1e3),
    st.floats(1e-3, 1e3),
    st.sampled_from([2, 4, 8]),
    st.booleans(),
    st.data(),
)
def test_every_step_of_a_sum_fits_32_bits(
    left: float, right: float, out: float, bits: int, signed: bool, data: st.DataObject
) -> None:
    low = -(1 << (bits - 1)) if signed else 0
    kinds = [
        QuantType(bits, signed, scale, (4,), data.draw(st.integers(low, low + (1 << bits) - 1)))
        for scale in (left, right)
    ]
    result = QuantType(8, True, out, (4,))
    try:
        scales = sum_scales(kinds[0], kinds[1], result)
    except InputError:
        # Only where one quantum of an operand is thousands of the result.
        assert max(left, right) / out > 2**21 / (1 << bits)
        return
    half = 1 << (scales.shift - 1)
    for x in kinds[0].range:
        for y in kinds[1].range:
            first = (x - int(kinds[0].zero_point)) * scales.left
            second = (y - int(kinds[1].zero_point)) * scales.right
            assert max(abs(first), abs(second), abs(first + second), abs(first + second + half)) < 1 << 31
            exact = (x - int(kinds[0].zero_point)) * left / out + (y - int(kinds[1].zero_point)) * right / out
            found = (first + second + half) / (1 << scales.shift) - 0.5
            assert abs(found - exact) <= (1 << bits) / (1 << scales.shift) + 1e-9 * abs(exact)


def test_scales_by_reference_are_read_from_their_constant() -> None:
    arrays = {"s": np.array([0.1, 0.2], np.float32), "t": np.array(0.5, np.float32)}
    left = scale_of(quantised("qi8<@t>[4]"), arrays.__getitem__)
    right = scale_of(quantised("qi8<@s, axis=0>[2,4]"), arrays.__getitem__)
    assert left.shape == ()
    found = product_factor(left, right, quantised("qi8<0.25>[2]"))
    np.testing.assert_allclose(found.factor, [0.2, 0.4], rtol=1e-7)
