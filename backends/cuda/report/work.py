"""What the ops of a kernel ask for: MACs, FLOPs and bytes at given dims, and how often they run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plait.backends.cuda.report.peaks import DevicePeaks
from plait.backends.kernels import Kernel
from plait.ir.cost import op_cost
from plait.ir.dims import evaluate
from plait.ir.graph import Graph
from plait.ir.op import Op
from plait.ir.ops import core
from plait.ir.types import GraphType, QuantType, ShapedType
from plait.ir.value import Value

_MODES = {"f64": "fp64", "c64": "fp64", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}


@dataclass(frozen=True)
class Work:
    """What one launch of a kernel, or of several kernels that share a group of ops, must do.

    Attributes:
        macs: multiply-accumulates.
        flops: operations on elements, two for each MAC among them.
        bytes: of operands from outside and results that leave, each value once.
        mode: arithmetic of the MACs, or of all operations where there are none: "fp32", "fp16", "int8" ...
        divisible: whether the depth and the columns of every product divide by 8; None without products.
        exact: False where a cost is an estimate or a trip count unknown.
    """

    macs: float
    flops: float
    bytes: float
    mode: str
    divisible: bool | None
    exact: bool

    def roofline_us(self, peaks: DevicePeaks, mode: str) -> float:
        """The least time on a device: MACs in a mode and the other operations in f32, against the bytes."""
        plain = "fp64" if self.mode == "fp64" else "fp32"
        compute = 2 * self.macs / peaks.peak(mode) + max(0.0, self.flops - 2 * self.macs) / peaks.peak(plain)
        return max(compute, self.bytes / (peaks.dram_gb_s * 1e3))


@dataclass(frozen=True)
class Sites:
    """The ops of a kernel at each of its call sites, and how often a run of the model launches it."""

    ops: tuple[tuple[Op, ...], ...]
    runs: int
    exact: bool


def call_sites(graph: Graph, kernel: Kernel, dims: Mapping[str, int]) -> Sites:
    """The call sites of a kernel of a compiled graph."""
    by_name = {op.name: op for op in graph.walk()}
    ops = [by_name[name] for name in kernel.ops if name in by_name]
    # Ops that create values out of nothing may be in several sites; the others are in one each.
    computing = [op for op in ops if op.operands] or ops
    size, rest = divmod(len(computing), kernel.calls)
    if rest or not size:
        return Sites((tuple(computing),), kernel.calls, False)
    sites = tuple(tuple(computing[start : start + size]) for start in range(0, len(computing), size))
    trips = [_trips(site[0], dims) for site in sites]
    return Sites(sites, sum(count for count, _ in trips), all(exact for _, exact in trips))


def _trips(op: Op, dims: Mapping[str, int]) -> tuple[int, bool]:
    """How often the region that holds an op runs, and whether that is known."""
    count, exact = 1, True
    region = op.parent
    while region is not None and region.owner is not None:
        owner = region.owner
        if isinstance(owner, core.Scan):
            length = owner.length if owner.length is not None else owner.inputs[0].shaped.shape[0]
            count *= evaluate(length, dims)
        else:
            exact = False
        region = owner.parent
    return count, exact


def site_work(sites: Sites, dims: Mapping[str, int]) -> Work:
    """What one call does; the sites of a kernel do the same, so the first stands for all."""
    ops = sites.ops[0]
    inside = {value for op in ops for value in op.results}
    macs = flops = moved = 0.0
    exact = sites.exact
    for op in ops:
        cost = op_cost(op, dims)
        exact = exact and cost.exact
        macs += float(cost.macs or 0)
        flops += float(cost.flops or 0)
        read = cost.bytes_read
        if read is None:
            read = sum(bytes_of(value, dims) for value in dict.fromkeys(op.operands))
        internal = sum(bytes_of(v, dims) for v in dict.fromkeys(op.operands) if v in inside or _is_made(v))
        moved += max(0.0, float(read) - internal)
    moved += sum(bytes_of(value, dims) for value in _leaving(ops))
    products = [dims_of for op in ops if (dims_of := product_dims(op, dims)) is not None]
    divisible = all(size % 8 == 0 for pair in products for size in pair) if products else None
    return Work(macs, flops, moved, _mode(ops, dims), divisible, exact)


def _is_made(value: Value) -> bool:
    """Whether a value is created out of nothing, inside the kernels that read it."""
    return value.producer is not None and not value.producer.operands


def _leaving(ops: Sequence[Op]) -> list[Value]:
    """Results that something outside reads: those of the last op."""
    return list(ops[-1].results) if ops else []


def bytes_of(value: Value, dims: Mapping[str, int]) -> int:
    """Storage of a value."""
    found = value.type
    return found.bytes_at(dims) if isinstance(found, (ShapedType, GraphType)) else 0


def product_dims(op: Op, dims: Mapping[str, int]) -> tuple[int, int] | None:
    """Depth and columns of the matrix product that an op is; None for another op."""
    weight = getattr(op, "w", None)
    if isinstance(weight, Value) and op.opname.startswith("nn."):
        shape = [evaluate(dim, dims) for dim in weight.shaped.shape]
        return math.prod(shape[1:]), shape[0] // int(getattr(op, "groups", 1))
    if op.opname == "linalg.matmul":
        left, right = op.operands[:2]
        return evaluate(left.shaped.shape[-1], dims), evaluate(right.shaped.shape[-1], dims)
    return None


def _mode(ops: Sequence[Op], dims: Mapping[str, int]) -> str:
    """The arithmetic mode of the op with most MACs, or of the last op."""
    chief = max(ops, key=lambda op: float(op_cost(op, dims).macs or 0)) if ops else None
    if chief is None or not op_cost(chief, dims).macs:
        chief = ops[-1] if ops else None
    found = next((v.type for v in chief.operands if isinstance(v.type, ShapedType)), None) if chief else None
    if isinstance(found, QuantType):
        return "int8"
    return _MODES.get(found.dtype.name, "fp32") if found is not None else "fp32"
