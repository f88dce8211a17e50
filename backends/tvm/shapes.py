"""Dims and element types of the IR as TVM expressions and names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import tirx
from tvm.ir import Expr
from tvm.ir.prim.expr import LShift, RShift

from plait.ir import CompileError, Dim, DType, GraphType, IntLike, ShapedType, Type
from plait.ir.dims import maximum, minimum

_NAMES = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "i4": "int8",
    "i2": "int8",
    "u64": "uint64",
    "u32": "uint32",
    "u16": "uint16",
    "u8": "uint8",
    "u4": "uint8",
    "u2": "uint8",
    "bool": "bool",
}


def dtype_name(dtype: DType) -> str:
    """TVM's name of an element type.

    Integers below 8 bits are held in a byte, minifloats as their bit patterns.

    Raises CompileError for complex types.
    """
    if dtype.is_minifloat:
        return "uint8"
    if dtype.name not in _NAMES:
        raise CompileError(
            f"tensors of {dtype} cannot be compiled",
            why="no target has complex arithmetic",
            remedy="split them",
        )
    return _NAMES[dtype.name]


def to_expression(dim: IntLike, variables: Mapping[str, tirx.Var]) -> Expr:
    """A dim as a 64-bit integer expression over `variables`."""
    if not isinstance(dim, Dim):
        return tirx.IntImm("int64", dim)
    total: Expr | None = None
    for monomial, coefficient in sorted(dim.terms.items(), key=lambda item: str(item[0])):
        term: Expr | None = None
        for atom in monomial:
            factor: Expr
            if atom.operator:
                left, right = to_expression(atom.left, variables), to_expression(atom.right, variables)
                factor = _OPERATIONS[atom.operator](left, right)
            else:
                factor = variables[atom.name]
            term = factor if term is None else term * factor
        scale = tirx.IntImm("int64", coefficient)
        term = scale if term is None else (term if coefficient == 1 else term * scale)
        total = term if total is None else total + term
    assert total is not None  # a Dim has at least one term
    return total


_OPERATIONS = {"//": tirx.floordiv, "%": tirx.floormod, "min": tirx.min, "max": tirx.max}


def from_expression(expression: Expr) -> IntLike:
    """A TVM expression over variables as a dim.  Raises CompileError on an operation that dims lack."""
    if isinstance(expression, tirx.IntImm):
        return int(expression.value)
    if isinstance(expression, tirx.Var):
        return Dim.symbol(expression.name)
    if isinstance(expression, tirx.Cast):
        return from_expression(expression.value)
    for kind, function in _READ.items():
        if isinstance(expression, kind):
            return function(from_expression(expression.a), from_expression(expression.b))
    raise CompileError(f"{str(expression)[:80]} is no dim expression", why="a launch extent must be one")


_READ: dict[Any, Callable[[IntLike, IntLike], IntLike]] = {
    tirx.Add: lambda a, b: a + b,
    tirx.Sub: lambda a, b: a - b,
    tirx.Mul: lambda a, b: a * b,
    tirx.FloorDiv: lambda a, b: a // b,
    tirx.Div: lambda a, b: a // b,
    tirx.FloorMod: lambda a, b: a % b,
    tirx.Mod: lambda a, b: a % b,
    RShift: lambda a, b: a // 2 ** int(b),
    LShift: lambda a, b: a * 2 ** int(b),
    tirx.Min: minimum,
    tirx.Max: maximum,
}


def to_shape(dims: Sequence[IntLike], variables: Mapping[str, tirx.Var]) -> list[Expr]:
    """Each dim as an expression."""
    return [to_expression(dim, variables) for dim in dims]


def components(type: Type) -> list[tuple[tuple[IntLike, ...], str]]:
    """Shape and TVM element type of the arrays that hold a value.

    A tensor is one array.  A coo graph is one [2, E] array of sources and
    destinations; a csr graph is row pointers [N+1], sources [E] and edge numbers [E].
    """
    if isinstance(type, ShapedType):
        return [(type.shape, dtype_name(type.dtype))]
    assert isinstance(type, GraphType)
    index = dtype_name(type.index)
    if type.format == "coo":
        return [((2, type.edges), index)]
    return [((type.nodes + 1,), index), ((type.edges,), index), ((type.edges,), index)]
