"""How IR values are held in torch, and the activations that ops fuse.

A dense tensor has the torch type of its element type; 4-bit integers are held in
a byte.  A quantised tensor is held as its stored integers (int8 or uint8), spikes
as bool, and a graph as an `EdgeList`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import torch
import torch.nn.functional as F

from plait.ir.types import DType, ShapedType

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
    "u8": torch.uint8,
    "u4": torch.uint8,
    "bool": torch.bool,
    "c64": torch.complex64,
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
    if any(stride < 0 for stride in array.strides) or not array.dtype.isnative:
        array = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        # torch warns that it cannot protect read-only memory; the interpreter never writes to it
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def convert(x: torch.Tensor, target: DType) -> torch.Tensor:
    """`x` in another element type; 4-bit integers wrap around as wider ones do."""
    if x.is_complex() and target.kind != "complex":
        x = x.real
    if target.name == "i4":
        return ((x.to(torch.int64) + 8) % 16 - 8).to(torch.int8)
    if target.name == "u4":
        return (x.to(torch.int64) % 16).to(torch.uint8)
    if target.kind == "uint" and x.is_floating_point():
        return x.to(torch.int64).to(torch.uint8)
    return x.to(TORCH[target.name])


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
