"""In which order the axes of each value lie in memory.

The IR has one order, the logical one; channels come second.  On a CPU, vectors run along
channels, so that images are kept with their channels last, and a transposition is a mere
view wherever the order of its operand can be chosen to make it one.

A layout is a tuple: axis j in memory is axis layout[j] of the value.  Values without an
entry lie in logical order: inputs and outputs of regions, and whatever control flow, host
functions or kernels with loops of their own read.
"""

from __future__ import annotations

from collections.abc import Mapping

from plait.backends.targets import CpuTarget, Target
from plait.backends.tvm.emit import EMISSIONS, Kind
from plait.ir import Constant, Graph, IntLike, Op, Region, ShapedType, Value
from plait.ir.ops import core, linalg, nn, spike

Layout = tuple[int, ...]
Layouts = Mapping[Value, Layout]

_ANY_ORDER = (Kind.ELEMENTWISE, Kind.INJECTIVE, Kind.REDUCTION, Kind.CONTRACTION)
_IMAGES = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
)
#: Ops with a kernel of their own that reads and writes channels last.
_EVENTS = (spike.FirstSpikeConv2d, spike.FirstSpikePool2d, spike.RankOrderCode, spike.SpikeConv2d)
#: Ops of spikes that go element by element, in whatever order.
_ELEMENTWISE = (spike.Threshold,)
#: Ops whose kernels read images in either order.
_READ_EVENTS = (*_EVENTS, spike.Winners, spike.Stdp)
#: Ops whose kernels gather their operands element by element, in whatever order these lie.
_GATHERS = (linalg.Matmul, nn.Attention, nn.Linear)


def assign_layouts(graph: Graph, target: Target) -> dict[Value, Layout]:
    """The layouts of a graph's values; none on a GPU, whose schedules want the logical order."""
    if not isinstance(target, CpuTarget) or not target.layouts:
        return {}
    found: dict[Value, Layout] = {}
    pending = [graph.body]
    while pending:
        region = pending.pop()
        found.update(_Assignment(region).layouts)
        pending += [inner for op in region for inner in op.regions]
    return found


def physical(layout: Layout | None, shape: tuple[IntLike, ...]) -> tuple[IntLike, ...]:
    """Dims in the order of memory."""
    return shape if layout is None else tuple(shape[axis] for axis in layout)


def is_view(op: Op, layouts: Layouts) -> bool:
    """Whether an op only gives the same bytes another shape."""
    if EMISSIONS[type(op)].kind is Kind.VIEW:
        return True
    if not isinstance(op, core.Transpose) or isinstance(op.x, Constant):
        return False
    seen = _seen_through(op, _layout_of(op.x, layouts))
    return seen == _layout_of(op.result, layouts)


def _layout_of(value: Value, layouts: Layouts) -> Layout:
    return layouts.get(value) or tuple(range(value.shaped.rank))


def _seen_through(op: core.Transpose, layout: Layout) -> Layout:
    """The layout of a transposition's result over the bytes of its operand."""
    return tuple(op.permutation.index(axis) for axis in layout)


