"""Arguments of a call: matched to inputs by place or name, checked, and handed over without a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from plait.ir import DType, Graph, GraphType, InputError, ShapedType, Value
from plait.ir.bind import bound_dims
from plait.ir.dims import evaluate, symbols_of
from plait.ir.errors import did_you_mean
from plait.ir.signature import SizeFact, edges_and_counts, graph_facts, shape_facts, solve_dims

#: Integers of numpy that are held in a byte each, and the type that holds them.
_BYTES = {
    np.dtype(ml_dtypes.int4): np.int8,
    np.dtype(ml_dtypes.int2): np.int8,
    np.dtype(ml_dtypes.uint4): np.uint8,
    np.dtype(ml_dtypes.uint2): np.uint8,
}
#: TVM's code reads with vectors, which want this alignment in bytes.
_ALIGNMENT = 64


@dataclass(frozen=True)
class Bound:
    """Checked arguments: arrays in the order of the compiled function, and the values of the dims.

    Dims that ops bind are left out.
    """

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
    for value in graph.inputs:
        if isinstance(value.type, GraphType):
            _check_ends(value, given[value.name], dims)
    unknown = [name for name in graph.dims if name not in dims]
    bound = bound_dims(graph) if unknown else {}
    for name in unknown:
        allowed = graph.dims[name]
        if name in bound:
            continue
        if allowed.low != allowed.high and _computes_with(graph, name):
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
    argument, _ = edges_and_counts(argument)
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
    if isinstance(argument, np.ndarray) and argument.dtype in _BYTES:
        argument = argument.astype(_BYTES[argument.dtype])
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
    # torch has no type for one f4 or f6 element, so it holds the bit patterns.
    patterns = _is_torch(argument) and actual == "uint8" and expected.name.startswith(("float4", "float6"))
    if actual != expected.name and not patterns:
        raise InputError(
            f"{_described(argument)} was given",
            where=where,
            why=f"its type is {value.type}, whose elements are {expected.name}",
            remedy=f"convert it to {expected.name}",
        )


def _bind_graph(value: Value, argument: Any) -> tuple[list[Any], list[SizeFact]]:
    """(src, dst), an object with these or `edges()`, or an edge index [2, E], in the format's arrays."""
    kind = value.graph_type
    where = f"input {value.name}"
    parts = _edge_arrays(argument)
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
    _, counts = edges_and_counts(argument)
    facts = graph_facts(value.name, kind, len(src), counts)
    if kind.format == "coo":
        return [to_tensor(np.stack([src, dst]))], facts
    order = np.argsort(dst, kind="stable").astype(src.dtype)
    return [None, to_tensor(src[order]), to_tensor(order), dst], facts


def _edge_arrays(argument: Any) -> list[Any]:
    """Sources and destinations of a graph argument as numpy arrays, as far as it is one."""
    parts = [part.detach().cpu().numpy() if _is_torch(part) else part for part in _parts(argument)]
    if len(parts) == 1 and isinstance(parts[0], np.ndarray) and parts[0].ndim == 2 and len(parts[0]) == 2:
        return [parts[0][0], parts[0][1]]
    return parts


def _check_ends(value: Value, argument: Any, dims: Mapping[str, int]) -> None:
    """Raise InputError when an edge starts or ends outside the nodes, where code would read any memory."""
    for side, part in zip(("src", "dst"), _edge_arrays(argument), strict=True):
        count = value.graph_type.ends(side)
        if not symbols_of(count) <= dims.keys():
            continue  # nothing computes with it, or the call is refused below
        nodes = evaluate(count, dims)
        low, high = int(part.min(initial=0)), int(part.max(initial=-1))
        if low < 0 or high >= nodes:
            raise InputError(
                f"an edge names node {high if high >= nodes else low}",
                where=f"input {value.name}",
                why=f"the graph {value.type} has nodes 0..{nodes - 1}",
            )


def finish_rows(arrays: list[Any], graph: Graph, dims: Mapping[str, int]) -> list[Any]:
    """Row pointers of csr graphs, which need the number of nodes."""
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
        if tensor.is_floating_point() and tensor.itemsize == 1:
            tensor = tensor.view(_torch_type("uint8"))
        if not tensor.numel():
            return _without_elements(tvm.runtime.from_dlpack(tensor))
        if tensor.data_ptr() % _ALIGNMENT == 0:
            return tvm.runtime.from_dlpack(tensor)
        return tvm.runtime.from_dlpack(tensor.clone())
    array = np.ascontiguousarray(argument).reshape(argument.shape)
    if array.dtype.isbuiltin != 1 and array.dtype.itemsize == 1:
        array = array.view(np.uint8)
    usable = array.ctypes.data % _ALIGNMENT == 0 and array.flags.writeable and array.dtype.isbuiltin == 1
    found = tvm.runtime.from_dlpack(array) if usable else tvm.runtime.tensor(array)
    return found if array.size else _without_elements(found)


def _without_elements(tensor: Any) -> Any:
    """A tensor of the same type with the strides that kernels ask for; numpy and torch count a 0 as 1."""
    import tvm

    return tvm.runtime.empty(tensor.shape, tensor.dtype)


def from_tensors(results: Sequence[Any], graph: Graph, *, as_torch: bool) -> list[Any]:
    """Results as numpy arrays or torch tensors, over the same memory where their element types allow."""
    elements: list[DType] = []
    for value in graph.outputs:
        if isinstance(value.type, GraphType):
            elements += [value.type.index] * (1 if value.type.format == "coo" else 3)
        else:
            elements.append(value.shaped.dtype)
    return [_from_tensor(r, e, as_torch) for r, e in zip(results, elements, strict=True)]


def _from_tensor(result: Any, element: DType, as_torch: bool) -> Any:
    if as_torch:
        import torch

        tensor = torch.from_dlpack(result)
        # f4 and f6 stay bit patterns, as torch has no type for one element of theirs.
        return (
            tensor.view(_torch_type(element.numpy.name))
            if element.is_minifloat and element.bits == 8
            else tensor
        )
    array = result.numpy() if str(result.dtype) == "bfloat16" else np.from_dlpack(result)
    return array.view(element.numpy) if element.is_minifloat else array


def _torch_type(name: str) -> Any:
    """The torch dtype of a name that it shares with numpy."""
    import torch

    return getattr(torch, name)
