"""Message passing on a GPU: the edges sorted by node by all threads, and reductions by a warp for each node.

Sorting counts the edges of each node with atomic additions, whose sums do not depend on their order;
adds the counts up; gives each edge some place among those of its node, whichever thread comes first;
and orders the places of a node by rank.  So the result is the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.index import combined
from plait.backends.tvm.emit.table import Emitter
from plait.backends.tvm.gpu import instructions
from plait.backends.tvm.gpu.kernel import integer, launch, local_array, named
from plait.backends.tvm.gpu.product import extent, total, unflatten

_THREADS = 256
_WARP = 32
#: Element types that lanes of a warp can exchange.
WARP_TYPES = ("float32", "float64", "int32", "int64")
Body = Callable[[Sequence[Any], Sequence[Any]], None]
#: The node at a place of the edge list, given the buffers that list it.
EndOf = Callable[[Sequence[Any], Expr], Expr]


def _wide(value: Expr | int) -> Expr:
    return tirx.IntImm("int64", value) if isinstance(value, int) else tirx.Cast("int64", value)


def kernels(
    emitter: Emitter,
    bodies: Sequence[Body],
    inputs: Sequence[te.Tensor],
    outputs: Sequence[tuple[Sequence[Expr], str]],
    name: str,
) -> list[te.Tensor]:
    """Launches that run one after the other on the same buffers: a stage of the group."""

    def generate(ins: Sequence[Any], outs: Sequence[Any]) -> Any:
        written = []
        for body in bodies:
            with IRBuilder() as builder:
                body(ins, outs)
                written.append(builder.get())
        return written[0] if len(written) == 1 else tirx.SeqStmt(written)

    buffers = [
        tirx.decl_buffer(list(shape), dtype, f"{name}_{k}", layout=None)
        for k, (shape, dtype) in enumerate(outputs)
    ]
    found = te.extern(
        [list(shape) for shape, _ in outputs],
        list(inputs),
        generate,
        dtype=[dtype for _, dtype in outputs],
        out_buffers=buffers,
        name=name,
    )
    tensors = [found] if isinstance(found, te.Tensor) else list(found)
    staged = emitter.stage(name, *tensors)
    return [staged] if isinstance(staged, te.Tensor) else list(staged)


def each_item(items: Expr, body: Callable[[Expr], None]) -> None:
    """A launch with one thread for each item."""
    blocks = tirx.floordiv(items + (_THREADS - 1), _wide(_THREADS))
    with launch(blocks, _THREADS) as (block, thread):
        item = named("item", _wide(block) * _THREADS + _wide(thread))
        with T.If(item < items), T.Then():
            body(item)


def starts_by_node(
    emitter: Emitter, listed: Sequence[te.Tensor], end: EndOf, nodes: Expr, edges: Expr
) -> te.Tensor:
    """Where the edges of each node begin once sorted: [nodes + 1], int64."""

    def clear(ins: Sequence[Any], outs: Sequence[Any]) -> None:
        each_item(nodes + 1, lambda item: T.buffer_store(outs[0], _wide(0), [item]))

    def count(ins: Sequence[Any], outs: Sequence[Any]) -> None:
        def add(item: Expr) -> None:
            T.evaluate(instructions.atomic_increment(outs[0], end(ins, item) + 1))

        each_item(edges, add)

    def add_up(ins: Sequence[Any], outs: Sequence[Any]) -> None:
        (starts,) = outs
        with launch(_wide(1), _THREADS) as (_, thread):
            # Each thread adds up a stretch of nodes; then it adds what lies in front of it.
            sums = IRBuilder.name("sums", T.alloc_buffer([_THREADS], "int64", scope="shared", layout=None))
            stretch = named("stretch", tirx.floordiv(nodes + (_THREADS - 1), _wide(_THREADS)))
            first = named("first", _wide(thread) * stretch)
            last = named("last", tirx.min(first + stretch, nodes))
            before = local_array("before", 1, "int64")
            T.buffer_store(before, _wide(0), [integer(0)])
            with T.serial(first, tirx.max(first, last)) as node:
                T.buffer_store(before, before[integer(0)] + starts[node + 1], [integer(0)])
            T.buffer_store(sums, before[integer(0)], [thread])
            instructions.barrier()
            T.buffer_store(before, _wide(0), [integer(0)])
            with T.serial(integer(0), thread) as other:
                T.buffer_store(before, before[integer(0)] + sums[other], [integer(0)])
            with T.serial(first, tirx.max(first, last)) as node:
                T.buffer_store(before, before[integer(0)] + starts[node + 1], [integer(0)])
                T.buffer_store(starts, before[integer(0)], [node + 1])

    (found,) = kernels(emitter, [clear, count, add_up], listed, [([nodes + 1], "int64")], "starts")
    return found


def edges_by_node(
    emitter: Emitter,
    starts: te.Tensor,
    listed: Sequence[te.Tensor],
    end: EndOf,
    number_of: EndOf,
    nodes: Expr,
    edges: Expr,
) -> te.Tensor:
    """The numbers of the edges sorted by node, those of one node in the order of the list: [edges], int64."""

    def free_places(ins: Sequence[Any], outs: Sequence[Any]) -> None:
        each_item(nodes, lambda node: T.buffer_store(outs[1], ins[0][node], [node]))

    def take_places(ins: Sequence[Any], outs: Sequence[Any]) -> None:
        def take(item: Expr) -> None:
            place = named("place", instructions.atomic_increment(outs[1], end(ins[1:], item)))
            T.buffer_store(outs[2], item, [place])

        each_item(edges, take)

    def rank(ins: Sequence[Any], outs: Sequence[Any]) -> None:
        def put(item: Expr) -> None:
            mine = named("mine", outs[2][item])
            node = named("node", end(ins[1:], mine))
            place = local_array("place", 1, "int64")
            T.buffer_store(place, ins[0][node], [integer(0)])
            with T.serial(ins[0][node], ins[0][node + 1]) as other:
                smaller = tirx.Cast("int64", outs[2][other] < mine)
                T.buffer_store(place, place[integer(0)] + smaller, [integer(0)])
            T.buffer_store(outs[0], number_of(ins[1:], mine), [place[integer(0)]])

        each_item(edges, put)

    outputs = [([edges], "int64"), ([nodes], "int64"), ([edges], "int64")]
    bodies = [free_places, take_places, rank]
    found = kernels(emitter, bodies, [starts, *listed], outputs, "sorted_edges")
    return found[0]


#: What an edge sends: an element of its row, by buffers, position among the sorted edges, number and place.
Row = Callable[[Sequence[Any], Expr, Expr, tuple[Expr, ...]], Expr]


def reduce_rows(
    emitter: Emitter,
    incidence: Sequence[te.Tensor],
    tensors: Sequence[te.Tensor],
    row: Row,
    shape: Sequence[Expr],
    dtype: str,
    reduce: str,
) -> te.Tensor:
    """Rows of the edges at each node reduced to [nodes, ...]; a node without edges gets zero.

    A warp takes a node.  Its lanes share out the features, several neighbouring ones each where
    their number divides, and, while there are fewer features than lanes, also the edges.
    """
    nodes, features = shape[0], list(shape[1:])
    count = extent(total(features))
    inner = extent(features[-1]) if features else 1
    vector = _vector(inner, dtype)
    slots = _WARP if count is None else max(1, count // vector)
    across = min(_WARP, 1 << (slots - 1).bit_length())
    neutral = _neutral(reduce, dtype)

    def body(ins: Sequence[Any], outs: Sequence[Any]) -> None:
        starts, numbers, *buffers = ins
        warps = _THREADS // _WARP
        with launch(tirx.floordiv(nodes + (warps - 1), _wide(warps)), _THREADS) as (block, thread):
            node = named("node", _wide(block) * warps + _wide(tirx.truncdiv(thread, _WARP)))
            lane = named("lane", tirx.truncmod(thread, _WARP))
            with T.If(node < nodes), T.Then():
                start = named("start", _wide(starts[node]))
                stop = named("stop", _wide(starts[node + 1]))
                size = _wide(1) if not features else total(features)
                rounds = tirx.floordiv(size + (across * vector - 1), _wide(across * vector))
                with T.serial(_wide(0), rounds) as turn:
                    first = named("feature", (turn * across + _wide(tirx.truncmod(lane, across))) * vector)
                    one_block(buffers, outs[0], numbers, node, start, stop, first, size, lane)

    def one_block(
        buffers: Sequence[Any],
        result: Any,
        numbers: Any,
        node: Expr,
        start: Expr,
        stop: Expr,
        first: Expr,
        size: Expr,
        lane: Expr,
    ) -> None:
        sums, message = local_array("sums", vector, dtype), local_array("message", vector, dtype)
        with T.unroll(0, vector) as k:
            T.buffer_store(sums, neutral, [k])
        groups = _WARP // across
        mine = named("edge_slot", _wide(tirx.truncdiv(lane, across)))
        turns = tirx.floordiv(stop - start - mine + (groups - 1), _wide(groups))
        with T.If(first < size), T.Then(), T.serial(_wide(0), tirx.max(turns, _wide(0))) as turn:
            position = named("position", start + mine + turn * groups)
            edge = named("edge", _wide(numbers[position]))
            with T.vectorized(0, vector) as k:
                place = _places(first + _wide(k), features)
                T.buffer_store(message, row(buffers, position, edge, place), [k])
            with T.unroll(0, vector) as k:
                T.buffer_store(sums, _combined(reduce, sums[k], message[k]), [k])
        step = _WARP // 2
        while step >= across:
            with T.unroll(0, vector) as k:
                other = instructions.shuffle_xor(sums[k], step)
                T.buffer_store(sums, _combined(reduce, sums[k], other), [k])
            step //= 2
        writes = tirx.all(first < size, lane < across)
        with T.If(writes), T.Then(), T.unroll(0, vector) as k:
            found = sums[k]
            if reduce == "mean":
                found = found / tirx.Cast(dtype, tirx.max(stop - start, _wide(1)))
            found = tirx.Select(stop > start, found, number(0, dtype))
            T.buffer_store(result, found, [node, *_places(first + _wide(k), features)])

    (reduced,) = kernels(emitter, [body], [*incidence, *tensors], [(shape, dtype)], f"reduce_{reduce}")
    return reduced


def _vector(inner: int | None, dtype: str) -> int:
    """How many neighbouring features a lane takes: what 16 bytes hold, if that divides their number."""
    vector = 16 // np.dtype(dtype).itemsize if dtype in ("float32", "float64") else 1
    while vector > 1 and (inner is None or inner % vector):
        vector //= 2
    return vector


def _places(feature: Expr, features: Sequence[Expr]) -> tuple[Expr, ...]:
    return unflatten(feature, features) if features else ()


def _combined(reduce: str, a: Expr, b: Expr) -> Expr:
    return a + b if reduce in ("sum", "mean") else combined(reduce, a, b)


def _neutral(reduce: str, dtype: str) -> Expr:
    if reduce in ("sum", "mean"):
        return number(0, dtype)
    if "float" in dtype:
        return number(float("-inf" if reduce == "max" else "inf"), dtype)
    return tirx.min_value(dtype) if reduce == "max" else tirx.max_value(dtype)


__all__ = ["WARP_TYPES", "each_item", "edges_by_node", "kernels", "reduce_rows", "starts_by_node"]
