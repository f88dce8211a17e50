"""Arithmetic on known numbers that hold symbolic dims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from plait.frontends.nodes import decide
from plait.ir import IntLike


def _as_objects(array: np.ndarray) -> np.ndarray | None:
    """The array as Python ints and dims; None where it holds a fraction."""
    if array.dtype == object or array.dtype.kind in "iub":
        return array.astype(object)
    return array.astype(np.int64).astype(object) if np.all(array == np.trunc(array)) else None


def pairwise(left: np.ndarray, right: np.ndarray, function: Callable[[Any, Any], Any]) -> np.ndarray | None:
    """`function` of each pair of elements, broadcast; None where it is None for one, or one is a fraction."""
    a, b = _as_objects(left), _as_objects(right)
    if a is None or b is None:
        return None
    found = np.asarray(np.frompyfunc(function, 2, 1)(a, b), dtype=object)
    return None if any(element is None for element in found.flat) else found


def comparison(sign: str, ranges: decide.Ranges) -> Callable[[IntLike, IntLike], bool | None]:
    """The relation `==`, `!=`, `<`, `<=`, `>` or `>=` of dims; it is None where it depends on dim values."""

    def negated(known: bool | None) -> bool | None:
        return None if known is None else not known

    relations: dict[str, Callable[[IntLike, IntLike], bool | None]] = {
        "==": lambda a, b: decide.equal(a, b, ranges),
        "!=": lambda a, b: negated(decide.equal(a, b, ranges)),
        "<": lambda a, b: decide.less(a, b, ranges),
        ">": lambda a, b: decide.less(b, a, ranges),
        "<=": lambda a, b: negated(decide.less(b, a, ranges)),
        ">=": lambda a, b: negated(decide.less(a, b, ranges)),
    }
    return relations[sign]
