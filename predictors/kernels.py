"""Which ops run as one kernel: the grouping that a fusing runtime launches, or one kernel per op.

Views cost nothing.  With fusion, an injective op (elementwise, or one that moves
elements) joins the kernel that computes an operand of it which nothing else
reads, behind a contraction or another injective op; a reduction takes injective
producers in.  These are the rules common to graph compilers (Chen et al., "TVM",
OSDI 2018, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from plait.ir.cost import Cost
from plait.ir.dims import evaluate
from plait.ir.errors import PredictError, did_you_mean
from plait.ir.graph import Graph
from plait.ir.op import Op
from plait.ir.ops import core, linalg, nn, prob, quant, spike
from plait.ir.ops.core import elementwise, reduce
from plait.ir.ops.nn import conv, norm
from plait.ir.region import Region
from plait.ir.types import GraphType, ShapedType
from plait.ir.value import Value

Kind = Literal["view", "injective", "reduction", "contraction", "opaque"]

_VIEWS = (core.Reshape, core.Broadcast, core.DimValue, core.Full, core.Iota)
_REDUCTIONS = (
    reduce.Reduction,
    reduce.ArgReduction,
    nn.Softmax,
    nn.LogSoftmax,
    nn.LayerNorm,
    nn.RmsNorm,
    norm.ChannelNorm,
    nn.AdaptiveAvgPool2d,
    quant.Mean,
    prob.LogSumExp,
)
_CONTRACTIONS = (
    conv.Convolution,
    nn.Linear,
    linalg.Matmul,
    nn.Attention,
    spike.SpikeLinear,
    spike.SpikeConv2d,
)
_INJECTIVE = (
    elementwise.Unary,
    elementwise.Binary,
    core.Not,
    core.IsNan,
    core.IsInf,
    core.Cast,
    core.Clamp,
    core.Where,
    core.Transpose,
    core.Concat,
    core.Slice,
    core.Pad,
    core.Flip,
    core.Roll,
    core.Triangle,
    nn.BatchNorm,
    quant.Quantize,
    quant.Dequantize,
    quant.Requantize,
    quant.FakeQuant,
    quant.Add,
    spike.Threshold,
    spike.IntegrateAndFire,
    spike.Lif,
)


def kind_of(op: Op, *, fused: bool = True) -> Kind:
    """How an op takes part in fusion.  Without fusion a slice and most transposes are views as well."""
    if isinstance(op, _VIEWS):
        return "view"
    if not fused and (isinstance(op, core.Slice) or (isinstance(op, core.Transpose) and _stays_strided(op))):
        return "view"
    if isinstance(op, _REDUCTIONS):
        return "reduction"
    if isinstance(op, _CONTRACTIONS):
        return "contraction"
    return "injective" if isinstance(op, _INJECTIVE) else "opaque"


def _stays_strided(op: core.Transpose) -> bool:
    """Whether every reader takes strides; a reshape behind a transpose copies."""
    return not any(isinstance(user, core.Reshape) for user in op.result.users)


@dataclass
class Kernel:
    """Ops that run as one kernel, in execution order; `kind` is that of the whole."""

    ops: list[Op]
    kind: Kind

    def external_bytes(self, op: Op, cost: Cost, dims: Mapping[str, int]) -> tuple[float, float]:
        """Bytes that one of its ops reads from and writes to memory, without what stays inside the kernel."""
        inside = set(self.ops)
        read, written = float(cost.bytes_read or 0), float(cost.bytes_written or 0)
        for value in dict.fromkeys(op.operands):
            if through_views(value).producer in inside:
                read -= bytes_of(value, dims)
        for value in op.results:
            readers = _readers(value)
            if readers and readers <= inside:
                written -= bytes_of(value, dims)
        return max(read, 0.0), max(written, 0.0)


@dataclass
class Loop:
    """A block that runs `trips` times; `exact` is False where the trip count is not known."""

    op: Op
    body: Block
    trips: int
    exact: bool = True


@dataclass
class Branch:
    """One of two blocks."""

    op: Op
    then: Block
    otherwise: Block


Item = Kernel | Loop | Branch


@dataclass
class Block:
    """Kernels and control flow in execution order."""

    items: list[Item] = field(default_factory=list)


def bytes_of(value: Value, dims: Mapping[str, int]) -> int:
    """Storage of a value under dim values."""
    kind = value.type
    return kind.bytes_at(dims) if isinstance(kind, (ShapedType, GraphType)) else 0


def through_views(value: Value) -> Value:
    """The value behind reshapes and broadcasts."""
    while isinstance(value.producer, (core.Reshape, core.Broadcast)):
        value = value.producer.x
    return value


def _readers(value: Value) -> set[Op | Region]:
    """Ops and regions that read a value, views looked through."""
    found: set[Op | Region] = set()
    for user in value.users:
        if isinstance(user, (core.Reshape, core.Broadcast)):
            found |= _readers(user.result) or {user}
        else:
            found.add(user)
    return found


def group(
    graph: Graph,
    dims: Mapping[str, int],
    *,
    fused: bool = True,
    kernels: Sequence[Sequence[str]] | None = None,
) -> Block:
    """The kernels of a graph in execution order.

    Args:
        dims: a value for every dim symbol.
        fused: group by the fusion rules; else one kernel per op.
        kernels: the grouping of a compiled program instead, as names of ops; ops
            that it does not name run alone.

    Raises:
        PredictError: when `kernels` names an op twice, or one that the graph lacks.
    """
    return _group_region(graph.body, dims, fused, _given_groups(graph, kernels))


def _given_groups(graph: Graph, kernels: Sequence[Sequence[str]] | None) -> dict[Op, int] | None:
    if kernels is None:
        return None
    by_name = {value.name: op for op in graph.walk() for value in op.results}
    found: dict[Op, int] = {}
    for number, names in enumerate(kernels):
        for name in names:
            op = by_name.get(name.lstrip("%"))
            if op is None:
                raise PredictError(
                    f"kernel {number} names %{name.lstrip('%')}, which graph @{graph.name} lacks"
                    f"{did_you_mean(name.lstrip('%'), by_name)}",
                    remedy="pass the kernels of this very graph",
                )
            if found.setdefault(op, number) != number:
                raise PredictError(f"kernels {found[op]} and {number} both name %{name.lstrip('%')}")
    return found


def _group_region(region: Region, dims: Mapping[str, int], fused: bool, given: dict[Op, int] | None) -> Block:
    block = Block()
    owner: dict[Op, Kernel] = {}
    numbered: dict[int, Kernel] = {}
    for op in region:
        control = _control(op, dims, fused, given)
        if control is not None:
            block.items.append(control)
            continue
        kind = kind_of(op, fused=fused)
        if kind == "view":
            continue
        host: Kernel | None
        if given is not None:
            host = numbered.get(given[op]) if op in given else None
        else:
            host = _host(op, kind, owner) if fused else None
        if host is None:
            host = Kernel([op], kind)
            block.items.append(host)
        else:
            host.ops.append(op)
            if host.kind == "injective" or kind in ("contraction", "opaque"):
                host.kind = kind
        owner[op] = host
        if given is not None and op in given:
            numbered[given[op]] = host
    return block


def _host(op: Op, kind: Kind, owner: Mapping[Op, Kernel]) -> Kernel | None:
    """The kernel that an op joins: that of the latest operand which only this op reads."""
    accepted = {"injective": ("injective", "contraction"), "reduction": ("injective",)}.get(kind, ())
    for value in reversed(op.operands):
        source = through_views(value)
        if source.producer is None or source.producer not in owner:
            continue
        host = owner[source.producer]
        if host.kind in accepted and host.ops[-1] is source.producer and _readers(source) == {op}:
            return host
    return None


def _control(
    op: Op, dims: Mapping[str, int], fused: bool, given: dict[Op, int] | None
) -> Loop | Branch | None:
    if isinstance(op, core.Cond):
        return Branch(
            op, _group_region(op.then, dims, fused, given), _group_region(op.otherwise, dims, fused, given)
        )
    if isinstance(op, core.While):
        body = _group_region(op.condition, dims, fused, given)
        body.items += _group_region(op.body, dims, fused, given).items
        return Loop(op, body, 1, exact=False)
    if isinstance(op, core.Scan):
        return Loop(op, _group_region(op.body, dims, fused, given), _trips(op, dims))
    return None


def _trips(op: core.Scan, dims: Mapping[str, int]) -> int:
    if op.length is not None:
        return evaluate(op.length, dims)
    return evaluate(op.inputs[0].shaped.shape[0], dims)
