"""Which ops share a kernel.

A group has one sink, whose results are all that leaves it.  An op joins the groups
of its operands when those values have no other reader; such a merge cannot close a
cycle, since no path leads out of a group but through its sink.

    conv -> add -> relu          one group: a contraction and its elementwise epilogue
    exp -> transpose -> neg      one group: each element is computed on demand
    conv -> reshape -> softmax   two groups and a view, which costs no kernel
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from plait.backends.tvm.emit import EMISSIONS, Kind
from plait.backends.tvm.layouts import Layouts, is_view
from plait.ir import CompileError, Graph, Op, Region, Value
from plait.ir.errors import nearest

_ON_DEMAND = (Kind.ELEMENTWISE, Kind.INJECTIVE)
_WITHOUT_KERNEL = (Kind.VIEW, Kind.CONTROL, Kind.HOST)


@dataclass(eq=False)
class Group:
    """Ops of one kernel (or, for an op that needs several, of those), in execution order.

    Attributes:
        ops: the ops; ops that create values out of nothing may be in several groups.
        anchor: the op that is no element-by-element map, or None.
    """

    ops: list[Op]
    anchor: Op | None = None

    @property
    def sink(self) -> Op:
        return self.ops[-1]


@dataclass
class Partition:
    """A region cut into groups and ops without a kernel, in execution order.

    `views` are ops that only give the same bytes another shape.  Further ops
    without a kernel are control flow and functions of the host.
    """

    steps: list[Group | Op] = field(default_factory=list)
    layouts: Layouts = field(default_factory=dict)

    @property
    def groups(self) -> list[Group]:
        return [step for step in self.steps if isinstance(step, Group)]

    @property
    def views(self) -> list[Op]:
        return [s for s in self.steps if isinstance(s, Op) and is_view(s, self.layouts)]


def check_supported(graph: Graph) -> None:
    """Raise one CompileError that lists every op without an emission, with place and nearest op."""
    missing: dict[str, list[Op]] = {}
    for op in graph.walk():
        if type(op) not in EMISSIONS:
            missing.setdefault(op.opname, []).append(op)
    if not missing:
        return
    known = [cls.opname for cls in EMISSIONS]
    lines = []
    for name, ops in missing.items():
        places = "; ".join(f"%{op.name} at {op.loc.readable()}" for op in ops[:3])
        more = f" and {len(ops) - 3} more" if len(ops) > 3 else ""
        similar = nearest(name, known)
        hint = f" (the nearest op that can be compiled is {similar[0]})" if similar else ""
        lines.append(f"{name} x{len(ops)}: {places}{more}{hint}")
    raise CompileError(
        f"{len(missing)} kinds of ops cannot be compiled: {', '.join(missing)}",
        where=f"graph @{graph.name}",
        why="\n       ".join(lines),
        remedy="rewrite them with a pass, or enter an emission with plait.backends.tvm.emit.emit",
    )


def partition(graph: Graph, layouts: Layouts | None = None) -> Partition:
    """Cut a graph into groups.

    Args:
        layouts: in which order values lie in memory; by default all in the logical one.

    Raises:
        CompileError: an op, in a region or not, has no emission.
    """
    check_supported(graph)
    return partition_region(graph.body, layouts or {})


def partition_region(region: Region, layouts: Layouts) -> Partition:
    """Cut the ops of a region into groups; those of regions inside are left to partitions of their own."""
    kept = set(region.results)
    group_of: dict[Op, Group] = {}
    order: list[Group | Op] = []
    for op in region:
        kind = EMISSIONS[type(op)].kind
        if kind in _WITHOUT_KERNEL or is_view(op, layouts):
            order.append(op)
            continue
        if kind is Kind.CREATION:
            # A value that other groups read in passing needs no kernel of its own.
            if any(v in kept for v in op.results) or _needs_kernel(op, layouts):
                order.append(Group([op]))
            continue
        group = Group([op], None if kind in _ON_DEMAND else op)
        for operand in dict.fromkeys(op.operands):
            other = group_of.get(operand.producer) if operand.producer is not None else None
            if other is None or other is group or operand in kept or not _only_reader(operand, op):
                continue
            if other.sink is operand.producer and _may_merge(other, group, op, kind):
                group.ops = [*other.ops, *group.ops]
                group.anchor = group.anchor or other.anchor
                order.remove(other)
                for inner in other.ops:
                    group_of[inner] = group
        group_of[op] = group
        order.append(group)
    for step in order:
        if isinstance(step, Group):
            _add_creations(step)
    return Partition(order, layouts)


def _only_reader(value: Value, op: Op) -> bool:
    return value.users == (op,) and len(value.producer.results) == 1 if value.producer else False


def _needs_kernel(op: Op, layouts: Layouts) -> bool:
    """Whether a reader of values out of nothing wants them as arrays; a region that yields them does."""
    for value in op.results:
        for user in value.users:
            if isinstance(user, Region) or EMISSIONS[type(user)].kind in (*_WITHOUT_KERNEL, Kind.ALONE):
                return True
            if is_view(user, layouts):
                return True
    return False


def _may_merge(producer: Group, consumer: Group, op: Op, kind: Kind) -> bool:
    """Whether `op`, the sink of `consumer` so far, can compute its operand `producer` itself."""
    if producer.anchor is None:
        # Computed on demand: once for a map or a reduction, many times for a product.
        return kind in _ON_DEMAND or kind is Kind.REDUCTION
    if EMISSIONS[type(producer.anchor)].kind is Kind.ALONE or kind is not Kind.ELEMENTWISE:
        return False
    if consumer.anchor is not None:
        return False
    return op.results[0].shaped.shape == producer.sink.results[0].shaped.shape


def _add_creations(group: Group) -> None:
    """Compute operands that come out of nothing inside the group that reads them."""
    if EMISSIONS[type(group.sink)].kind is Kind.ALONE:
        return
    inside = set(group.ops)
    found: dict[Op, None] = {}
    for op in group.ops:
        for operand in op.operands:
            made = operand.producer
            if made is not None and made not in inside and EMISSIONS[type(made)].kind is Kind.CREATION:
                found[made] = None
    group.ops = [*found, *group.ops]


def reads(ops: Iterable[Op]) -> list[Value]:
    """Values that some ops read from outside, each once."""
    found: dict[Value, None] = {}
    inside = {value for op in ops for value in op.results}
    for op in ops:
        found.update(dict.fromkeys(v for v in op.operands if v not in inside))
    return list(found)
