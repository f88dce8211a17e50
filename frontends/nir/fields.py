"""Fields of NIR nodes as numbers: sizes, strides, pads, delays in steps; each checked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from plait.frontends.nir.structure import Network, Node

Shape = tuple[int, ...]


def integers(network: Network, node: Node, name: str, count: int, least: int) -> Shape:
    """A field of `count` whole numbers, or one for all, each `least` or more."""
    value = getattr(node.source, name)
    try:
        array = np.asarray(value)
        flat = tuple(int(number) for number in array.reshape(-1))
        whole = bool(np.all(array == array.astype(np.int64)))
    except (TypeError, ValueError):
        flat, whole = (), False
    if not whole or len(flat) not in (1, count) or min(flat, default=least - 1) < least:
        raise network.error(
            f"{name} is {value!r}",
            node.path,
            why=f"it is one whole number, or {count} of them, of {least} or more",
        )
    return flat * count if len(flat) == 1 else flat


def pads(network: Network, node: Node, kernel: Shape, dilation: Shape, stride: Shape) -> tuple[Shape, Shape]:
    """Padding in front of and behind each axis; 'same' puts the odd one behind, as PyTorch does."""
    value = node.source.padding
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str):
        both = integers(network, node, "padding", len(kernel), 0)
        return both, both
    if value == "valid":
        return (0,) * len(kernel), (0,) * len(kernel)
    if value != "same" or any(step != 1 for step in stride):
        raise network.error(
            f"padding is '{value}' with stride {list(stride)}",
            node.path,
            why="padding is 'valid', 'same' with stride 1, or whole numbers",
        )
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)


def shape_of(network: Network, node: Node, types: Any, port: str) -> Shape:
    """The shape in `input_type` or `output_type`.  Raises LoweringError where NIR left it open."""
    value = types.get(port) if isinstance(types, dict) else types
    if value is None:
        raise network.error(
            "the node has no shape",
            node.path,
            why="the sizes of a graph follow from the shapes of its Input nodes",
            remedy=f"give the shape, as in nir.{node.kind}(np.array([3, 32, 32]))",
        )
    numbers = np.asarray(value).reshape(-1)
    if numbers.dtype.kind not in "iu" and numbers.size and not np.all(numbers == np.trunc(numbers)):
        raise network.error(f"the shape is {value}", node.path, why="sizes are whole numbers")
    shape = tuple(int(n) for n in numbers)
    if any(n < 1 for n in shape):
        raise network.error(f"the shape is {list(shape)}", node.path, why="sizes are 1 or more")
    return shape


def check_times(network: Network, node: Node, dt: float) -> None:
    """Raise LoweringError for a time constant that a step of `dt` seconds cannot follow."""
    for name in node.primitive.tensors:
        if not name.startswith("tau"):
            continue
        taus = node.array(name).astype(np.float64)
        if taus.size and not (np.all(np.isfinite(taus)) and taus.min() >= dt * (1 - 1e-6)):
            raise network.error(
                f"{name} goes down to {taus.min()} s with a step of {dt} s",
                node.path,
                why="a forward Euler step needs 0 < dt <= tau",
                remedy="pass a smaller dt" if taus.min() > 0 else "time constants are positive, in seconds",
            )


def delay_steps(network: Network, node: Node, dt: float) -> np.ndarray:
    """The steps that a Delay holds each element back: delay / dt, rounded, halves to even; i64."""
    seconds = node.array("delay").astype(np.float64)
    steps = np.round(seconds / np.float64(dt))
    if steps.size and not (np.all(np.isfinite(steps)) and steps.min() >= 0):
        raise network.error(
            f"delay is {seconds.tolist()} s", node.path, why="delays are 0 or more, in seconds"
        )
    if steps.size and steps.max() > MOST_DELAY_STEPS:
        raise network.error(
            f"a delay of {seconds.max()} s is {steps.max():.0f} steps of {dt} s",
            node.path,
            why=f"a delay line of more than {MOST_DELAY_STEPS} steps is hardly meant",
            remedy="pass the dt that the graph was made for; NIR gives times in seconds",
        )
    return steps.astype(np.int64)


#: Length of the longest delay line that is built.
MOST_DELAY_STEPS = 1_000_000


def count_of(shape: Shape) -> int:
    """Number of elements."""
    return math.prod(shape)
