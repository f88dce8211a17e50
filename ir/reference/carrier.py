"""Ops on element types that torch can hold but hardly compute with.

torch has few kernels for u16, u32, u64 and the minifloats.  An op that meets one of them
runs on a *carrier* that torch does know, chosen so that the results are the same bits:

    u16, u32     64-bit integers; results are reduced modulo 2^16 or 2^32 again
    u64          64-bit integers of the same bits, which add, multiply and move alike;
                 with the top bit flipped where the op compares; numpy where it divides
    minifloats   their bit patterns: the ops that take them only move elements
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from plait.ir.op import Op
from plait.ir.ops import core
from plait.ir.reference.table import Context, Reference
from plait.ir.reference.tensors import TORCH
from plait.ir.types import DTYPES, ShapedType

_TOP_BIT = torch.iinfo(torch.int64).min
_NARROW = (torch.uint16, torch.uint32)
_MINIFLOATS = tuple(
    TORCH[name] for name, element in DTYPES.items() if element.is_minifloat and TORCH[name] != torch.uint8
)
_CARRIED = frozenset((*_NARROW, torch.uint64, *_MINIFLOATS))
#: Ops that deal with all element types themselves.
_UNCARRIED = (core.Cast, core.BitCast, core.Full, core.Iota)
#: Ops whose result depends on which of two elements is larger.
_ORDERING = (
    *(core.Lt, core.Le, core.Gt, core.Ge, core.Maximum, core.Minimum),
    *(core.Max, core.Min, core.ArgMax, core.ArgMin, core.TopK, core.Sort),
)


def _clamped(op: Any, x: np.ndarray) -> np.ndarray:
    low = 0 if op.low is None else min(max(math.ceil(max(op.low, 0.0)), 0), 2**64 - 1)
    high = 2**64 - 1 if op.high is None or op.high >= 2**64 else max(math.floor(op.high), 0)
    return np.asarray(np.minimum(np.maximum(x, np.uint64(low)), np.uint64(high)))


#: Ops on u64 that neither the same bits as i64 nor the flipped ones compute.
_BY_NUMPY: dict[type[Op], Callable[..., np.ndarray]] = {
    core.Abs: lambda op, x: x,
    core.Sign: lambda op, x: (x != 0).astype(np.uint64),
    core.Clamp: _clamped,
    core.Div: lambda op, a, b: np.floor_divide(a, b),
    core.FloorDiv: lambda op, a, b: np.floor_divide(a, b),
    core.Remainder: lambda op, a, b: np.remainder(a, b),
    core.Pow: lambda op, a, b: np.power(a, b),
}


def run(op: Op, function: Reference, args: tuple[Any, ...], ctx: Context) -> Any:
    """The results of a reference function, on carriers where the op has unusual element types."""
    tensors = [x for given in args for x in (given if isinstance(given, tuple) else (given,))]
    if op.regions or isinstance(op, _UNCARRIED) or not any(map(_is_carried, tensors)):
        return function(op, args, ctx)
    if type(op) in _BY_NUMPY and tensors[0].dtype == torch.uint64:
        with np.errstate(all="ignore"):
            return torch.from_numpy(_BY_NUMPY[type(op)](op, *(x.cpu().numpy() for x in tensors))).to(
                ctx.device
            )
    flips = isinstance(op, _ORDERING) or getattr(op, "reduce", None) in ("max", "min")

    def carried(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(carried, x))
        return _to_carrier(x, flips) if _is_carried(x) else x

    found = function(op, tuple(map(carried, args)), ctx)
    results = found if isinstance(found, tuple) else (found,)
    back = []
    for value, result in zip(op.results, results, strict=True):
        kind = value.type
        wanted = TORCH[kind.dtype.name] if isinstance(kind, ShapedType) else None
        back.append(_from_carrier(result, wanted, flips) if wanted in _CARRIED else result)
    return tuple(back) if isinstance(found, tuple) else back[0]


def _is_carried(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.dtype in _CARRIED


def _to_carrier(x: torch.Tensor, flips: bool) -> torch.Tensor:
    if x.dtype in _NARROW:
        return x.to(torch.int64)
    if x.dtype == torch.uint64:
        return x.view(torch.int64) ^ _TOP_BIT if flips else x.view(torch.int64)
    return x.view(torch.uint8)


def _from_carrier(x: torch.Tensor, wanted: torch.dtype | None, flips: bool) -> torch.Tensor:
    if wanted is None or x.dtype == wanted:
        return x
    if wanted in _NARROW:
        return x.to(torch.int64).to(wanted)
    if wanted == torch.uint64:
        return (x ^ _TOP_BIT if flips else x).view(torch.uint64)
    return x.view(wanted)
