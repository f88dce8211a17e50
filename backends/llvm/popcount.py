"""Generator of `PopcountConv2d`: AND and population count over words of 32 channels."""

from __future__ import annotations

from llvmlite import ir

from plait.backends.llvm.accumulate import block_vectors
from plait.backends.llvm.specification import PopcountConv2d
from plait.backends.llvm.structure import (
    F32,
    I32,
    I64,
    POINTER,
    Code,
    Variable,
    channel_blocks,
    workspace_function,
)


def _inside(code: Code, first: ir.Value, kernel: int, size: int) -> tuple[ir.Value, ir.Value]:
    """The taps of a window that starts at `first` and lie in 0 <= place < size."""
    begin = code.maximum(code.b.sub(code.number(0), first), code.number(0))
    return begin, code.minimum(code.number(kernel), code.b.sub(code.number(size), first))


def generate(spec: PopcountConv2d, symbol: str, width: int) -> tuple[ir.Module, int]:
    """The LLVM module of the kernel, and the bytes of workspace of one call (0).

    Args:
        symbol: the C name.
        width: 32-bit lanes of a vector.
    """
    module = ir.Module(symbol)
    code = Code(module, symbol, [POINTER, POINTER, POINTER, POINTER, I64, I64])
    b = code.b
    words, weights, levels, out, begin, end = code.function.args
    kind = F32 if spec.result == "f32" else I32
    add, multiply = (b.fadd, b.fmul) if spec.result == "f32" else (b.add, b.mul)
    if spec.two_level:
        low = code.load(levels, code.number(0), kind)
        high = code.load(levels, code.number(1), kind)
        rise = b.fsub(high, low) if spec.result == "f32" else b.sub(high, low)

    def converted(value: ir.Value, target: ir.Type) -> ir.Value:
        return b.sitofp(value, target) if spec.result == "f32" else value

    with (
        code.counting(begin, end) as frame,
        code.counting(code.number(0), code.number(spec.out_height)) as y,
        code.counting(code.number(0), code.number(spec.out_width)) as x,
    ):
        top = b.sub(code.scaled((y, spec.stride[0])), code.number(spec.padding[0]))
        left = b.sub(code.scaled((x, spec.stride[1])), code.number(spec.padding[1]))
        pixel = code.scaled(
            (frame, spec.out_height * spec.out_width * spec.out_channels),
            (y, spec.out_width * spec.out_channels),
            (x, spec.out_channels),
        )
        for block in channel_blocks(spec.out_channels, width, block_vectors(width)):
            vector = ir.VectorType(I32, width)
            ones = [Variable(code, vector, ir.Constant(vector, None)) for _ in block]
            count = Variable(code, I32, code.number(0, I32))
            with (
                code.counting(*_inside(code, top, spec.kernel[0], spec.height)) as row,
                code.counting(*_inside(code, left, spec.kernel[1], spec.width)) as column,
                code.counting(code.number(0), code.number(spec.words)) as word,
            ):
                place = code.scaled(
                    (frame, spec.height * spec.width * spec.words),
                    (b.add(top, row), spec.width * spec.words),
                    (b.add(left, column), spec.words),
                )
                value = code.load(words, b.add(place, word), I32)
                count.set(b.add(count.get(), code.intrinsic("llvm.ctpop.i32", I32, [value])))
                tap = code.scaled((row, spec.kernel[1] * spec.words), (column, spec.words))
                start = code.scaled((b.add(tap, word), spec.out_channels))
                spread = code.splat(value, width)
                for lanes, total in zip(block, ones):
                    levels_here = code.load_lanes(weights, b.add(start, code.number(lanes.start)), I32, lanes)
                    both = b.and_(spread, levels_here)
                    found = code.intrinsic(f"llvm.ctpop.v{width}i32", vector, [both])
                    total.set(b.add(total.get(), found))
            for lanes, total in zip(block, ones):
                result = converted(total.get(), ir.VectorType(kind, width))
                if spec.two_level:
                    ground = code.splat(multiply(low, converted(count.get(), kind)), width)
                    result = add(ground, multiply(code.splat(rise, width), result))
                code.store_lanes(result, out, b.add(pixel, code.number(lanes.start)), lanes)
    code.finish()
    workspace_function(module, symbol, 0)
    return module, 0
