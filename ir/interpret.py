"""The reference interpreter: runs a graph op by op on torch tensors.

It defines what every op means.  Gradients flow wherever torch has them, every
device works, and a tensor is dropped as soon as nothing will read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from plait.ir.dims import IntLike, evaluate
from plait.ir.errors import InputError, PlaitError, did_you_mean
from plait.ir.graph import Graph
from plait.ir.op import Op
from plait.ir.reference import REFERENCES, carrier
from plait.ir.reference.tensors import EdgeList, from_numpy, torch_dtype
from plait.ir.region import Region
from plait.ir.signature import SizeFact, edges_and_counts, graph_facts, shape_facts, solve_dims
from plait.ir.types import GraphType, ShapedType, SpikeType
from plait.ir.value import Constant, Value

Array = torch.Tensor | np.ndarray
#: A graph may also be an object with `edges()` and node counts, such as a DGLGraph.
Input = Array | EdgeList | tuple[Array, Array] | Any
Observer = Callable[[Value, Any], None]


def interpret(
    graph: Graph,
    inputs: Mapping[str, Input] | Sequence[Input],
    *,
    observe: Observer | None = None,
    device: torch.device | str | None = None,
    dims: Mapping[str, int] | None = None,
    constants: Mapping[str, torch.Tensor] | None = None,
) -> tuple[Any, ...]:
    """Run a graph and return its outputs.

    Args:
        inputs: by position or by name; torch tensors or numpy arrays of exactly the
            declared element type.  Quantised tensors are their stored integers
            (int8 or uint8), spikes are bool, a graph is an `EdgeList` or a pair
            (src, dst) of [E] index tensors.
        observe: called with each computed value and its tensor, inner regions included.
        device: where to run; by default where the first tensor input is, else the CPU.
        dims: values of dims that no input shape shows and no op binds.
        constants: tensors to use in place of constants, for instance trainable ones.

    Returns:
        One tensor for each output (an `EdgeList` for a graph).

    Raises:
        InputError: a missing or unknown input name, a wrong type or shape, or values
            that an op cannot work on; the message names the input or op.
    """
    named = _by_name(graph, inputs)
    place = torch.device(device) if device is not None else _device_of(named)
    run = _Run(graph, place, observe)
    facts: list[SizeFact] = []
    arguments = []
    for value in graph.inputs:
        argument, seen = _accept(value, named[value.name], place)
        arguments.append(argument)
        facts += seen
    run.dims = solve_dims(graph, facts, dims)
    for value, argument in zip(graph.inputs, arguments, strict=True):
        if isinstance(argument, EdgeList):
            for side, part in (("src", argument.src), ("dst", argument.dst)):
                _check_ends(value, part, evaluate(value.graph_type.ends(side), run.dims))
    for name, tensor in (constants or {}).items():
        run.replace_constant(name, tensor)
    return run.run(graph.body, arguments)


class _Run:
    """One execution: dim values, constants on the device, and live tensors."""

    def __init__(self, graph: Graph, device: torch.device, observe: Observer | None) -> None:
        self.graph = graph
        self.device = device
        self.dims: dict[str, int] = {}
        self._observe = observe
        self._constants: dict[Constant, torch.Tensor] = {}
        self._live: dict[Value, Any] = {}
        self._last_reads: dict[Region, dict[Op, list[Value]]] = {}

    # -- what references ask for (plait.ir.reference.table.Context) ----------------
    def size(self, dim: IntLike) -> int:
        return evaluate(dim, self.dims)

    def shape(self, kind: ShapedType) -> tuple[int, ...]:
        return tuple(evaluate(dim, self.dims) for dim in kind.shape)

    def parameter(self, name: str) -> torch.Tensor:
        constant = self.graph.constants.get(name)
        if constant is None:
            nearest = did_you_mean(name, self.graph.constants)
            raise InputError(
                f"a quantised type refers to @{name}, which is no constant{nearest}",
                where=f"graph @{self.graph.name}",
                remedy="verify the graph",
            )
        return self._constant(constant)

    def bind(self, op: Op, size: int) -> None:
        name = op.bound_dim
        assert name is not None
        allowed = self.graph.dims[name]
        if size < allowed.low or (allowed.high is not None and size > allowed.high):
            raise InputError(
                f"{op.opname} gives dim {name} the value {size}",
                where=op.loc.readable() if op.loc else f"%{op.name}",
                why=f"it is declared dim {name} {allowed}",
                remedy="declare the dim with a wider range, from 0 on",
            )
        self.dims[name] = size

    def run(self, region: Region, args: Sequence[Any]) -> tuple[Any, ...]:
        live = self._live
        live.update(zip(region.params, args, strict=True))
        last_reads = self._plan(region)
        for op in region:
            self._execute(op)
            for value in last_reads[op]:
                live.pop(value, None)
        results = tuple(self._read(value) for value in region.results)
        for value in region.results:
            if value.region is region or (value.producer is not None and value.producer.parent is region):
                live.pop(value, None)
        return results

    # -- execution -----------------------------------------------------------------
    def replace_constant(self, name: str, tensor: torch.Tensor) -> None:
        """Use `tensor` in place of a constant.  Raises InputError when it does not fit."""
        constant = self.graph.constants.get(name.lstrip("@"))
        if constant is None:
            raise InputError(f"no constant @{name}{did_you_mean(name, self.graph.constants)}")
        kind = constant.shaped
        if tuple(tensor.shape) != kind.shape or tensor.dtype != torch_dtype(kind):
            raise InputError(
                f"the replacement is {_described(tensor)}", where=str(constant), why=f"its type is {kind}"
            )
        self._constants[constant] = tensor.to(self.device)

    def _constant(self, constant: Constant) -> torch.Tensor:
        found = self._constants.get(constant)
        if found is None:
            found = self._constants[constant] = from_numpy(constant.data).to(self.device)
        return found

    def _read(self, value: Value) -> Any:
        return self._constant(value) if isinstance(value, Constant) else self._live[value]

    def _plan(self, region: Region) -> dict[Op, list[Value]]:
        """For each op, the values defined in the region that nothing reads after it."""
        plan = self._last_reads.get(region)
        if plan is None:
            plan = {}
            needed: set[Value] = set(region.results)
            for op in reversed(region):
                reads = (*op.results, *op.operands, *(v for inner in op.regions for v in inner.captured()))
                plan[op] = [v for v in dict.fromkeys(reads) if v not in needed and _defined_in(v, region)]
                needed.update(reads)
            self._last_reads[region] = plan
        return plan

    def _execute(self, op: Op) -> None:
        args: list[Any] = []
        for spec in op.schema.operands:
            given = getattr(op, spec.name)
            if spec.role == "variadic":
                args.append(tuple(self._read(value) for value in given))
            else:
                args.append(None if given is None else self._read(given))
        function = REFERENCES.get(type(op))
        if function is None:
            raise InputError(
                f"op {op.opname} has no reference semantics",
                where=op.loc.readable(),
                remedy="register one with plait.ir.reference.table.reference",
            )
        try:
            found = carrier.run(op, function, tuple(args), self)
        except PlaitError:
            raise
        except (RuntimeError, IndexError) as error:
            raise InputError(
                f"{op.opname} cannot compute {op.results[0]}",
                where=op.loc.readable(),
                why=str(error).partition("\n")[0],
                remedy=f"check the values of {', '.join(map(str, op.operands)) or 'its attributes'}",
            ) from error
        results = found if isinstance(found, tuple) else (found,)
        for value, result in zip(op.results, results, strict=True):
            self._check(op, value, result)
            self._live[value] = result
            if self._observe is not None:
                self._observe(value, result)

    def _check(self, op: Op, value: Value, result: Any) -> None:
        """Raise InputError unless a result has the inferred type under the dim values."""
        kind = value.type
        if not isinstance(kind, ShapedType):
            return
        if tuple(result.shape) != self.shape(kind) or result.dtype != torch_dtype(kind):
            raise InputError(
                f"{op.opname} gave {_described(result)} for {value}",
                where=op.loc.readable(),
                why=f"its type is {kind} with {self.dims or 'no dims'}",
                remedy="call with sizes that the dims of the graph allow",
            )


def _defined_in(value: Value, region: Region) -> bool:
    if value.producer is not None:
        return value.producer.parent is region
    return value.region is region


# -- inputs ----------------------------------------------------------------------
def _by_name(graph: Graph, inputs: Mapping[str, Input] | Sequence[Input]) -> dict[str, Input]:
    """Inputs by name.  Raises InputError when one is missing or unknown."""
    wanted = [value.name for value in graph.inputs]
    signature = ", ".join(f"{value.name}: {value.type}" for value in graph.inputs) or "nothing"
    if isinstance(inputs, Mapping):
        given = {name.lstrip("%"): value for name, value in inputs.items()}
        for name in given:
            if name not in wanted:
                raise InputError(
                    f"no input {name}{did_you_mean(name, wanted)}",
                    where=f"graph @{graph.name}",
                    why=f"it takes {signature}",
                )
        for name in wanted:
            if name not in given:
                raise InputError(
                    f"input {name} is missing",
                    where=f"graph @{graph.name}",
                    why=f"it takes {signature}",
                    remedy=f"pass {{'{name}': ...}}",
                )
        return given
    if isinstance(inputs, (torch.Tensor, np.ndarray)):
        raise InputError(
            "inputs are one tensor",
            where=f"graph @{graph.name}",
            why="a sequence or mapping is wanted",
            remedy="pass [tensor]",
        )
    if len(inputs) != len(wanted):
        raise InputError(
            f"{len(inputs)} inputs were given",
            where=f"graph @{graph.name}",
            why=f"it takes {len(wanted)}: {signature}",
            remedy="pass one tensor for each, in this order or by name",
        )
    return dict(zip(wanted, inputs, strict=True))


def _device_of(inputs: Mapping[str, Input]) -> torch.device:
    for given in inputs.values():
        for part in given if isinstance(given, tuple) else (given,):
            if isinstance(part, torch.Tensor):
                return part.device
            if isinstance(part, EdgeList):
                return part.src.device
    return torch.device("cpu")


def _accept(value: Value, given: Input, device: torch.device) -> tuple[Any, list[SizeFact]]:
    """An input as the interpreter holds it, and the sizes it shows.  Raises InputError."""
    if isinstance(value.type, GraphType):
        given, counts = edges_and_counts(given)
        edges = _edges(value, given).to(device)
        return edges, graph_facts(value.name, value.type, int(edges.src.shape[0]), counts)
    kind = value.shaped
    tensor = _tensor(value.name, given)
    if tensor.dtype != torch_dtype(kind):
        held = "; it is passed as its stored integers" if kind.dtype.bits != kind.element_bits else ""
        if isinstance(kind, SpikeType):
            held = "; spikes are passed as booleans"
        raise InputError(
            f"the tensor is {_described(tensor)}",
            where=f"input {value.name}",
            why=f"its type is {kind}, held as {_short(torch_dtype(kind))}{held}",
            remedy=f"convert it with .to({torch_dtype(kind)})",
        )
    return tensor.to(device), shape_facts(value.name, kind, tuple(tensor.shape))


def _tensor(name: str, given: object) -> torch.Tensor:
    if isinstance(given, torch.Tensor):
        return given
    if isinstance(given, np.ndarray):
        try:
            return from_numpy(given)
        except TypeError as error:
            raise InputError(
                f"numpy {given.dtype} has no torch type", where=f"input {name}", why=str(error)
            ) from None
    raise InputError(
        f"a {type(given).__name__} was given",
        where=f"input {name}",
        why="a torch tensor or numpy array is wanted",
        remedy="wrap it, for instance with torch.as_tensor",
    )


def _edges(value: Value, given: Input) -> EdgeList:
    where = f"input {value.name}"
    if isinstance(given, EdgeList):
        src, dst = given.src, given.dst
    elif isinstance(given, (tuple, list)) and len(given) == 2:
        src, dst = (_tensor(value.name, part) for part in given)
    else:
        raise InputError(
            f"a {type(given).__name__} was given",
            where=where,
            why=f"its type is {value.type}",
            remedy="pass (src, dst), or a graph object with edges() and node counts",
        )
    wanted = torch_dtype(value.graph_type.index)
    for part in (src, dst):
        if part.dim() != 1 or part.shape != src.shape or part.dtype != wanted:
            raise InputError(
                f"an edge list is {_described(part)}",
                where=where,
                why=f"its type is {value.type}: src and dst are {_short(wanted)} vectors of one length",
            )
    return EdgeList(src, dst)


def _check_ends(value: Value, part: torch.Tensor, nodes: int) -> None:
    """Raise InputError when an edge starts or ends outside the nodes."""
    if part.numel() and not 0 <= int(part.min()) <= int(part.max()) < nodes:
        raise InputError(
            f"an edge names node {int(part.max() if part.max() >= nodes else part.min())}",
            where=f"input {value.name}",
            why=f"the graph {value.type} has nodes 0..{nodes - 1}",
        )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _described(tensor: torch.Tensor) -> str:
    return f"{_short(tensor.dtype)}{list(tensor.shape)}"
