"""Questions about symbolic dims that their ranges may answer."""

from __future__ import annotations

from collections.abc import Mapping

from plait.ir import IntLike
from plait.ir import dims as d

Ranges = Mapping[str, tuple[int, "int | None"]]


def sign_range(left: IntLike, right: IntLike, ranges: Ranges) -> tuple[int | None, int | None]:
    """The interval of `left - right`."""
    return d.bounds(left - right, ranges)


def equal(left: IntLike, right: IntLike, ranges: Ranges) -> bool | None:
    """Whether two dims are equal for all dim values; None where it depends on them."""
    low, high = sign_range(left, right, ranges)
    if low == high == 0:
        return True
    return False if (low is not None and low > 0) or (high is not None and high < 0) else None


def less(left: IntLike, right: IntLike, ranges: Ranges) -> bool | None:
    """Whether `left < right` for all dim values; None where it depends on them."""
    low, high = sign_range(left, right, ranges)
    if high is not None and high < 0:
        return True
    return False if low is not None and low >= 0 else None


def smaller(left: IntLike, right: IntLike, ranges: Ranges) -> IntLike:
    """min(left, right), one of them where the ranges tell which."""
    low, high = sign_range(left, right, ranges)
    if high is not None and high <= 0:
        return left
    return right if low is not None and low >= 0 else d.minimum(left, right)


def larger(left: IntLike, right: IntLike, ranges: Ranges) -> IntLike:
    """max(left, right), one of them where the ranges tell which."""
    low, high = sign_range(left, right, ranges)
    if low is not None and low >= 0:
        return left
    return right if high is not None and high <= 0 else d.maximum(left, right)


def clamp_index(index: IntLike, size: IntLike, ranges: Ranges) -> IntLike:
    """A slice bound counted from the front and limited to 0..size; negative ones count from the end."""
    low, _ = d.bounds(index, ranges)
    if low is None or low < 0:
        negative = less(index, 0, ranges)
        if negative is None and isinstance(index, int):
            negative = index < 0
        if negative:
            index = index + size
    return smaller(larger(index, 0, ranges), size, ranges)
