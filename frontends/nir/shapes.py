"""The shape of every signal, without time and batch, from the Input nodes on."""

from __future__ import annotations

from collections import deque

import numpy as np

from plait.frontends.nir.fields import Shape, count_of, integers, pads, shape_of
from plait.frontends.nir.structure import Network, Node, Path


def infer_shapes(network: Network) -> tuple[dict[Path, Shape], dict[Path, Shape]]:
    """The shapes that nodes take and put out.

    Raises:
        LoweringError: an Input without a shape, a node that no Input reaches, or sizes that do
            not fit: of an edge, of a parameter, or of a shape that a node declares.
    """
    taken: dict[Path, Shape] = {}
    given: dict[Path, Shape] = {}
    todo = deque(node.path for node in network.outer("Input"))
    for path in todo:
        node = network.nodes[path]
        given[path] = taken[path] = shape_of(network, node, node.source.input_type, "input")
    following: dict[Path, list[Path]] = {path: [] for path in network.nodes}
    for source, target in network.edges:
        following[source].append(target)
    while todo:
        source = todo.popleft()
        for target in following[source]:
            if target not in taken:
                taken[target] = given[source]
                given[target] = output_shape(network, network.nodes[target], given[source])
                todo.append(target)
    for path in network.nodes:
        if path not in taken:
            raise network.error(
                "no Input reaches the node, so that its shape is not known",
                path,
                why="the sizes of a graph follow from the shapes of its Input nodes",
                remedy="add an edge that leads to it from an Input",
            )
    for source, target in network.edges:
        if given[source] != taken[target]:
            raise network.error(
                f"it takes {list(taken[target])}, but '{'.'.join(source)}' puts out {list(given[source])}",
                target,
                why="edges into one node are added, so that their sizes agree",
            )
    return taken, given


def output_shape(network: Network, node: Node, shape: Shape) -> Shape:
    """The shape that a node puts out for one that it takes.  Raises LoweringError where they do not fit."""
    if node.kind in ("Affine", "Linear"):
        return _linear(network, node, shape)
    if node.kind in ("Conv1d", "Conv2d"):
        return _convolution(network, node, shape)
    if node.kind in ("SumPool2d", "AvgPool2d"):
        return _pooling(network, node, shape)
    if node.kind == "Flatten":
        return _flatten(network, node, shape)
    if node.kind in ("Input", "Output"):
        types = node.source.input_type if node.kind == "Input" else node.source.output_type
        declared = shape_of(network, node, types, node.kind.lower())
        if declared != shape:
            raise network.error(
                f"it declares {list(declared)} but gets {list(shape)}",
                node.path,
                why="a declared shape is that of the signal",
                remedy=f"give it the shape {list(shape)}",
            )
        return shape
    for name in node.primitive.tensors:
        _check_broadcast(network, node, name, shape)
    return shape


