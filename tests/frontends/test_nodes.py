"""What the node-list frontends share, on its own."""

from __future__ import annotations

import operator

import numpy as np
import pytest

from plait.frontends.nodes.arithmetic import comparison, pairwise
from plait.frontends.nodes.operand import object_array, plain_numbers
from plait.frontends.nodes.shapes import completed
from plait.ir import Dim
from plait.ir import types as t

N, M = Dim.symbol("N"), Dim.symbol("M")


def test_an_open_entry_takes_what_is_left() -> None:
    assert completed((N, 3, 4), (N, -1)) == (N, 12)
    assert completed((N, 6), (-1, 2, 3)) == (N, 2, 3)
    assert completed((N, M, 4), (N * M, -1)) == (N * M, 4)
    assert completed((4, 0), (0, 0, -1)) == (0, 0, 0)
    assert completed((N, 4), (4, N)) == (4, N)


def test_numbers_without_dims_become_plain() -> None:
    assert plain_numbers(object_array((2, 3)), t.i32).dtype == np.int32
    assert plain_numbers(np.array([1, 2]), t.f32).dtype == np.float32
    symbolic = object_array((2, N))
    assert plain_numbers(symbolic, t.i64) is symbolic


def test_pairs_broadcast_and_fractions_are_left_alone() -> None:
    found = pairwise(object_array((N, 2)), np.array(3.0), operator.mul)
    assert found is not None
    assert list(found) == [N * 3, 6]
    assert pairwise(object_array((N, 2)), np.array(0.5), operator.mul) is None
    assert pairwise(object_array((N, 2)), np.array(1), lambda a, b: None if a == N else b) is None


@pytest.mark.parametrize(
    ("sign", "of_4", "of_5"),
    [
        ("==", None, False),
        ("!=", None, True),
        ("<", None, True),
        ("<=", True, True),
        (">", False, False),
        (">=", None, False),
    ],
)
def test_ranges_decide_relations(sign: str, of_4: bool | None, of_5: bool | None) -> None:
    relation = comparison(sign, {"N": (1, 4)})
    assert relation(N, 4) is of_4
    assert relation(N, 5) is of_5
