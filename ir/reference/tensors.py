"""How IR values are held in torch, and the activations that ops fuse.

A dense tensor has the torch type of its element type; integers below 8 bits are held
in a byte, and f4 and f6 as bit patterns in uint8.  A quantised tensor is held as its stored
integers (int8 or uint8), spikes as bool, and a graph as an `EdgeList`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import torch
import torch.nn.functional as F

from plait.ir.reference.minifloat import decode, encode
from plait.ir.types import DType, ShapedType, dtype_of

TORCH: dict[str, torch.dtype] = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "i4": torch.int8,
    "i2": torch.int8,
    "u64": torch.uint64,
    "u32": torch.uint32,
    "u16": torch.uint16,
    "u8": torch.uint8,
    "u4": torch.uint8,
    "u2": torch.uint8,
    "bool": torch.bool,
    "c64": torch.complex64,
    "c128": torch.complex128,
    "f8e4m3fn": torch.float8_e4m3fn,
    "f8e5m2": torch.float8_e5m2,
    "f8e4m3fnuz": torch.float8_e4m3fnuz,
    "f8e5m2fnuz": torch.float8_e5m2fnuz,
    "f8e8m0fnu": torch.float8_e8m0fnu,
    "f6e2m3fn": torch.uint8,
    "f6e3m2fn": torch.uint8,
    "f4e2m1fn": torch.uint8,
}
#: Integers of numpy that are held in a byte each, and the type that holds them.
_BYTES = {
    np.dtype(ml_dtypes.int4): np.int8,
    np.dtype(ml_dtypes.int2): np.int8,
    np.dtype(ml_dtypes.uint4): np.uint8,
    np.dtype(ml_dtypes.uint2): np.uint8,
}


@dataclass(frozen=True)
class EdgeList:
    """A graph value: source and destination node of each edge, both of shape [E]."""

    src: torch.Tensor
    dst: torch.Tensor

    def to(self, device: torch.device) -> EdgeList:
        """The same graph on another device."""
        return EdgeList(self.src.to(device), self.dst.to(device))


def torch_dtype(kind: ShapedType | DType) -> torch.dtype:
    """The torch type that holds elements of an IR type."""
    return TORCH[(kind if isinstance(kind, DType) else kind.dtype).name]


def from_numpy(array: np.ndarray) -> torch.Tensor:
    """A tensor on the memory of `array`, which nobody may then write to."""
    if array.dtype == ml_dtypes.bfloat16:
        return from_numpy(array.view(np.int16)).view(torch.bfloat16)
    if array.dtype in _BYTES:
        return torch.from_numpy(array.astype(_BYTES[array.dtype]))
    if array.dtype.isbuiltin != 1 and array.dtype.itemsize == 1:
        element = dtype_of(array.dtype)
        return from_numpy(array.view(np.uint8)).view(torch_dtype(element))
    if any(stride < 0 for stride in array.strides) or not array.dtype.isnative:
        array = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        # torch warns that it cannot protect read-only memory; the interpreter never writes to it
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def to_numpy(tensor: torch.Tensor, kind: ShapedType | DType) -> np.ndarray:
    """The array, of the numpy type of `kind`, on the memory of a tensor that holds such elements."""
    held = tensor.detach().cpu().contiguous()
    wanted = (kind if isinstance(kind, DType) else kind.dtype).numpy
    if wanted.isbuiltin == 1:
        return held.numpy()
    plain = torch.int16 if wanted.itemsize == 2 else torch.uint8
    return held.view(plain).numpy().view(wanted)


def convert(
    x: torch.Tensor,
    target: DType,
    source: DType | None = None,
    *,
    saturate: bool = False,
    round_mode: str = "nearest",
) -> torch.Tensor:
    """`x` in another element type; integers below 8 bits wrap around as wider ones do.

    `source` is the element type of `x`, which f4 and f6 need to be told from u8;
    `saturate` and `round_mode` are those of core.cast.
    """
    if x.is_complex() and target.kind != "complex":
        x = x.real
    if source is not None and source.is_minifloat:
        if source == target:
            return x
        x = decode(x.view(torch.uint8), source)
    if target.is_minifloat:
        return encode(x, target, saturate=saturate, round_mode=round_mode).view(TORCH[target.name])
    if target.is_integer and target.bits < 8:
        return _wrapped(x.to(torch.int64), target)
    if target.kind == "uint" and x.is_floating_point():
        whole = x.to(torch.float64).trunc()
        high = whole >= 2.0**63
        low_bits = torch.where(high, whole - 2.0**63, whole).to(torch.int64)
        return torch.where(high, low_bits ^ torch.iinfo(torch.int64).min, low_bits).to(TORCH[target.name])
    return x.to(TORCH[target.name])


def _wrapped(whole: torch.Tensor, target: DType) -> torch.Tensor:
    """64-bit integers modulo the range of a type below 8 bits."""
    count = 1 << target.bits
    if target.kind == "int":
        return ((whole + count // 2) % count - count // 2).to(torch.int8)
    return (whole % count).to(torch.uint8)


def bit_cast(x: torch.Tensor, source: DType, target: DType) -> torch.Tensor:
    """The bits of each element read as another element type of the same width."""
    if target.bits >= 8:
        return x.view(TORCH[target.name])
    patterns = x.to(torch.int64) % (1 << source.bits)
    return _wrapped(patterns, target) if target.is_integer else patterns.to(torch.uint8)


ACTIVATIONS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "none": lambda x, alpha: x,
    "relu": lambda x, alpha: F.relu(x),
    "relu6": lambda x, alpha: x.clamp(0, 6),
    "leaky_relu": lambda x, alpha: F.leaky_relu(x, alpha),
    "sigmoid": lambda x, alpha: torch.sigmoid(x),
    "tanh": lambda x, alpha: torch.tanh(x),
    "gelu": lambda x, alpha: F.gelu(x),
    "gelu_tanh": lambda x, alpha: F.gelu(x, approximate="tanh"),
    "silu": lambda x, alpha: F.silu(x),
    "hardswish": lambda x, alpha: F.hardswish(x),
    "hardsigmoid": lambda x, alpha: F.hardsigmoid(x),
}


def activate(x: torch.Tensor, act: str, alpha: float) -> torch.Tensor:
    """The activation `act` of `x`; `alpha` is the slope of leaky_relu."""
    return ACTIVATIONS[act](x, alpha)
