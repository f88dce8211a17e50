"""Element types and permutations of axes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from plait.ir import DType, IntLike, LoweringError
from plait.ir.types import dtype_of


@lru_cache(maxsize=64)
def element_of(code: int, where: str = "") -> DType:
    """The IR element type of a TensorFlow `DataType` code.  Raises LoweringError where there is none."""
    import tensorflow as tf

    dtype = tf.dtypes.as_dtype(code)
    try:
        return dtype_of(dtype.as_numpy_dtype)
    except (ValueError, TypeError):
        raise LoweringError(
            f"element type {dtype.name} has no IR element type",
            where=where or "<model>",
            why="the IR holds numbers and booleans",
            remedy="keep strings, resources and variants out of the lowered function",
        ) from None


def channels_first(rank: int) -> tuple[int, ...]:
    """The permutation that moves the last axis behind the first: NHWC to NCHW."""
    return (0, rank - 1, *range(1, rank - 1))


def channels_last(rank: int) -> tuple[int, ...]:
    """The permutation that moves axis 1 to the end: NCHW to NHWC."""
    return (0, *range(2, rank), 1)


def keeps_order(shape: Sequence[IntLike], permutation: Sequence[int]) -> bool:
    """Whether a transpose of `shape` is a mere reshape, since it moves axes of size 1 only."""
    moved = [axis for axis in permutation if shape[axis] != 1]
    return moved == sorted(moved)
