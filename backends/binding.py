"""Arguments of a call: matched to inputs by place or name, checked, and handed over without a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plait.ir import Graph, GraphType, InputError, ShapedType, Value
from plait.ir.errors import did_you_mean
from plait.ir.signature import SizeFact, shape_facts, solve_dims

#: TVM's code reads with vectors, which want this alignment in bytes.
_ALIGNMENT = 64


@dataclass(frozen=True)
class Bound:
    """Checked arguments: arrays in the order of the compiled function, and the values of the dims."""

    arrays: list[Any]
    dims: dict[str, int]
    torch_results: bool


def bind_arguments(graph: Graph, args: Sequence[Any], named: Mapping[str, Any]) -> Bound:
    """Match, check and convert the arguments of a call.

    Raises:
        InputError: an argument is missing, unknown or given twice, or has a wrong
            kind, element type or shape.  Nothing has run by then.
    """
    given = _by_name(graph, args, named)
    arrays: list[Any] = []
    facts: list[SizeFact] = []
    uses_torch = False
    for value in graph.inputs:
        argument = given[value.name]
        uses_torch = uses_torch or any(_is_torch(part) for part in _parts(argument))
        if isinstance(value.type, GraphType):
            found, sizes = _bind_graph(value, argument)
        else:
            found, sizes = _bind_tensor(value, argument)
        arrays += found
        facts += sizes
    dims = solve_dims(graph, facts)
    for name, allowed in graph.dims.items():
        if name not in dims and allowed.low != allowed.high and _computes_with(graph, name):
            raise InputError(
                f"no input shows the value of dim {name}",
                where=f"call of @{graph.name}",
                why=f"it takes {signature(graph)}",
                remedy=f"compile with dims={{'{name}': ...}}",
            )
        dims.setdefault(name, allowed.low)
    return Bound(arrays, dims, uses_torch)


def _computes_with(graph: Graph, name: str) -> bool:
    """Whether the type of any value has the dim."""
    return any(name in value.type.symbols for value in graph.values())


def signature(graph: Graph) -> str:
    """`image: f32[B,3,224,224], mask: bool[B]`."""
    return ", ".join(f"{value.name}: {value.type}" for value in graph.inputs)


def _by_name(graph: Graph, args: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    names = [value.name for value in graph.inputs]
    wanted = f"it takes {len(names)} input{'s' * (len(names) != 1)}: {signature(graph)}"
    where = f"call of @{graph.name}"
    if len(args) > len(names):
        raise InputError(
            f"{len(args)} inputs were given", where=where, why=wanted, remedy="leave out the rest"
        )
    given = dict(zip(names, args))
    for name, argument in named.items():
        if name not in names:
            raise InputError(
                f"there is no input '{name}'{did_you_mean(name, names)}", where=where, why=wanted
            )
        if name in given:
            raise InputError(f"input '{name}' was given twice", where=where, why="by place and by name")
        given[name] = argument
    missing = [name for name in names if name not in given]
    if missing:
        listed = ", ".join(f"'{name}'" for name in missing)
        raise InputError(
            f"input{'s' * (len(missing) > 1)} {listed} missing",
            where=where,
            why=wanted,
            remedy="pass them by place or name",
        )
    return given


def _is_torch(argument: Any) -> bool:
    return type(argument).__module__.partition(".")[0] == "torch"


def _parts(argument: Any) -> Sequence[Any]:
    if hasattr(argument, "src") and hasattr(argument, "dst"):
        return (argument.src, argument.dst)
    return argument if isinstance(argument, (tuple, list)) else (argument,)


def _described(argument: Any) -> str:
    if hasattr(argument, "dtype") and hasattr(argument, "shape"):
        return f"{str(argument.dtype).removeprefix('torch.')}{list(argument.shape)}"
    return f"a {type(argument).__name__}"


def _bind_tensor(value: Value, argument: Any) -> tuple[list[Any], list[SizeFact]]:
    kind = value.type
    assert isinstance(kind, ShapedType)
    _check_array(value, argument, kind.dtype.numpy)
    return [to_tensor(argument)], shape_facts(value.name, kind, tuple(map(int, argument.shape)))


def _check_array(value: Value, argument: Any, expected: np.dtype) -> None:
    """Raise InputError unless `argument` is an array or a torch tensor on the host, of an element type."""
    where = f"input {value.name}"
    if not isinstance(argument, np.ndarray) and not _is_torch(argument):
        raise InputError(
            f"{_described(argument)} was given",
            where=where,
            why=f"its type is {value.type}, so a numpy array or torch tensor is wanted",
            remedy="wrap it with numpy.asarray or torch.as_tensor",
        )
    if _is_torch(argument) and argument.device.type != "cpu":
        raise InputError(
            f"the tensor is on {argument.device}",
            where=where,
            why="inputs are read from the host",
            remedy="call .cpu()",
        )
    actual = str(argument.dtype).removeprefix("torch.")
    if actual != expected.name:
        raise InputError(
            f"{_described(argument)} was given",
            where=where,
            why=f"its type is {value.type}, whose elements are {expected.name}",
            remedy=f"convert it to {expected.name}",
        )


def _bind_graph(value: Value, argument: Any) -> tuple[list[Any], list[SizeFact]]:
    """(src, dst), an object with these, or an edge index [2, E], in the arrays of the graph's format."""
    kind = value.graph_type
    where = f"input {value.name}"
    parts = [part.detach().cpu().numpy() if _is_torch(part) else part for part in _parts(argument)]
    if len(parts) == 1 and isinstance(parts[0], np.ndarray) and parts[0].ndim == 2 and len(parts[0]) == 2:
        parts = [parts[0][0], parts[0][1]]
    if (
        len(parts) != 2
        or any(not isinstance(p, np.ndarray) or p.ndim != 1 for p in parts)
        or len(parts[0]) != len(parts[1])
    ):
        raise InputError(
            f"{_described(argument)} was given",
            where=where,
            why=f"its type is {value.type}",
            remedy="pass (src, dst), two vectors of one length, or an edge index [2, E]",
        )
    for part in parts:
        _check_array(value, part, kind.index.numpy)
    src, dst = parts
    facts = [SizeFact(value.name, "the number of edges", kind.edges, len(src), value.type)]  # type: ignore[arg-type]
    if isinstance(kind.nodes, int):
        worst = max(int(src.max(initial=0)), int(dst.max(initial=0)))
        if worst >= kind.nodes or min(int(src.min(initial=0)), int(dst.min(initial=0))) < 0:
            raise InputError(
                f"an edge names node {worst}",
                where=where,
                why=f"its type {value.type} has {kind.nodes} nodes",
            )
    if kind.format == "coo":
        return [to_tensor(np.stack([src, dst]))], facts
    order = np.argsort(dst, kind="stable").astype(src.dtype)
    return [None, to_tensor(src[order]), to_tensor(order), dst], facts


