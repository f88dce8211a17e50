"""Cross-layer equalisation: channel ranges of two layers in a row are made alike.

Where nothing but an activation with a(s x) = s a(x) for s > 0 lies between two layers, channel i of
what the first computes can be divided by any s_i if the second multiplies by it again.  With the
largest magnitudes r1_i of the first layer's weights for output i, and r2_i of the second's for
input i,

    s_i = sqrt(r1_i * r2_i) / r2_i

makes both sqrt(r1_i * r2_i), which loses least to one scale per tensor (Nagel et al. 2019, arXiv
1906.04721, section 4.1, equation 11).  Pairs share layers, so that this is repeated until nothing
moves; chains through depthwise convolutions are covered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from plait.ir import Constant, Graph, Op, TensorType, Value
from plait.ir.ops import core, nn
from plait.passes.constants import dense_data

NAME = "equalize"

Weighted = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
WEIGHTED: tuple[type[Weighted], ...] = get_args(Weighted)
#: Activations with a(s x) = s a(x) for every s > 0.
HOMOGENEOUS = ("none", "relu", "leaky_relu")
#: Ops that treat channels apart and commute with a positive factor for each.
_CHANNELWISE = (nn.Relu, nn.LeakyRelu, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


@dataclass(frozen=True)
class Pair:
    """Two layers in a row.

    Attributes:
        first, second: names of the ops.
        repeat: elements of each channel that lie side by side where the second reads (1, or
            the positions of a feature map that was flattened).
    """

    first: str
    second: str
    repeat: int = 1


def pairs_of(graph: Graph) -> list[Pair]:
    """The pairs that can be equalised, in order.

    Weights and biases are constants that nothing else reads, what lies between is read once,
    and activations are positively homogeneous.
    """
    found = []
    for op in graph.ops:
        if isinstance(op, WEIGHTED) and op.act in HOMOGENEOUS and _own(op.w) and (op.b is None or _own(op.b)):
            pair = _follow(op)
            if pair is not None:
                found.append(pair)
    return found


def _own(value: Value) -> bool:
    """Whether a constant is dense and read once."""
    return dense_data(value) is not None and value.use_count == 1


def _follow(first: Weighted) -> Pair | None:
    """The pair that a layer begins, or None."""
    value = first.result
    channels = first.w.shaped.shape[0]
    # The axis of the channels, and how many elements of it belong to each.
    axis, repeat = (value.shaped.rank - 1 if isinstance(first, nn.Linear) else 1), 1
    while value.use_count == 1 and isinstance(value.type, TensorType):
        (user,) = value.users
        if not isinstance(user, Op) or user.parent is not first.parent:
            return None
        if isinstance(user, WEIGHTED):
            reads = user.x is value and _own(user.w)
            # A convolution reads channels at axis 1, a dense layer at the last.
            fits = axis == (value.shaped.rank - 1 if isinstance(user, nn.Linear) else 1)
            return Pair(first.name, user.name, repeat) if reads and fits else None
        if isinstance(user, (nn.Relu, nn.LeakyRelu)):
            pass
        elif isinstance(user, _CHANNELWISE):
            if axis != 1:
                return None
        elif isinstance(user, core.Mean):
            rank = value.shaped.rank
            if axis != 1 or any(reduced % rank < 2 for reduced in user.axes):
                return None
        elif isinstance(user, core.Reshape):
            before, after = value.shaped.shape, user.out.shape
            inner = before[2:]
            if axis != 1 or len(after) != 2 or after[0] != before[0]:
                return None
            if not all(isinstance(dim, int) for dim in inner):
                return None
            repeat *= int(np.prod([int(dim) for dim in inner]))  # type: ignore[call-overload]
            if after[1] != channels * repeat:
                return None
        else:
            return None
        value = user.results[0]
    return None


def equalize(graph: Graph, *, sweeps: int = 100, tolerance: float = 1e-4, limit: float = 1e3) -> int:
    """Equalise all pairs of layers of an optimised float graph, in place; its outputs stay the same.

    Names stay too, for schemes and rules go by them, though what lies between two layers is
    scaled by channel.  A channel whose weights are all zero on either side is left alone.

    Args:
        sweeps: rounds over all pairs at most.
        tolerance: stop when no factor of a round is further than this from 1.
        limit: no channel is scaled by more than this, either way, so that the bias of a
            channel that hardly counts does not come to rule the range of the tensor.

    Returns:
        The number of pairs whose channels were scaled.
    """
    pairs = pairs_of(graph)
    ops = {op.name: op for op in graph.ops if isinstance(op, WEIGHTED)}
    weights = {
        # In row-major order, so that views below are views.
        name: np.array(dense_data(ops[name].w), np.float64, order="C")
        for pair in pairs
        for name in (pair.first, pair.second)
    }
    totals = {pair: np.ones(weights[pair.first].shape[0]) for pair in pairs}
    for _ in range(sweeps):
        largest = 0.0
        for pair in pairs:
            first, second = weights[pair.first], weights[pair.second]
            incoming = _by_input(ops[pair.second], second, pair.repeat)
            ranges = np.abs(first).reshape(len(first), -1).max(1), np.abs(incoming).max((1, 3)).reshape(-1)
            wanted = np.sqrt(_ratio(*ranges))
            bounded = np.clip(totals[pair] * wanted, 1.0 / limit, limit)
            factor = bounded / totals[pair]
            totals[pair] = bounded
            first /= factor.reshape(-1, *(1,) * (first.ndim - 1))
            incoming *= factor.reshape(incoming.shape[0], 1, incoming.shape[2], 1)  # a view of `second`
            largest = max(largest, float(np.abs(np.log(factor)).max(initial=0.0)))
        if largest <= tolerance:
            break
    changed = [pair for pair in pairs if np.any(np.abs(totals[pair] - 1.0) > tolerance)]
    biases = {
        pair.first: dense_data(ops[pair.first].b).astype(np.float64) / totals[pair]  # type: ignore[union-attr]
        for pair in changed
        if ops[pair.first].b is not None
    }
    for name in dict.fromkeys(name for pair in changed for name in (pair.first, pair.second)):
        replace_parameters(graph, ops[name], weights[name], biases.get(name), NAME, "equalized")
    return len(changed)


def _ratio(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """first / second, or 1 where either is zero."""
    usable = (first > 0) & (second > 0)
    found: np.ndarray = np.where(usable, first, 1.0) / np.where(usable, second, 1.0)
    return found


def _by_input(op: Weighted, weight: np.ndarray, repeat: int = 1) -> np.ndarray:
    """A view of a weight as [groups, outputs/groups, inputs/groups, rest]: inputs are groups times axis 2."""
    groups = 1 if isinstance(op, nn.Linear) else op.groups
    inputs = weight.shape[1] // repeat
    return weight.reshape(groups, weight.shape[0] // groups, inputs, -1)


def replace_parameters(
    graph: Graph, op: Weighted, weight: np.ndarray, bias: np.ndarray | None, name: str, suffix: str
) -> Weighted:
    """Give an op other weights, and another bias where one is given, located `via` a name.

    The constants that nothing reads any more are removed.
    """
    held = [value for value in (op.w, op.b if bias is not None else None) if value is not None]
    kind = op.w.shaped.dtype.numpy
    changes: dict[str, Value] = {
        "w": graph.add_constant(graph.free_name(f"{op.w.name}.{suffix}"), weight.astype(kind))
    }
    if bias is not None:
        hint = op.b.name if op.b is not None else op.name
        changes["b"] = graph.add_constant(graph.free_name(f"{hint}.{suffix}"), bias.astype(kind))
    made = op.evolve(**changes)
    graph.replace(op, made, loc=op.loc.via(name))
    for value in held:
        if isinstance(value, Constant) and not value.users:
            graph.remove_constant(value)
    return made
