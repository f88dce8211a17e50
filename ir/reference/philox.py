"""Philox 4x32-10, a counter-based generator of random numbers (Salmon et al., SC 2011).

Ten rounds of multiplications turn a counter of four 32-bit words and a key of two
into four words.  Every element has its own counter, so that any order, device or
compiler finds the same numbers.  Words are held in int64 tensors.
"""

from __future__ import annotations

import math

import torch

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
_MASK = 0xFFFFFFFF


def philox(counter: tuple[torch.Tensor, ...], key: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    """Four random words of 32 bits for each counter of four."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _product(c0, MULTIPLIERS[0])
        high1, low1 = _product(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEY_STEPS[0]) & _MASK, (k1 + KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def _product(word: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The upper and the lower 32 bits of a product; its parts stay below 2^49, so none overflows."""
    low = word * (factor & 0xFFFF)
    high = word * (factor >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def words_of(shape: tuple[int, ...], seed: int) -> tuple[torch.Tensor, ...]:
    """The words of each element: its row-major place is the counter, the seed is the key."""
    place = torch.arange(math.prod(shape), dtype=torch.int64).reshape(shape)
    zero = torch.zeros_like(place)
    return philox((place & _MASK, place >> 32, zero, zero), (seed & _MASK, (seed >> 32) & _MASK))


def uniform(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Numbers in [0, 1) with as many bits as the significand of `dtype` has."""
    first, second, _, _ = words_of(shape, seed)
    if dtype == torch.float64:
        return ((first << 21) | (second >> 11)).to(dtype) * 2.0**-53
    bits = SIGNIFICANDS[dtype]
    return ((first >> (32 - bits)).to(torch.float32) * 2.0**-bits).to(dtype)


def normal(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Standard normal numbers by the transform of Box and Muller, of two uniform ones."""
    first, second, third, fourth = words_of(shape, seed)
    if dtype == torch.float64:
        radius = (((first << 21) | (second >> 11)) + 1).to(dtype) * 2.0**-53
        angle = ((third << 21) | (fourth >> 11)).to(dtype) * 2.0**-53
    else:
        radius = ((first >> 8) + 1).to(torch.float32) * 2.0**-24
        angle = (third >> 8).to(torch.float32) * 2.0**-24
    return ((-2 * radius.log()).sqrt() * (angle * (2 * math.pi)).cos()).to(dtype)


#: Bits of the significand by element type, that of f64 aside.
SIGNIFICANDS = {torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}
