"""Weights and spikes in the layouts of the kernels, and the packing of spikes in generated code."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pack_weights(weights: ArrayLike) -> NDArray[np.float32]:
    """Weights [co, ci, kh, kw], as of torch, to f32 [kh, kw, ci, co]."""
    return np.ascontiguousarray(np.asarray(weights, np.float32).transpose(2, 3, 1, 0))


def _words(ones: NDArray[np.bool_], axis: int) -> NDArray[np.uint32]:
    """Joins 32 neighbours along `axis` into a word, the first in the lowest bit; zeros fill the last."""
    moved = np.moveaxis(ones, axis, -1)
    count = -(-moved.shape[-1] // 32)
    padded = np.zeros((*moved.shape[:-1], count * 32), bool)
    padded[..., : moved.shape[-1]] = moved
    bits = np.packbits(padded, axis=-1, bitorder="little").view("<u4").astype(np.uint32)
    return np.ascontiguousarray(np.moveaxis(bits, -1, axis))


def pack_spike_bits(spikes: ArrayLike) -> NDArray[np.uint32]:
    """Spikes [F,H,W,C] (not zero: a spike) to words [F,H,W,ceil(C/32)]."""
    return _words(np.asarray(spikes) != 0, -1)


def pack_weight_bits(weights: ArrayLike) -> NDArray[np.uint32]:
    """Weights [kh,kw,ci,co] (not zero: the high level) to words [kh,kw,ceil(ci/32),co]."""
    return _words(np.asarray(weights) != 0, 2)


def bit_packing_text(channels: int) -> tuple[str, str]:
    """A function in LLVM's language that packs the spikes of `channels` channels into words, and its C name.

    C: void symbol(const uint8_t *spikes, uint32_t *words, int64_t begin, int64_t end)
    packs the pixels [begin, end) of spikes u8 [pixels, channels] to words [pixels, ceil(channels/32)].
    """
    # llvmlite is imported with the generators.
    from llvmlite import ir

    from plait.backends.llvm.structure import I64, POINTER, U8, Code, Lanes

    symbol = f"plait_pack_bits_{channels}"
    module = ir.Module(symbol)
    code = Code(module, symbol, [POINTER, POINTER, I64, I64])
    spikes, words, begin, end = code.function.args
    count, (full, rest) = -(-channels // 32), divmod(channels, 32)
    silence = ir.Constant(ir.VectorType(U8, 32), None)

    def pack(pixel: ir.Value, word: ir.Value, used: int) -> None:
        first = code.scaled((pixel, channels), (word, 32))
        found = code.load_lanes(spikes, first, U8, Lanes(0, 32, used))
        bits = code.bits(code.b.icmp_unsigned("!=", found, silence))
        code.store(bits, words, code.scaled((pixel, count), (word, 1)))

    with code.counting(begin, end) as pixel:
        with code.counting(code.number(0), code.number(full)) as word:
            pack(pixel, word, 32)
        if rest:
            pack(pixel, code.number(full), rest)
    code.finish()
    module.triple = ""
    return str(module), symbol
