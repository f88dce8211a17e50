"""The emission table: how each op is computed, as tensor expressions.

An emission is a function of the op, its operands as tensors and an `Emitter`; it
returns the result tensors.  Its kind says how the op may share a kernel.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.targets import CpuTarget, Target
from plait.backends.tvm.shapes import components, to_expression
from plait.ir import Constant, IntLike, Op, Type, Value

if TYPE_CHECKING:
    from plait.backends.tuning import Choice


class Kind(enum.Enum):
    """How an op may share a kernel with its neighbours."""

    ELEMENTWISE = "each element of the result reads one element of every operand"
    INJECTIVE = "each element of the result reads a few elements, anywhere"
    REDUCTION = "a reduction that reads its operand once: may follow elementwise and be followed by it"
    CONTRACTION = "reads its operands many times: may be followed by elementwise ops"
    CREATION = "reads nothing: computed again wherever it is used"
    VIEW = "the same bytes under another shape: no kernel"
    ALONE = "one or several kernels of its own"
    CONTROL = "regions that become functions: no kernel of its own"
    HOST = "a function of the host that finds the size of its result: no kernel"


#: Attribute of a result whose axes are [n, pixels..., c] and stand for [n, c, pixels...].
CHANNELS_LAST = "plait.channels_last"

EmitFunction = Callable[[Any, "Arguments", "Emitter"], Any]
E = TypeVar("E", bound=EmitFunction)


@dataclass(frozen=True)
class Emission:
    """A row of the table."""

    kind: Kind
    function: EmitFunction


EMISSIONS: dict[type[Op], Emission] = {}


def emit(*classes: type[Op], kind: Kind) -> Callable[[E], E]:
    """Decorator that enters an emission for some op classes."""

    def enter(function: E) -> E:
        for cls in classes:
            if cls in EMISSIONS:
                raise TypeError(f"{cls.opname} has two emissions")
            EMISSIONS[cls] = Emission(kind, function)
        return function

    return enter


@dataclass(frozen=True)
class Packing:
    """A constant laid out anew before it is uploaded.

    `key` names the layout, so that two readers that want the same one share it; `dtype` is
    the element type where it is not the constant's own.
    """

    key: str
    apply: Callable[[np.ndarray], np.ndarray]
    dtype: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a placeholder gets its array: component `component` of a value, or a result of a stage."""

    value: Value | None = None
    component: int = 0
    packing: Packing | None = None
    stage: int = -1


@dataclass
class Stage:
    """One kernel of a group: outputs as tensor expressions over placeholders.

    Attributes:
        products: on a GPU, the matrix products among them that tensor cores can compute; on a CPU, the
            sums that loops of the kernel compute.
    """

    suffix: str
    inputs: list[te.Tensor]
    sources: list[Source]
    outputs: list[te.Tensor]
    scalars: list[tirx.Var]
    products: list[Any] = field(default_factory=list)


class Loops(Protocol):
    """A tensor that a kernel computes by loops of its own, together with a map over it.

    Attributes:
        sums: stands for the tensor in the expressions of the map.
        method: says in a few words how it is computed.
    """

    sums: te.Tensor

    @property
    def method(self) -> str: ...

    def write(self, read: Any, result: te.Tensor, axes: Sequence[int], buffer: Any) -> None:
        """Write the loops that compute `result` into a buffer."""


class Arguments:
    """The operands of an op as tensors, by field name; a graph is a tuple of tensors."""

    def __init__(self, op: Op, lookup: Callable[[Value], Any]) -> None:
        self._op = op
        self._lookup = lookup

    def __getattr__(self, name: str) -> Any:
        given = getattr(self._op, name)
        if given is None:
            return None
        return tuple(map(self._lookup, given)) if isinstance(given, tuple) else self._lookup(given)