def _check_broadcast(network: Network, node: Node, name: str, shape: Shape) -> None:
    parameter = node.array(name).shape
    try:
        fits = np.broadcast_shapes(parameter, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise network.error(
            f"{name} has shape {list(parameter)} but the signal has {list(shape)}",
            node.path,
            why="a parameter holds one number for each element, or stretches to that",
        )


def _linear(network: Network, node: Node, shape: Shape) -> Shape:
    weight = node.array("weight").shape
    if len(weight) < 2 or shape != (*weight[:-2], weight[-1]):
        raise network.error(
            f"weight has shape {list(weight)} but the signal has {list(shape)}",
            node.path,
            why="weights are [..., out, in] and the signal [..., in]",
        )
    out = weight[:-1]
    if node.kind == "Affine":
        bias = node.array("bias").shape
        if count_of(bias) != count_of(bias[-len(out) :]) or bias[-len(out) :] != out[-len(bias) :]:
            raise network.error(
                f"bias has shape {list(bias)} but the output has {list(out)}",
                node.path,
                why="there is one bias for each output",
            )
    return out


def _convolution(network: Network, node: Node, shape: Shape) -> Shape:
    axes = 1 if node.kind == "Conv1d" else 2
    weight = node.array("weight").shape
    if len(weight) != axes + 2 or len(shape) != axes + 1:
        raise network.error(
            f"weight has shape {list(weight)} and the signal {list(shape)}",
            node.path,
            why=f"they have {axes + 2} and {axes + 1} axes: [out, in, *kernel] and [in, *size]",
        )
    (groups,) = integers(network, node, "groups", 1, 1)
    if shape[0] != weight[1] * groups or weight[0] % groups:
        raise network.error(
            f"weight has shape {list(weight)} with {groups} groups, and the signal {shape[0]} channels",
            node.path,
            why="weights are [out, channels / groups, *kernel], and out divides by groups",
        )
    if node.source.bias is not None and node.array("bias").shape != weight[:1]:
        raise network.error(
            f"bias has shape {list(node.array('bias').shape)}",
            node.path,
            why=f"there is one number for each of {weight[0]} output channels",
        )
    if node.source.input_shape is not None:
        declared = integers(network, node, "input_shape", axes, 1)
        if declared != shape[1:]:
            raise network.error(
                f"input_shape is {list(declared)} but the signal has {list(shape[1:])}",
                node.path,
                why="a declared shape is that of the signal",
            )
    stride, dilation = (integers(network, node, name, axes, 1) for name in ("stride", "dilation"))
    before, after = pads(network, node, weight[2:], dilation, stride)
    windows = tuple(d * (k - 1) + 1 for d, k in zip(dilation, weight[2:], strict=True))
    return (weight[0], *_positions(network, node, shape[1:], windows, stride, before, after))


def _pooling(network: Network, node: Node, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise network.error(
            f"the signal has shape {list(shape)}", node.path, why="pooling takes [channels, rows, columns]"
        )
    kernel, stride = (integers(network, node, name, 2, 1) for name in ("kernel_size", "stride"))
    before, after = pads(network, node, kernel, (1, 1), stride)
    return (shape[0], *_positions(network, node, shape[1:], kernel, stride, before, after))


def _positions(
    network: Network, node: Node, size: Shape, window: Shape, stride: Shape, before: Shape, after: Shape
) -> Shape:
    found = []
    for n, w, s, b, a in zip(size, window, stride, before, after, strict=True):
        if n + b + a < w:
            raise network.error(
                f"a window of {w} does not fit {n} elements with padding {b} and {a}",
                node.path,
                why="there is one whole window at least",
            )
        found.append((n + b + a - w) // s + 1)
    return tuple(found)


def flattened_axes(network: Network, node: Node, rank: int) -> tuple[int, int]:
    """First and last axis that a Flatten joins, of a signal without batch, counted from the front."""
    found = []
    for name in ("start_dim", "end_dim"):
        (axis,) = integers(network, node, name, 1, -rank)
        found.append(axis + rank if axis < 0 else axis)
    start, end = found
    if not 0 <= start <= end < max(rank, 1):
        raise network.error(
            f"start_dim {node.source.start_dim} and end_dim {node.source.end_dim} of a signal with "
            f"{rank} axes",
            node.path,
            why="they name axes of the signal without its batch, the first one not behind the last",
        )
    return start, end


def _flatten(network: Network, node: Node, shape: Shape) -> Shape:
    types = node.source.input_type
    if (types.get("input") if isinstance(types, dict) else types) is not None:
        declared = shape_of(network, node, types, "input")
        if declared != shape:
            raise network.error(
                f"input_type is {list(declared)} but the signal has {list(shape)}",
                node.path,
                why="a declared shape is that of the signal",
            )
    if not shape:
        raise network.error("the signal has no axes", node.path, why="there is nothing to flatten")
    start, end = flattened_axes(network, node, len(shape))
    return (*shape[:start], count_of(shape[start : end + 1]), *shape[end + 1 :])