def finish_rows(arrays: list[Any], graph: Graph, dims: Mapping[str, int]) -> list[Any]:
    """Row pointers of csr graphs, which need the number of nodes."""
    from plait.ir.dims import evaluate

    done: list[Any] = []
    stream = iter(arrays)
    for value in graph.inputs:
        kind = value.type
        if not isinstance(kind, GraphType) or kind.format == "coo":
            done.append(next(stream))
            continue
        _, sources, numbers, dst = (next(stream) for _ in range(4))
        counts = np.bincount(dst, minlength=evaluate(kind.nodes, dims))
        rows = np.concatenate([[0], np.cumsum(counts)]).astype(kind.index.numpy)
        done += [to_tensor(rows), sources, numbers]
    return done


def to_tensor(argument: Any) -> Any:
    """A TVM tensor over the same memory where that is dense and aligned, else over a copy."""
    import tvm

    if _is_torch(argument):
        tensor = argument.detach().contiguous()
        if tensor.data_ptr() % _ALIGNMENT == 0 or not tensor.numel():
            return tvm.runtime.from_dlpack(tensor)
        return tvm.runtime.from_dlpack(tensor.clone())
    array = np.ascontiguousarray(argument).reshape(argument.shape)
    usable = array.ctypes.data % _ALIGNMENT == 0 and array.flags.writeable and array.dtype.isbuiltin == 1
    return tvm.runtime.from_dlpack(array) if usable else tvm.runtime.tensor(array)


def from_tensor(result: Any, *, as_torch: bool) -> Any:
    """A result as a numpy array or torch tensor, over the same memory where its element type allows."""
    if as_torch:
        import torch

        return torch.from_dlpack(result)
    array = result.numpy() if str(result.dtype) == "bfloat16" else np.from_dlpack(result)
    return array
