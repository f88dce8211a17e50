"""Element types of the IR as ONNX tensor types."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx

from plait.backends.onnx.table import Inexpressible
from plait.ir import DType, QuantType, ShapedType, Type

_CODES = {
    "f64": onnx.TensorProto.DOUBLE,
    "f32": onnx.TensorProto.FLOAT,
    "f16": onnx.TensorProto.FLOAT16,
    "bf16": onnx.TensorProto.BFLOAT16,
    "i64": onnx.TensorProto.INT64,
    "i32": onnx.TensorProto.INT32,
    "i16": onnx.TensorProto.INT16,
    "i8": onnx.TensorProto.INT8,
    "i4": onnx.TensorProto.INT4,
    "i2": onnx.TensorProto.INT2,
    "u64": onnx.TensorProto.UINT64,
    "u32": onnx.TensorProto.UINT32,
    "u16": onnx.TensorProto.UINT16,
    "u8": onnx.TensorProto.UINT8,
    "u4": onnx.TensorProto.UINT4,
    "u2": onnx.TensorProto.UINT2,
    "bool": onnx.TensorProto.BOOL,
    "c64": onnx.TensorProto.COMPLEX64,
    "c128": onnx.TensorProto.COMPLEX128,
    "f8e4m3fn": onnx.TensorProto.FLOAT8E4M3FN,
    "f8e5m2": onnx.TensorProto.FLOAT8E5M2,
    "f8e4m3fnuz": onnx.TensorProto.FLOAT8E4M3FNUZ,
    "f8e5m2fnuz": onnx.TensorProto.FLOAT8E5M2FNUZ,
    "f8e8m0fnu": onnx.TensorProto.FLOAT8E8M0,
    "f4e2m1fn": onnx.TensorProto.FLOAT4E2M1,
}
#: Operator set that brought an element type, where that is later than 21.
_SINCE = {"f4e2m1fn": 23, "f8e8m0fnu": 24, "i2": 25, "u2": 25}
_BELOW_A_BYTE = {"i4": ml_dtypes.int4, "u4": ml_dtypes.uint4, "i2": ml_dtypes.int2, "u2": ml_dtypes.uint2}


def code_of(element: DType, opset: int) -> int:
    """ONNX's number of an element type.  Raises Inexpressible where the operator set has none."""
    if element.name not in _CODES or _SINCE.get(element.name, 0) > opset:
        raise Inexpressible(f"operator set {opset} has no element type {element}")
    return int(_CODES[element.name])


def element_of(type: Type) -> DType:
    """The element type of the ONNX tensor that holds a value; quantised values are stored integers."""
    if not isinstance(type, ShapedType):
        raise Inexpressible(f"ONNX has no values of type {type}")
    return type.dtype


def tensor_of(name: str, array: np.ndarray, type: ShapedType) -> onnx.TensorProto:
    """An initialiser."""
    if not isinstance(type, QuantType) and type.dtype.name in _BELOW_A_BYTE:
        array = array.astype(_BELOW_A_BYTE[type.dtype.name])
    return onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
