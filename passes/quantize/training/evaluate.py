"""Running one graph many times: the reference semantics, planned once, with semantics replaced op by op.

`plait.ir.interpret` checks every result against its inferred type and plans anew in each call.  A
training loop calls one graph thousands of times; here the order, the reads and the last reads are
worked out at the start, and only inputs are checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from plait.ir import Graph, GraphType, InputError, Op, Region, ShapedType, Value
from plait.ir.dims import IntLike, evaluate
from plait.ir.errors import did_you_mean
from plait.ir.reference import REFERENCES, carrier
from plait.ir.reference.table import Context, Reference
from plait.ir.reference.tensors import EdgeList, from_numpy, torch_dtype
from plait.ir.signature import SizeFact, graph_facts, shape_facts, solve_dims

#: Element types on which torch computes, so that no carrier is needed.
_PLAIN = frozenset({"f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool", "c64"})

Slot = Value | None | tuple[Value, ...]


class _Step(NamedTuple):
    op: Op
    function: Reference
    reads: tuple[Slot, ...]
    released: tuple[Value, ...]


class Evaluator:
    """A graph as a function of its inputs and constants.  Gradients flow as in `interpret`.

    Args:
        graph: must not change afterwards.
        overrides: other semantics for some of its ops, in the form of references.

    Raises InputError for an op that has no reference semantics.
    """

    def __init__(self, graph: Graph, overrides: Mapping[Op, Reference] | None = None) -> None:
        self.graph = graph
        self._overrides = dict(overrides or {})
        self._plans: dict[Region, tuple[_Step, ...]] = {}
        self._dims: dict[tuple[Any, ...], dict[str, int]] = {}
        self._fixed: dict[Value, Any] = {
            c: from_numpy(c.data) for c in graph.constants.values() if c.has_data
        }
        for op in graph.walk():
            if op.parent is not None and op.parent not in self._plans:
                self._plans[op.parent] = self._plan(op.parent)

    def __call__(
        self, inputs: Sequence[Any], constants: Mapping[str, torch.Tensor] | None = None
    ) -> tuple[Any, ...]:
        """The outputs.

        Args:
            inputs: torch tensors of the declared element types; a graph is an `EdgeList` or (src, dst).
            constants: tensors in place of constants, by name.

        Raises InputError where the inputs do not fit the graph.
        """
        arguments, dims = self._accept(inputs)
        live = dict(self._fixed)
        for name, tensor in (constants or {}).items():
            live[self.graph.constants[name]] = tensor
        execution = _Execution(self, live, dims, _device_of(arguments))
        return execution.run(self.graph.body, arguments)

    def _plan(self, region: Region) -> tuple[_Step, ...]:
        needed: set[Value] = set(region.results)
        steps = []
        for op in reversed(region):
            reads: list[Slot] = []
            for spec in op.schema.operands:
                given = getattr(op, spec.name)
                reads.append(tuple(given) if spec.role == "variadic" else given)
            seen = (*op.results, *op.operands, *(v for inner in op.regions for v in inner.captured()))
            released = tuple(v for v in dict.fromkeys(seen) if v not in needed and _is_of(v, region))
            needed.update(seen)
            steps.append(_Step(op, self._semantics(op), tuple(reads), released))
        return tuple(reversed(steps))

    def _semantics(self, op: Op) -> Reference:
        override = self._overrides.get(op)
        if override is not None:
            return override
        function = REFERENCES.get(type(op))
        if function is None:
            raise InputError(f"op {op.opname} has no reference semantics", where=op.loc.readable())
        kinds = [value.type for value in (*op.operands, *op.results)]
        if all(kind.dtype.name in _PLAIN for kind in kinds if isinstance(kind, ShapedType)):
            return function

        def carried(op: Op, args: Any, ctx: Context) -> Any:
            return carrier.run(op, function, args, ctx)

        return carried

    def _accept(self, inputs: Sequence[Any]) -> tuple[list[Any], dict[str, int]]:
        wanted = self.graph.inputs
        if len(inputs) != len(wanted):
            raise InputError(
                f"{len(inputs)} inputs were given",
                where=f"graph @{self.graph.name}",
                why=f"it takes {len(wanted)}: {', '.join(f'{v.name}: {v.type}' for v in wanted)}",
                remedy="pass one tensor for each, in this order or by name",
            )
        arguments = [_argument(value, given) for value, given in zip(wanted, inputs, strict=True)]
        sizes = tuple(
            a.src.shape if isinstance(a, EdgeList) else tuple(a.shape) for a in arguments
        )  # fmt: skip
        dims = self._dims.get(sizes)
        if dims is None:
            facts: list[SizeFact] = []
            for value, argument in zip(wanted, arguments, strict=True):
                if isinstance(argument, EdgeList):
                    facts += graph_facts(value.name, value.graph_type, argument.src.shape[0], {})
                else:
                    facts += shape_facts(value.name, value.shaped, tuple(argument.shape))
            dims = self._dims[sizes] = solve_dims(self.graph, facts)
        return arguments, dict(dims)

    def steps(self, region: Region) -> tuple[_Step, ...]:
        """The planned ops of a region."""
        return self._plans.get(region, ())


class _Execution:
    """One run: what references ask for (`plait.ir.reference.table.Context`), and the live tensors."""

    def __init__(
        self, evaluator: Evaluator, live: dict[Value, Any], dims: dict[str, int], device: torch.device
    ) -> None:
        self.device = device
        self._evaluator = evaluator
        self._live = live
        self._dims = dims

    def size(self, dim: IntLike) -> int:
        return evaluate(dim, self._dims)

    def shape(self, kind: ShapedType) -> tuple[int, ...]:
        return tuple(evaluate(dim, self._dims) for dim in kind.shape)

    def parameter(self, name: str) -> torch.Tensor:
        return self._live[self._evaluator.graph.constants[name]]

    def bind(self, op: Op, size: int) -> None:
        assert op.bound_dim is not None  # only such ops call it
        self._dims[op.bound_dim] = size

    def run(self, region: Region, args: Sequence[Any]) -> tuple[Any, ...]:
        live = self._live
        live.update(zip(region.params, args, strict=True))
        for op, function, reads, released in self._evaluator.steps(region):
            found = function(
                op,
                tuple(
                    tuple(live[v] for v in slot)
                    if isinstance(slot, tuple)
                    else None
                    if slot is None
                    else live[slot]
                    for slot in reads
                ),
                self,
            )
            if isinstance(found, tuple):
                live.update(zip(op.results, found, strict=True))
            else:
                live[op.results[0]] = found
            for value in released:
                del live[value]
        return tuple(live[value] for value in region.results)


def _is_of(value: Value, region: Region) -> bool:
    """Whether a value is defined in a region itself, so that it can be let go there."""
    return value.producer.parent is region if value.producer is not None else value.region is region


def _argument(value: Value, given: Any) -> Any:
    """An input as the references take it.  Raises InputError for another type than declared."""
    if isinstance(value.type, GraphType):
        if isinstance(given, EdgeList):
            return given
        if isinstance(given, (tuple, list)) and len(given) == 2:
            return EdgeList(*given)
        raise InputError(
            f"a {type(given).__name__} was given", where=f"input {value.name}", why=f"{value.type}"
        )
    if not isinstance(given, torch.Tensor) or given.dtype != torch_dtype(value.shaped):
        held = f"a {given.dtype} tensor" if isinstance(given, torch.Tensor) else f"a {type(given).__name__}"
        raise InputError(
            f"{held} was given",
            where=f"input {value.name}",
            why=f"its type is {value.type}",
            remedy=f"pass a torch tensor of {torch_dtype(value.shaped)}",
        )
    return given


def _device_of(arguments: Sequence[Any]) -> torch.device:
    for argument in arguments:
        return argument.src.device if isinstance(argument, EdgeList) else argument.device
    return torch.device("cpu")


def by_name(graph: Graph, positional: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
    """Inputs in the order of the graph's, the first ones by position.  Raises InputError for a wrong name."""
    order = [value.name for value in graph.inputs]
    given = dict(zip(order, positional))
    for name, tensor in named.items():
        if name not in order or name in given:
            problem = "given twice" if name in given else f"unknown{did_you_mean(name, order)}"
            raise InputError(
                f"input {name} is {problem}", where=f"graph @{graph.name}", why=f"it takes {order}"
            )
        given[name] = tensor
    missing = [name for name in order if name not in given]
    if missing or len(positional) > len(order):
        raise InputError(
            f"input {missing[0]} is missing" if missing else f"{len(positional)} inputs were given",
            where=f"graph @{graph.name}",
            why=f"it takes {', '.join(order) or 'none'}",
        )
    return [given[name] for name in order]
