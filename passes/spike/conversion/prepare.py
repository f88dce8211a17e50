"""The float graph as it is converted: optimised, and with each rectifier where neurons are wanted."""

from __future__ import annotations

from plait.ir import Graph, Op, TensorType, Value
from plait.ir.ops import core, nn
from plait.passes.manager import optimize
from plait.passes.spike.conversion.convert import NAME
from plait.passes.spike.conversion.roles import LAYERS, MAXIMA, is_neuron

#: What a graph goes through before its activations are measured.
PREPARATION = "canonicalize,fold-constants,fold-batch-norm,fuse-bias,common-subexpression,dead-code"
_AVERAGES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, core.Mean)


def prepare(graph: Graph, *, spiking_averages: bool = False) -> Graph:
    """An optimised copy in which each rectifier is an op of its own, in front of max pooling.

    Args:
        spiking_averages: put a rectifier, which changes no number, behind averages of rectified values that
            a layer needs.
    """
    copy = graph.clone()
    for op in list(copy.ops):
        if getattr(op, "act", "none") in ("relu", "relu6") and _is_float(op.results[0]):
            _split(copy, op)
    found, _ = optimize(copy, PREPARATION)
    for op in list(found.ops):
        if is_neuron(op):
            _swap(found, op)
    if spiking_averages:
        for op in list(found.ops):
            if isinstance(op, _AVERAGES) and _is_rectified(op.x) and _feeds_layer(op):
                _rectify(found, op)
    return found


def _is_float(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.dtype.is_float


def _split(graph: Graph, op: Op) -> None:
    """Make the activation that an op applies an op of its own."""
    rectify = {"relu": nn.Relu, "relu6": nn.Relu6}[op.act]  # type: ignore[attr-defined]
    sums = graph.add(op.evolve(act="none"), name=f"{op.name}.sum", before=op, loc=op.loc.via(NAME))
    graph.replace(op, rectify(sums.result), loc=op.loc.via(NAME))


def _swap(graph: Graph, op: Op) -> None:
    """relu(max_pool(x)) => max_pool(relu(x)), so that spikes are pooled and not currents."""
    pool = op.operands[0].producer
    if not isinstance(pool, MAXIMA) or pool.result.use_count > 1:
        return
    first = graph.add(op.evolve(x=pool.x), name=f"{op.name}.rectified", before=pool, loc=op.loc.via(NAME))
    graph.replace(op, pool.evolve(x=first.result), loc=pool.loc.via(NAME))
    graph.erase(pool)


def _is_rectified(value: Value) -> bool:
    """Whether a value holds nothing but activations of neurons, moved, pooled or joined."""
    op = value.producer
    if op is None or is_neuron(op):
        return op is not None
    if isinstance(op, core.Concat):
        return all(_is_rectified(x) for x in op.xs)
    kinds = (core.Reshape, core.Transpose, core.Slice, core.Flip, *MAXIMA, *_AVERAGES)
    return isinstance(op, kinds) and _is_rectified(op.operands[0])


def _feeds_layer(op: Op) -> bool:
    """Whether a layer needs the result of an op."""
    seen, pending = {op}, [op]
    while pending:
        for value in pending.pop().results:
            for user in value.users:
                if isinstance(user, LAYERS):
                    return True
                if isinstance(user, Op) and user not in seen:
                    seen.add(user)
                    pending.append(user)
    return False


def _rectify(graph: Graph, op: Op) -> None:
    average = graph.add(op.evolve(), name=f"{op.name}.average", before=op, loc=op.loc.via(NAME))
    graph.replace(op, nn.Relu(average.result), loc=op.loc.via(NAME))
