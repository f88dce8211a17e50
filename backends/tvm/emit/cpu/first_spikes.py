"""Convolutions of neurons that fire once, on a CPU, by event-driven kernels that LLVM compiles with the rest.

The kernels of `plait.backends.llvm` are text in LLVM's language; TVM takes it into the library of the
graph, so that they are compiled for the same processor and saved with it.  Images are shared by the
threads; each call handles one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import StringImm
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from plait.backends.llvm.native import kernel_text
from plait.backends.llvm.specification import FirstSpikeConv2d, Pool
from plait.backends.tvm.emit.cpu.writer import parallel
from plait.backends.tvm.emit.expressions import number
from plait.backends.tvm.emit.loops import whole
from plait.backends.tvm.emit.table import Arguments, Emitter, Packing
from plait.ir import Constant
from plait.ir.ops.common import pads_of

#: Arrays of so many bytes come from the allocator, which aligns them to 64; smaller ones lie on the stack.
_ALIGNED_BYTES = 2048


def _channels_last(array: np.ndarray) -> np.ndarray:
    """Weights [O, C, kh, kw] as [kh, kw, C, O]."""
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0))


def first_spike_conv2d(op: Any, args: Arguments, emitter: Emitter) -> list[te.Tensor] | None:
    """Times and, where they are asked for, potentials; None where the event-driven kernel does not fit.

    It wants an image of known size, and the same pads on both sides.  Weights that are no constant are laid
    out anew in each call.
    """
    spec = _specification(op)
    if spec is None:
        return None
    outputs, channels = op.w.shaped.shape[:2]
    text, workspace_bytes = kernel_text(spec, lanes=emitter.cpu.vector_bits // 32)
    shape = (*map(int, op.w.shaped.shape[2:]), int(channels), int(outputs))
    if isinstance(op.w, Constant):
        weight = emitter.packed(op.w, shape, Packing("event_weights", _channels_last))
    else:
        moved = te.compute(
            emitter.shape(shape), lambda y, x, c, o: args.w(o, c, y, x), name="channels_last_weights"
        )
        weight = emitter.stage("weights", moved)
    batch = emitter.dim(op.x.shaped.shape[0])
    result_shape = [batch, whole(spec.result_height), whole(spec.result_width), whole(spec.out_channels)]

    def generate(ins: Sequence[Any], outs: Sequence[Any]) -> Any:
        def start(buffer: Any) -> Any:
            return tirx.address_of(buffer[tuple(whole(0) for _ in buffer.shape)])

        potential = start(outs[1] if spec.potentials else outs[0])
        with IRBuilder() as builder:
            with T.attr(whole(0), "pragma_import_llvm", StringImm(text)), parallel(batch) as image:
                # One call of the kernel may use all of this; the allocator keeps it for each thread.
                room = max(workspace_bytes, _ALIGNED_BYTES)
                workspace = T.alloc_buffer([room], "uint8", layout=None)
                level = T.alloc_buffer([1], "float32", layout=None)
                T.buffer_store(level, number(op.v_th, "float32"), [whole(0)])
                # TVM narrows variables of loops to 32 bits, but not what it loads.
                images = T.alloc_buffer([2], "int64", layout=None)
                T.buffer_store(images, image, [whole(0)])
                T.buffer_store(images, image + 1, [whole(1)])
                arrays = [start(ins[0]), start(ins[1]), start(level), start(outs[0]), potential]
                # An address alone would leave of the workspace its first byte.
                scratch = tirx.tvm_access_ptr("uint8", workspace.data, whole(0), room, 3)
                bounds = [images[whole(0)], images[whole(1)]]
                T.evaluate(tirx.call_extern("void", spec.symbol, *arrays, scratch, *bounds))
            return builder.get()

    types = ["uint8", *(["float32"] if spec.potentials else [])]
    found = te.extern(
        [result_shape for _ in types],
        [_times_channels_last(op, emitter), weight],
        generate,
        dtype=types,
        out_buffers=[
            tirx.decl_buffer(result_shape, dtype, f"first_spikes_{k}", layout=None)
            for k, dtype in enumerate(types)
        ],
        name="first_spikes",
    )
    tensors = [found] if isinstance(found, te.Tensor) else list(found)
    staged = emitter.stage("events", *tensors)
    return [emitter.view(tensor, (0, 3, 1, 2)) for tensor in (staged if len(types) > 1 else [staged])]


def _times_channels_last(op: Any, emitter: Emitter) -> te.Tensor:
    """The times of the inputs as [N, H, W, C] in memory."""
    stored, channels_last = emitter.stored(op.x)
    if channels_last:
        return stored
    n, c, h, w = stored.shape
    moved = te.compute([n, h, w, c], lambda n, y, x, c: stored(n, c, y, x), name="times")
    return emitter.stage("channels_last", moved)


def _specification(op: Any) -> FirstSpikeConv2d | None:
    sizes = (*op.x.shaped.shape[1:], *op.w.shaped.shape)
    if not all(isinstance(size, int) for size in sizes):
        return None
    pads = pads_of(op, op.pad, 2)
    if any(before != after for before, after in pads):
        return None
    channels, height, width = map(int, op.x.shaped.shape[1:])
    outputs, _, *kernel = map(int, op.w.shaped.shape)
    return FirstSpikeConv2d(
        height=height,
        width=width,
        in_channels=channels,
        out_channels=outputs,
        kernel=(kernel[0], kernel[1]),
        stride=op.stride,
        padding=(pads[0][0], pads[1][0]),
        steps=op.steps,
        inhibit=op.inhibit,
        pool=None if op.pool == (1, 1) else Pool(op.pool, op.pool, op.pool_pad),
        potentials=op.potential,
        earliest=op.earliest,
    )


__all__ = ["first_spike_conv2d"]
