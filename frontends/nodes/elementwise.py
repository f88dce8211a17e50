"""Elementwise operators that ONNX and TensorFlow know under one name, with one meaning."""

from __future__ import annotations

from typing import Any

from plait.ir.ops import core

UNARY: dict[str, Any] = {
    "Abs": core.Abs,
    "Acos": core.Acos,
    "Acosh": core.Acosh,
    "Asin": core.Asin,
    "Asinh": core.Asinh,
    "Atan": core.Atan,
    "Atanh": core.Atanh,
    "BitwiseNot": core.Not,
    "Ceil": core.Ceil,
    "Cos": core.Cos,
    "Cosh": core.Cosh,
    "Erf": core.Erf,
    "Exp": core.Exp,
    "Floor": core.Floor,
    "Log": core.Log,
    "Neg": core.Neg,
    "Reciprocal": core.Reciprocal,
    "Round": core.Round,
    "Sign": core.Sign,
    "Sin": core.Sin,
    "Sinh": core.Sinh,
    "Sqrt": core.Sqrt,
    "Tan": core.Tan,
}
BINARY: dict[str, Any] = {
    "Add": core.Add,
    "BitwiseAnd": core.And,
    "BitwiseOr": core.Or,
    "BitwiseXor": core.Xor,
    "Div": core.Div,
    "Equal": core.Eq,
    "Greater": core.Gt,
    "Less": core.Lt,
    "Mul": core.Mul,
    "Sub": core.Sub,
}
