"""Symbolic dims: normal form, arithmetic, text and bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.ir.dims import (
    Dim,
    bounds,
    evaluate,
    floor_div,
    maximum,
    minimum,
    modulo,
    parse_dim,
    product,
    substitute,
    symbols_of,
)
from plait.ir.errors import InputError

B, N = Dim.symbol("B"), Dim.symbol("N")


def expressions() -> st.SearchStrategy:
    """Dims built from B, N and small integers by every operation."""
    leaf = st.one_of(st.integers(0, 9), st.sampled_from([B, N]))

    def combine(inner: st.SearchStrategy) -> st.SearchStrategy:
        return st.one_of(
            st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
            st.tuples(inner, inner).map(lambda p: p[0] - p[1]),
            st.tuples(inner, inner).map(lambda p: p[0] * p[1]),
            st.tuples(inner, st.integers(1, 7)).map(lambda p: floor_div(p[0], p[1])),
            st.tuples(inner, st.integers(1, 7)).map(lambda p: modulo(p[0], p[1])),
            st.tuples(inner, inner).map(lambda p: minimum(*p)),
            st.tuples(inner, inner).map(lambda p: maximum(*p)),
        )

    return st.recursive(leaf, combine, max_leaves=6)


@given(expressions())
def test_text_round_trip(dim: object) -> None:
    text = str(dim)
    if text.startswith("-") and text[1:].isdigit():
        return  # a negative constant is no dim
    assert parse_dim(text) == dim


@given(expressions(), st.integers(0, 20), st.integers(0, 20))
def test_substitution_agrees_with_evaluation(dim: object, b: int, n: int) -> None:
    environment = {"B": b, "N": n}
    assert substitute(dim, environment) == evaluate(dim, environment)


@given(expressions(), st.integers(1, 8), st.integers(2, 16))
def test_value_lies_within_bounds(dim: object, b: int, n: int) -> None:
    low, high = bounds(dim, {"B": (1, 8), "N": (2, 16)})
    value = evaluate(dim, {"B": b, "N": n})
    assert low is None or low <= value
    assert high is None or value <= high


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 9))
def test_division_and_remainder_recombine(b: int, n: int, k: int) -> None:
    dim = 3 * B + N + 1
    environment = {"B": b, "N": n}
    whole, rest = evaluate(floor_div(dim, k), environment), evaluate(modulo(dim, k), environment)
    assert whole * k + rest == evaluate(dim, environment)


def test_normal_form_decides_equality() -> None:
    assert 2 * B + B == 3 * B
    assert (B + 1) * (B - 1) == B * B - 1
    assert B - B == 0
    assert (4 * B + 8) // 4 == B + 2
    assert (2 * B * N) // N == 2 * B
    assert (6 * B) % 3 == 0
    assert B != N
    assert hash(B + N) == hash(N + B)


def test_text_is_readable() -> None:
    assert str(2 * B + 1) == "2*B+1"
    assert str((B + 1) // 2) == "((B+1)//2)"
    assert str(maximum(B, 4)) == "max(4, B)"
    assert str(B * N - 3) == "B*N-3"


def test_symbols_and_product() -> None:
    assert symbols_of((B + 1) // 2 + N) == {"B", "N"}
    assert product([2, B, 3]) == 6 * B
    assert product([]) == 1


def test_missing_value_names_the_dim() -> None:
    with pytest.raises(InputError, match=r"dim B has no value.*\n.*\n.*--dim B=8"):
        evaluate(B + N, {"N": 2})


def test_symbolic_dim_is_no_int() -> None:
    with pytest.raises(InputError, match="no fixed value"):
        int(B)


@pytest.mark.parametrize("text", ["", "B+", "2**B", "B)", "(B", "B$", "min(B)"])
def test_bad_text_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="dim"):
        parse_dim(text)


def test_bad_name_is_rejected() -> None:
    with pytest.raises(InputError, match="no dim name"):
        Dim.symbol("2B")
