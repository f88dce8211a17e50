"""Element types of ONNX tensors and of the IR."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnx

from plait.ir import DType, LoweringError
from plait.ir import types as t

_ELEMENTS: dict[int, DType] = {
    onnx.TensorProto.FLOAT: t.f32,
    onnx.TensorProto.DOUBLE: t.f64,
    onnx.TensorProto.FLOAT16: t.f16,
    onnx.TensorProto.BFLOAT16: t.bf16,
    onnx.TensorProto.INT64: t.i64,
    onnx.TensorProto.INT32: t.i32,
    onnx.TensorProto.INT16: t.i16,
    onnx.TensorProto.INT8: t.i8,
    onnx.TensorProto.INT4: t.i4,
    onnx.TensorProto.INT2: t.i2,
    onnx.TensorProto.UINT64: t.u64,
    onnx.TensorProto.UINT32: t.u32,
    onnx.TensorProto.UINT16: t.u16,
    onnx.TensorProto.UINT8: t.u8,
    onnx.TensorProto.UINT4: t.u4,
    onnx.TensorProto.UINT2: t.u2,
    onnx.TensorProto.BOOL: t.boolean,
    onnx.TensorProto.COMPLEX64: t.c64,
    onnx.TensorProto.COMPLEX128: t.c128,
    onnx.TensorProto.FLOAT8E4M3FN: t.f8e4m3fn,
    onnx.TensorProto.FLOAT8E5M2: t.f8e5m2,
    onnx.TensorProto.FLOAT8E4M3FNUZ: t.f8e4m3fnuz,
    onnx.TensorProto.FLOAT8E5M2FNUZ: t.f8e5m2fnuz,
    onnx.TensorProto.FLOAT8E8M0: t.f8e8m0fnu,
    onnx.TensorProto.FLOAT6E2M3: t.f6e2m3fn,
    onnx.TensorProto.FLOAT6E3M2: t.f6e3m2fn,
    onnx.TensorProto.FLOAT4E2M1: t.f4e2m1fn,
}
_CODES = {element: code for code, element in _ELEMENTS.items()}


@lru_cache(maxsize=64)
def element_name(code: int) -> str:
    """ONNX's name of an element type, for messages."""
    return (
        str(onnx.TensorProto.DataType.Name(code)) if code in onnx.TensorProto.DataType.values() else str(code)
    )


def element_of(code: int, where: str) -> DType:
    """The IR element type of an ONNX one.  Raises LoweringError where the IR has none."""
    if code not in _ELEMENTS:
        raise LoweringError(
            f"element type {element_name(code)} has no counterpart in the IR",
            where=where,
            why=f"the IR has {', '.join(sorted(str(e) for e in _ELEMENTS.values()))}",
            remedy="convert the tensor to one of these types in the source model and export again",
        )
    return _ELEMENTS[code]


def code_of(element: DType) -> int:
    """The ONNX element type of an IR one."""
    return int(_CODES[element])


def array_of(tensor: onnx.TensorProto, where: str) -> tuple[np.ndarray, DType]:
    """The data of a tensor with its data inside, and its element type.

    Raises:
        LoweringError: the IR lacks the element type, or the data does not fill the shape.
    """
    element = element_of(tensor.data_type, where)
    try:
        array = onnx.numpy_helper.to_array(tensor)
        return array.astype(element.numpy, copy=False).reshape(tuple(tensor.dims)), element
    except (ValueError, TypeError) as error:
        raise LoweringError(
            f"the data of tensor '{tensor.name}' does not make {element}{list(tensor.dims)}",
            where=where,
            why=str(error),
            remedy="the file is damaged or was cut short; export the model again",
        ) from None
