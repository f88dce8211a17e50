"""Emissions of weighted sums of spikes: by events, by counts of bits, or dense."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.tvm.emit.contraction import PackedRight, matrix_product
from plait.backends.tvm.emit.cpu.tiles import packing
from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.table import EMISSIONS, Arguments, Emitter, Kind, emit
from plait.backends.tvm.gpu.contraction import tensor_core_element
from plait.backends.tvm.gpu.spike_conv import spike_conv2d as conv_by_events
from plait.backends.tvm.gpu.spikes import spike_linear as linear_by_events
from plait.ir import IntLike, TensorType, Value
from plait.ir.ops import nn, spike
from plait.ir.ops.common import pads_of
from plait.ir.spike_crossover import crossover, layer_of


@emit(spike.SpikeLinear, kind=Kind.CONTRACTION)
def _spike_linear(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    found = _by_spikes(op, args, emitter)
    return _dense(op, args, emitter) if found is None else _with_bias(args, found, -1)


@emit(spike.SpikeConv2d, kind=Kind.CONTRACTION)
def _spike_conv2d(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    found = _by_spikes(op, args, emitter)
    return _dense(op, args, emitter) if found is None else _with_bias(args, found, 1)


def _dense(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """All inputs times the weights, whatever the density; on a CPU images without a spike may be left out."""
    from plait.backends.tvm.emit.cpu.silent_rows import skip_silent

    dense = _dense_linear if isinstance(op, spike.SpikeLinear) else _dense_conv2d
    if not op.skip_silent or not emitter.is_cpu:
        return dense(op, args, emitter)
    given = emitter.target
    # Winograd's transforms have tiles of several images.
    emitter.target = replace(emitter.cpu, winograd=False)
    try:
        found = dense(op, args, emitter)
    finally:
        emitter.target = given
    skip_silent(op, args.x, emitter)
    return found


def _by_spikes(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor | None:
    """The sums without a dense product; None where that is asked for, or no other form fits."""
    from plait.backends.tvm.emit.cpu import spike_events

    if op.kernel == "popcount":
        spike_events.check_levels(op)
    if not emitter.is_cpu:
        by_events = linear_by_events if isinstance(op, spike.SpikeLinear) else conv_by_events
        return by_events(op, args, emitter)
    if op.kernel == "popcount":
        return spike_events.popcount(op, args.x, emitter)
    if op.kernel == "gather_rows" or (op.kernel == "auto" and _is_sparse(op)):
        return spike_events.gather_rows(op, args.x, emitter)
    return None


def _is_sparse(op: Any) -> bool:
    """Whether the spikes have a density below that at which events take as long as the dense form."""
    density, layer = op.x.type.density, layer_of(op)
    return density is not None and layer is not None and density < crossover("cpu", layer)


def _with_bias(args: Arguments, sums: te.Tensor, channel: int) -> te.Tensor:
    if args.b is None:
        return sums
    return te.compute(sums.shape, lambda *i: sums(*i) + args.b(i[channel]), name="spike_sums_result")


def _numbers(
    op: Any, x: te.Tensor, dtype: str, emitter: Emitter, *, reads: IntLike, bordered: bool = False
) -> te.Tensor:
    """Spikes as ones and silence as zeros.

    On a CPU they are stored where more than one vector of outputs would turn them into numbers again; with
    a border, or where silent images are left out, the product stores them itself.

    Args:
        reads: outputs that read each input.
    """
    one, zero = number(1, dtype), number(0, dtype)
    few = isinstance(reads, int) and emitter.is_cpu and reads <= emitter.cpu.lanes
    if not emitter.is_cpu or bordered or few or op.skip_silent:
        return te.compute(x.shape, lambda *i: tirx.Select(x(*i), one, zero), name="numbers")
    order = emitter.layouts.get(op.x) or tuple(range(len(x.shape)))
    back = [order.index(axis) for axis in range(len(order))]
    shape = [x.shape[axis] for axis in order]
    made = te.compute(shape, lambda *i: tirx.Select(x(*(i[k] for k in back)), one, zero), name="numbers")
    stored = emitter.stage("numbers", made)
    return te.compute(x.shape, lambda *i: stored(*(i[axis] for axis in order)), name="stored_numbers")


def _dense_linear(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """Spikes as zeros and ones times the weights, whatever the density."""
    outputs, depth = op.w.type.shape
    dtype = emitter.dtype(op.w.type)
    numbers = _numbers(op, args.x, dtype, emitter, reads=outputs)

    def finish(i: tuple[Expr, ...], total: Expr) -> Expr:
        return total if args.b is None else total + args.b(i[-1])

    return matrix_product(
        emitter,
        batch=(),
        rows=op.x.type.shape[:-1],
        columns=outputs,
        depth=depth,
        left=lambda b, rows, r: numbers(*rows, r),
        right=lambda b, r, column: args.w(column, r),
        packed=_packed_weight(emitter, op.w),
        finish=finish,
        name="spike_linear",
    )


def _packed_weight(emitter: Emitter, value: Value) -> PackedRight | None:
    """Constant weights [outputs, inputs] in blocks of lanes."""
    if not emitter.packs(value):
        return None
    outputs, inputs = map(int, value.shaped.shape)

    def packed(lanes: int) -> tuple[te.Tensor, Any]:
        shape = (-(-outputs // lanes), inputs, lanes)
        return emitter.packed(value, shape, packing(lanes)), lambda element: element

    return packed


def _dense_conv2d(op: Any, args: Arguments, emitter: Emitter) -> te.Tensor:
    """The convolution of an image of zeros and ones, as nn.conv2d computes it."""
    kind = TensorType(op.w.type.dtype, op.x.type.shape)
    image = Value(f"{op.x.name}_as_numbers", kind)
    conv = nn.Conv2d(image, op.w, op.b, stride=op.stride, pad=op.pad)
    conv.results = op.results
    bordered = any(map(any, pads_of(op, op.pad, 2)))
    numbers = _numbers(op, args.x, emitter.dtype(kind), emitter, reads=op.w.type.shape[0], bordered=bordered)
    if tensor_core_element(emitter, image, op.w) is not None:
        # Tensor cores copy their operands from memory: there the numbers stand for the image.
        numbers = emitter.stage("numbers", numbers)
        emitter.stand_in(image, numbers)

    def lookup(value: Value) -> te.Tensor:
        return numbers if value is image else args.w if value is op.w else args.b

    return EMISSIONS[nn.Conv2d].function(conv, Arguments(conv, lookup), emitter)
