"""Element types, promotion and constant data between torch and the IR."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from plait.ir import types as t
from plait.ir.dims import Dim
from plait.ir.errors import LoweringError
from plait.ir.types import DType
from plait.ir.value import Value

_ELEMENT: dict[torch.dtype, DType] = {
    torch.float64: t.f64,
    torch.float32: t.f32,
    torch.float16: t.f16,
    torch.bfloat16: t.bf16,
    torch.int64: t.i64,
    torch.int32: t.i32,
    torch.int16: t.i16,
    torch.int8: t.i8,
    torch.uint8: t.u8,
    torch.bool: t.boolean,
    torch.complex64: t.c64,
    torch.complex128: t.c128,
    torch.uint64: t.u64,
    torch.uint32: t.u32,
    torch.uint16: t.u16,
    torch.float8_e4m3fn: t.f8e4m3fn,
    torch.float8_e5m2: t.f8e5m2,
    torch.float8_e4m3fnuz: t.f8e4m3fnuz,
    torch.float8_e5m2fnuz: t.f8e5m2fnuz,
    torch.float8_e8m0fnu: t.f8e8m0fnu,
}
_TORCH: dict[DType, torch.dtype] = {element: dtype for dtype, element in _ELEMENT.items()}


def element_type(dtype: torch.dtype) -> DType:
    """The IR element type of a torch dtype.  Raises LoweringError where the IR has none."""
    found = _ELEMENT.get(dtype)
    if found is None:
        raise LoweringError(
            f"tensors of {dtype} cannot be lowered",
            why=f"the IR has {', '.join(str(each).removeprefix('torch.') for each in _ELEMENT)}",
            remedy="cast to one of these in the model",
        )
    return found


def torch_type(element: DType) -> torch.dtype:
    """The torch dtype of an IR element type."""
    return _TORCH[element]


def promote(operands: Sequence[Value | Dim | float | int | bool]) -> DType:
    """The type in which torch computes an elementwise op on tensors, sizes and Python numbers.

    Tensors with axes outweigh those without, which outweigh numbers, within one
    kind (boolean, integer, floating).
    """

    def representative(operand: Value | Dim | float | int | bool) -> torch.Tensor | float | int | bool:
        if isinstance(operand, Value):
            kind = operand.shaped
            return torch.empty((1,) * kind.rank, dtype=torch_type(kind.dtype), device="meta")
        return 2 if isinstance(operand, Dim) else operand

    first, *rest = (representative(operand) for operand in operands)
    result = first
    for other in rest:
        shape = (1,) if any(isinstance(x, torch.Tensor) and x.ndim for x in (result, other)) else ()
        result = torch.empty(shape, dtype=torch.result_type(result, other), device="meta")
    if isinstance(result, torch.Tensor):
        return element_type(result.dtype)
    return t.boolean if isinstance(result, bool) else t.i64 if isinstance(result, int) else t.f32


def constant_array(tensor: torch.Tensor) -> np.ndarray:
    """A copy of the data of a tensor, so that later training does not reach the graph."""
    dense = tensor.detach().to("cpu").contiguous()
    element = element_type(dense.dtype)
    if element.numpy.isbuiltin != 1:
        plain = torch.int16 if element == t.bf16 else torch.uint8
        return dense.view(plain).numpy().copy().view(element.numpy).reshape(tuple(dense.shape))
    return dense.numpy().copy()