@dataclass
class Emitter:
    """Collects the kernels of one group while the emissions of its ops run.

    Attributes:
        target: what the kernels are for.
        constants: constants of the graph by name, for the scales of quantised types.
        layouts: which axis of a value each axis in memory is, where that is not the logical order.
        choice: how products are computed where measurements have decided; None leaves it to estimates.
        products: sums that kernels compute by loops of their own (on a CPU) or that tensor cores can
            compute (on a GPU), by the operation that stands for them.
    """

    target: Target
    constants: dict[str, Constant]
    layouts: Mapping[Value, tuple[int, ...]] = field(default_factory=dict)
    choice: Choice | None = None
    variables: dict[str, tirx.Var] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)
    products: dict[Any, Any] = field(default_factory=dict)
    _read_dims: set[str] = field(default_factory=set)
    _sources: dict[Any, Source] = field(default_factory=dict)
    _orders: dict[Any, tuple[tuple[int, ...], te.Tensor]] = field(default_factory=dict)
    _views: dict[Any, tuple[tuple[int, ...], te.Tensor]] = field(default_factory=dict)
    _placeholders: dict[tuple[Any, ...], te.Tensor] = field(default_factory=dict)

    # -- shapes -------------------------------------------------------------------
    @property
    def is_cpu(self) -> bool:
        return isinstance(self.target, CpuTarget)

    @property
    def cpu(self) -> CpuTarget:
        """The target, which is a CPU."""
        assert isinstance(self.target, CpuTarget)
        return self.target

    def dim(self, dim: IntLike) -> Expr:
        """A dim as an expression over this group's variables."""
        if not isinstance(dim, int):
            for name in sorted(dim.symbols()):
                self.variables.setdefault(name, tirx.Var(name, "int64"))
        return to_expression(dim, self.variables)

    def shape(self, dims: Sequence[IntLike]) -> list[Expr]:
        """Dims as expressions."""
        return [self.dim(dim) for dim in dims]

    def dtype(self, type: Type) -> str:
        """TVM's name of the element type."""
        return components(type)[0][1]

    def axis(self, extent: IntLike | Expr, name: str) -> tirx.IterVar:
        """A reduction axis from 0 to `extent`."""
        size = extent if isinstance(extent, Expr) else self.dim(extent)
        return te.reduce_axis((tirx.IntImm("int64", 0), size), name=name)

    # -- inputs --------------------------------------------------------------------
    def placeholders(self, value: Value) -> Any:
        """The tensors of a value from outside the group: one, or a tuple for a graph."""
        if (layout := self.layouts.get(value)) is not None:
            stored, _ = self.stored(value)
            return self._ordered(stored, tuple(layout.index(axis) for axis in range(len(layout))))
        found = []
        for index, (shape, dtype) in enumerate(components(value.type)):
            found.append(self._placeholder(Source(value, index), self.shape(shape), dtype, value.name))
        return found[0] if len(found) == 1 else tuple(found)

    def stored(self, value: Value) -> tuple[te.Tensor, bool]:
        """The array of a tensor from outside the group as it lies in memory; whether channels are last."""
        ((shape, dtype),) = components(value.type)
        layout = self.layouts.get(value)
        if layout is not None:
            shape = tuple(shape[axis] for axis in layout)
        return self._placeholder(Source(value), self.shape(shape), dtype, value.name), layout is not None

    def packs(self, value: Value) -> bool:
        """Whether a weight can be laid out anew at compile time: a constant, read by this kernel only so."""
        return self.is_cpu and isinstance(value, Constant)

    def packed(self, value: Value, shape: Sequence[int], packing: Packing) -> te.Tensor:
        """A constant in another layout of `shape`."""
        exprs = self.shape(shape)
        dtype = packing.dtype or self.dtype(value.type)
        return self._placeholder(Source(value, 0, packing), exprs, dtype, value.name)

    def stand_in(self, value: Value, tensor: te.Tensor) -> None:
        """Let a value that is in no graph be read from a tensor of an earlier stage."""
        self._placeholders[value, 0, None] = tensor

    def parameter(self, number: float | int | str) -> float | int | te.Tensor:
        """A scale or zero point of a quantised type: a number, or the constant it refers to."""
        return self.placeholders(self.constants[number]) if isinstance(number, str) else number

    def _placeholder(self, source: Source, shape: list[Expr], dtype: str, name: str) -> te.Tensor:
        key = (source.value, source.component, source.packing and source.packing.key)
        if key not in self._placeholders:
            tensor = te.placeholder(shape, dtype, identifier(name))
            self._placeholders[key] = tensor
            self._sources[tensor.op] = source
        return self._placeholders[key]

    # -- kernels -------------------------------------------------------------------
    def stage(self, suffix: str, *outputs: te.Tensor) -> Any:
        """Close a kernel that computes `outputs`; the tensors that later kernels read in their place."""
        self.finish(suffix, outputs)
        found: list[te.Tensor] = []
        for tensor in outputs:
            cut = te.placeholder(tensor.shape, tensor.dtype, tensor.op.name)
            self._sources[cut.op] = Source(component=len(found), stage=len(self.stages) - 1)
            found.append(cut)
        return found[0] if len(found) == 1 else tuple(found)

    def _ordered(self, tensor: te.Tensor, order: tuple[int, ...]) -> te.Tensor:
        """A map whose axis j is axis order[j] of a tensor."""
        if tensor.op not in self._orders or self._orders[tensor.op][0] != order:
            found = te.compute(
                [tensor.shape[axis] for axis in order],
                lambda *i: tensor(*(i[order.index(axis)] for axis in range(len(i)))),
                name="view",
                attrs={CHANNELS_LAST: True} if order == (0, *range(2, len(order)), 1) else None,
            )
            self._orders[tensor.op] = (order, found)
        return self._orders[tensor.op][1]

    def view(self, tensor: te.Tensor, order: tuple[int, ...]) -> te.Tensor:
        """The map whose axis j is axis order[j] of a tensor; in that tensor's own order it costs nothing."""
        found = self._ordered(tensor, order)
        self._views[found.op] = (order, tensor)
        return found

    def _laid_out(self, tensor: te.Tensor, layout: tuple[int, ...]) -> te.Tensor:
        """A result with its axes in the order of memory."""
        order, stored = self._views.get(tensor.op, ((), tensor))
        if order and tuple(order[axis] for axis in layout) == tuple(range(len(layout))):
            return stored
        return self._ordered(tensor, layout)

    def close(self, outputs: Sequence[te.Tensor], values: Sequence[Value]) -> list[Source]:
        """Close the last kernel of the group, whose results are `values`; where each comes from."""
        outputs = [
            self._laid_out(tensor, self.layouts[value]) if value in self.layouts else tensor
            for tensor, value in zip(outputs, values, strict=True)
        ]
        computed = [tensor for tensor in outputs if tensor.op not in self._sources]
        if computed:
            self.finish("", computed)
        last = len(self.stages) - 1
        places = {tensor.op: Source(component=k, stage=last) for k, tensor in enumerate(computed)}
        return [self._sources.get(tensor.op) or places[tensor.op] for tensor in outputs]

    def finish(self, suffix: str, outputs: Sequence[te.Tensor]) -> None:
        """Close one kernel that computes `outputs`."""
        below = operations_below(outputs)
        inputs = [tensor for tensor in below if isinstance(tensor.op, te.PlaceholderOp)]
        products = [self.products[tensor.op] for tensor in below if tensor.op in self.products]
        bound = {dim.name for tensor in inputs for dim in tensor.shape if isinstance(dim, tirx.Var)}
        used: set[str] = set()
        for tensor in (*inputs, *outputs):
            for dim in tensor.shape:
                used.update(var.name for var in tirx.analysis.undefined_vars(dim))
        # A dim inside an expression only, or read by the body as a number, is handed in as a scalar.
        used.update(self._read_dims)
        scalars = [self.variables[name] for name in sorted(used - bound)]
        sources = [self._sources[tensor.op] for tensor in inputs]
        if self.is_cpu and products:
            outputs = self._written(products, inputs, outputs)
        self.stages.append(Stage(suffix, inputs, sources, list(outputs), scalars, products))

    def _written(
        self, products: list[Loops], inputs: list[te.Tensor], outputs: Sequence[te.Tensor]
    ) -> list[te.Tensor]:
        """An output that is a map over a product, as loops."""
        from plait.backends.tvm.emit.cpu.writer import loops_kernel

        (loops,), (result,) = products, outputs
        axes = self._axes(result, loops.sums)
        return [
            loops_kernel(
                inputs,
                result.shape,
                str(result.dtype),
                result.op.name,
                lambda read, buffer: loops.write(read, result, axes, buffer),
            )
        ]

    def _axes(self, result: te.Tensor, sums: te.Tensor) -> tuple[int, ...]:
        """For each axis of a result the axis of the sums that it runs along."""
        for order, found in self._orders.values():
            if found.same_as(result):
                return order
        return tuple(range(len(sums.shape)))

    def read_dim(self, dim: IntLike) -> Expr:
        """A dim whose value the kernel computes with, rather than only looping over it."""
        expression = self.dim(dim)
        if not isinstance(dim, int):
            self._read_dims.update(dim.symbols())
        return expression


def operations_below(outputs: Sequence[te.Tensor]) -> list[te.Tensor]:
    """Tensors that some depend on, those included, each once, in the order a depth-first walk meets them."""
    found: list[te.Tensor] = []
    seen: set[Any] = set()
    stack = list(reversed(outputs))
    while stack:
        tensor = stack.pop()
        if tensor.op in seen:
            continue
        seen.add(tensor.op)
        found.append(tensor)
        stack.extend(reversed(list(tensor.op.input_tensors)))
    return found


def identifier(name: str) -> str:
    """A value name as an identifier of C."""
    text = "".join(c if c.isalnum() else "_" for c in name)
    return text if text[:1].isalpha() or text[:1] == "_" else f"v{text}"


__all__ = [
    "CHANNELS_LAST",
    "EMISSIONS",
    "Arguments",
    "Emission",
    "Emitter",
    "Kind",
    "Packing",
    "Source",
    "Stage",
    "emit",
    "identifier",
    "operations_below",
]
