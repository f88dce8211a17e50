"""Products of spikes with weights on a GPU, by events: only the weights of inputs that fire are read.

    for each row of spikes and tile of outputs: a block
        for each chunk of inputs
            events = the inputs of the chunk that fire, in order
            sums[:] += weights[event, :]      for each event, several loads in flight

Each thread looks at one input of a chunk; the vote of its warp and the counts of the warps
before give an event its place in the list, so that the order of the sums, and with it their
rounding, is the same in every run.
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
from plait.backends.tvm.emit.table import Arguments, Emitter, Packing
from plait.backends.tvm.gpu import instructions
from plait.backends.tvm.gpu.kernel import integer, launch, local_array, named
from plait.backends.tvm.gpu.product import total, unflatten
from plait.backends.tvm.gpu.segments import kernels
from plait.ir import Constant

THREADS, _WARP = 128, 32
#: Events whose weights are loaded before the first of them is added.
_IN_FLIGHT = 8


def spike_linear(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor | None:
    """The sums of a product by events; None where weights are no constant of f32, or it is to be dense."""
    if emitter.is_cpu or op.kernel == "dense" or not isinstance(op.w, Constant):
        return None
    kind = op.w.type
    if emitter.dtype(kind) != "float32":
        return None
    outputs, inputs = map(int, op.w.shaped.shape)
    weight = emitter.packed(op.w, (inputs, outputs), Packing("transposed", _transposed))
    lead = emitter.shape(op.x.type.shape[:-1])
    vector = 4 if outputs % 4 == 0 and outputs >= 4 * THREADS else 1
    tile = THREADS * vector
    tiles = -(-outputs // tile)

    def body(ins: Sequence[Any], outs: Sequence[Any]) -> None:
        spikes, weights = ins
        rows = total(lead)
        with launch(rows * tiles, THREADS) as (block, thread):
            row = unflatten(named("row", tirx.truncdiv(block, tiles)), lead)
            first = named("column", tirx.truncmod(block, tiles) * tile + thread * vector)
            sums = local_array("sums", vector, "float32")
            with T.unroll(0, vector) as k:
                T.buffer_store(sums, number(0, "float32"), [k])

            def fires(place: Expr) -> Expr:
                where = (*row, place)
                return tirx.Cast("int32", spikes[where])

            lists = event_lists()
            add_events(fires, weights, lists, (thread, first), sums, (inputs, outputs), vector)
            with T.If(first < outputs), T.Then(), T.unroll(0, vector) as k:
                T.buffer_store(outs[0], sums[k], [*row, first + k])

    shape = emitter.shape(op.result.type.shape)
    (found,) = kernels(emitter, [body], [args.x, weight], [(shape, "float32")], "events")
    return found


def _transposed(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.T)


def event_lists() -> tuple[Any, Any]:
    """Shared memory for the events of a chunk, and for how many of them each warp has found."""
    events = IRBuilder.name("events", T.alloc_buffer([THREADS], "int32", scope="shared", layout=None))
    warps = THREADS // _WARP
    return events, IRBuilder.name("counts", T.alloc_buffer([warps], "int32", scope="shared", layout=None))


def add_events(
    fires_at: Callable[[Expr], Expr],
    weights: Any,
    lists: tuple[Any, Any],
    place_of: tuple[Expr, Expr],
    sums: Any,
    sizes: tuple[int, int],
    vector: int,
) -> None:
    """Add the weights of the events of all chunks of inputs.

    Args:
        fires_at: 1 where an input fires and 0 where not, as int32.
        weights: [inputs, outputs].
        lists: of `event_lists`.
        place_of: the number of the thread, and the first of its outputs.
        sums: those of the thread's outputs.
        sizes: how many inputs and outputs there are.
        vector: how many outputs a thread has.
    """
    inputs, outputs = sizes
    thread, first = place_of
    events, counts = lists
    warps = THREADS // _WARP
    lane, warp = named("lane", tirx.truncmod(thread, _WARP)), named("warp", tirx.truncdiv(thread, _WARP))
    with T.serial(integer(0), integer(-(-inputs // THREADS))) as chunk:
        place = named("input", chunk * THREADS + thread)
        fires = local_array("fires", 1, "int32")
        T.buffer_store(fires, integer(0), [integer(0)])
        with T.If(place < inputs), T.Then():
            T.buffer_store(fires, fires_at(place), [integer(0)])
        votes = local_array("votes", 1, "uint32")
        T.buffer_store(votes, instructions.ballot(fires[integer(0)]), [integer(0)])
        with T.If(lane == 0), T.Then():
            T.buffer_store(counts, instructions.bits_set(votes[integer(0)]), [warp])
        instructions.barrier()
        # The number of events in warps before this one, and in all.
        before = local_array("before", 2, "int32")
        T.buffer_store(before, integer(0), [integer(0)])
        T.buffer_store(before, integer(0), [integer(1)])
        with T.unroll(0, warps) as other:
            earlier = tirx.Select(other < warp, counts[other], integer(0))
            T.buffer_store(before, before[integer(0)] + earlier, [integer(0)])
            T.buffer_store(before, before[integer(1)] + counts[other], [integer(1)])
        with T.If(fires[integer(0)] != 0), T.Then():
            lower = (tirx.const(1, "uint32") << tirx.Cast("uint32", lane)) - tirx.const(1, "uint32")
            rank = instructions.bits_set(votes[integer(0)] & lower)
            T.buffer_store(events, place, [before[integer(0)] + rank])
        instructions.barrier()
        with T.If(first < outputs), T.Then():
            _add_listed(weights, events, before[integer(1)], first, sums, vector)
        instructions.barrier()


def _add_listed(weights: Any, events: Any, count: Expr, first: Expr, sums: Any, vector: int) -> None:
    """Add the weights of the listed events, in their order."""
    loaded = local_array("loaded", _IN_FLIGHT * vector, "float32")
    whole = named("whole", tirx.truncdiv(count, _IN_FLIGHT))
    with T.serial(integer(0), whole) as step:
        with T.unroll(0, _IN_FLIGHT) as k, T.vectorized(0, vector) as v:
            T.buffer_store(loaded, weights[events[step * _IN_FLIGHT + k], first + v], [k * vector + v])
        with T.unroll(0, _IN_FLIGHT) as k, T.unroll(0, vector) as v:
            T.buffer_store(sums, sums[v] + loaded[k * vector + v], [v])
    with T.serial(whole * _IN_FLIGHT, count) as event, T.unroll(0, vector) as v:
        T.buffer_store(sums, sums[v] + weights[events[event], first + v], [v])


__all__ = ["THREADS", "add_events", "event_lists", "spike_linear"]
