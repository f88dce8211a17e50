"""Weights and spikes in the layouts of the kernels."""

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