class _Assignment:
    """Layouts of the values that one region computes."""

    def __init__(self, region: Region) -> None:
        self.layouts: dict[Value, Layout] = {}
        self._kept = set(region.results)
        ops = list(region)
        for op in ops:
            self._forward(op)
        for op in reversed(ops):
            if isinstance(op, core.Transpose):
                self._backward(op)

    def _forward(self, op: Op) -> None:
        """Keep images with channels last, and look at transposed values in the order they lie in."""
        if isinstance(op, spike.FirstSpikeConv2d):
            for result in op.results:
                self._set(result, (0, 2, 3, 1))
            return
        if len(op.results) != 1 or not isinstance(op.results[0].type, ShapedType):
            return
        result = op.results[0]
        rank = result.shaped.rank
        if rank < 3:
            return
        if isinstance(op, core.Transpose) and not isinstance(op.x, Constant):
            seen = _seen_through(op, _layout_of(op.x, self.layouts))
            if self._wanted(op, seen):
                self._set(result, seen)
        elif isinstance(op, core.Reshape):
            kept = _through_reshape(op, _layout_of(op.x, self.layouts))
            if kept is not None:
                self._set(result, kept)
        elif isinstance(op, _EVENTS) or (EMISSIONS[type(op)].kind in _ANY_ORDER and self._is_image(op)):
            self._set(result, (0, *range(2, rank), 1))

    def _wanted(self, op: core.Transpose, seen: Layout) -> bool:
        """Whether readers of a transposition do well on the bytes of its operand."""
        if seen[-1] == len(seen) - 1:
            return True
        channels_last = seen == (0, *range(2, len(seen)), 1)
        return channels_last or all(isinstance(user, _GATHERS) for user in op.result.users)

    def _is_image(self, op: Op) -> bool:
        if isinstance(op, _IMAGES):
            return True
        rank = op.results[0].shaped.rank
        last = (0, *range(2, rank), 1)
        if isinstance(op, core.Transpose):
            return False
        shaped = [v for v in op.operands if isinstance(v.type, ShapedType) and v.shaped.rank == rank]
        return any(self.layouts.get(value) == last for value in shaped)

    def _backward(self, op: core.Transpose) -> None:
        """Let the only producer of a transposed value store it in the order of the result."""
        source = op.x.producer
        if is_view(op, self.layouts) or source is None or op.x.users != (op,):
            return
        kind = EMISSIONS[type(source)].kind
        if kind not in (*_ANY_ORDER, Kind.ALONE) or len(source.results) != 1:
            return
        if kind is Kind.ALONE and not isinstance(source, nn.Attention):
            return
        if isinstance(source, core.Transpose):
            return
        layout = tuple(op.permutation[axis] for axis in _layout_of(op.result, self.layouts))
        self._set(op.x, layout)

    def _set(self, value: Value, layout: Layout) -> None:
        self.layouts.pop(value, None)
        if layout != tuple(range(value.shaped.rank)) and self._takes(value, layout):
            self.layouts[value] = layout

    def _takes(self, value: Value, layout: Layout) -> bool:
        """Whether a value may lie in an order."""
        if layout == tuple(range(value.shaped.rank)):
            return True
        return value not in self._kept and self._readable(value, layout)

    def _readable(self, value: Value, layout: Layout) -> bool:
        """Whether all readers of a value can read it in an order."""
        for user in value.users:
            if isinstance(user, Region):
                return False
            if isinstance(user, core.Reshape):
                kept = _through_reshape(user, layout)
                if kept is None or not self._takes(user.result, kept):
                    return False
                continue
            if isinstance(user, _READ_EVENTS):
                continue
            kind = EMISSIONS[type(user)].kind
            if kind not in _ANY_ORDER and not isinstance(user, nn.Attention):
                return False
            if user.opname.startswith(("message.", "spike.")) and not isinstance(user, _ELEMENTWISE):
                return False
        return True


def _through_reshape(op: core.Reshape, layout: Layout) -> Layout | None:
    """The layout of a reshape's result over the bytes of its operand; None where there is none.

    Axes that are merged or split must lie together and in order.
    """
    before, after = op.x.shaped.shape, op.result.shaped.shape
    parts = _matched(before, after)
    if parts is None:
        return None
    place = {axis: index for index, axis in enumerate(axis for axis in layout if before[axis] != 1)}
    order = []
    for old, new in parts:
        where = [place[axis] for axis in old]
        if where != list(range(where[0], where[0] + len(where))):
            return None
        order.append((where[0], new))
    found = [axis for _, new in sorted(order) for axis in new]
    units = [axis for axis, dim in enumerate(after) if dim == 1]
    return (*found, *units)


def _matched(
    before: tuple[IntLike, ...], after: tuple[IntLike, ...]
) -> list[tuple[list[int], list[int]]] | None:
    """Runs of axes, those of extent 1 left out, that hold equally many elements."""
    old = [axis for axis, dim in enumerate(before) if dim != 1]
    new = [axis for axis, dim in enumerate(after) if dim != 1]
    found: list[tuple[list[int], list[int]]] = []
    while old or new:
        if not old or not new:
            return None
        left, right = [old.pop(0)], [new.pop(0)]
        size_left, size_right = before[left[0]], after[right[0]]
        while size_left != size_right:
            if not isinstance(size_left, int) or not isinstance(size_right, int):
                return None
            if size_left < size_right:
                if not old or not isinstance(before[old[0]], int):
                    return None
                left.append(old.pop(0))
                size_left = size_left * before[left[-1]]
            else:
                if not new or not isinstance(after[new[0]], int):
                    return None
                right.append(new.pop(0))
                size_right = size_right * after[right[-1]]
        found.append((left, right))
    return found
