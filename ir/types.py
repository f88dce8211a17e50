"""Types of values: dense, quantised and spike tensors, and message-passing graphs.

Types are immutable and compare structurally.  Their text is the one of the IR
dump, and `parse_type(str(t)) == t`:

    f32[B,3,224,224]                         dense
    qi8<0.0236, zp=-128>[B,16,32,32]         quantised per tensor
    qi8<@conv1.w.scale, axis=0>[16,3,3,3]    per axis, scales in a constant
    qi4<@fc.w.scale, axis=1, group=128>[..]  per group along an axis
    spike<0.084>[T,B,256]                    binary events, estimated density
    graph<N, E, csr, i32>                    a graph of N nodes and E edges
    graph<N, E, coo, i64, src=M>             edges from M source nodes to N others

Element types of 8 bits and more are held as themselves.  i2, u2, i4 and u4 are held
one element a byte, as int8 or uint8 values; f4e2m1fn, f6e2m3fn and f6e3m2fn one
element a byte, as a bit pattern in its low bits.  The floats of 8 bits and fewer
(minifloats, `plait.ir.minifloat`) are for storage: ops that move elements, casts and
bit casts take them, arithmetic wants a cast.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import ml_dtypes
import numpy as np

from plait.ir.dims import IntLike, evaluate, parse_dim, product, substitute, symbols_of
from plait.ir.errors import did_you_mean

Shape = tuple[IntLike, ...]


@dataclass(frozen=True)
class DType:
    """Element type: name as printed, width in bits and kind."""

    name: str
    bits: int
    kind: Literal["float", "int", "uint", "bool", "complex"]

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name

    @property
    def numpy(self) -> np.dtype:
        """The numpy dtype that stores one element (types below 8 bits are stored in a byte)."""
        return _NUMPY[self.name]

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def is_minifloat(self) -> bool:
        """Whether it is a float of 8 bits or fewer, which is stored and moved but not computed with."""
        return self.kind == "float" and self.bits <= 8


f64 = DType("f64", 64, "float")
f32 = DType("f32", 32, "float")
f16 = DType("f16", 16, "float")
bf16 = DType("bf16", 16, "float")
i64 = DType("i64", 64, "int")
i32 = DType("i32", 32, "int")
i16 = DType("i16", 16, "int")
i8 = DType("i8", 8, "int")
i4 = DType("i4", 4, "int")
i2 = DType("i2", 2, "int")
u64 = DType("u64", 64, "uint")
u32 = DType("u32", 32, "uint")
u16 = DType("u16", 16, "uint")
u8 = DType("u8", 8, "uint")
u4 = DType("u4", 4, "uint")
u2 = DType("u2", 2, "uint")
boolean = DType("bool", 8, "bool")
c64 = DType("c64", 64, "complex")
c128 = DType("c128", 128, "complex")
f8e4m3fn = DType("f8e4m3fn", 8, "float")
f8e5m2 = DType("f8e5m2", 8, "float")
f8e4m3fnuz = DType("f8e4m3fnuz", 8, "float")
f8e5m2fnuz = DType("f8e5m2fnuz", 8, "float")
f8e8m0fnu = DType("f8e8m0fnu", 8, "float")
f6e2m3fn = DType("f6e2m3fn", 6, "float")
f6e3m2fn = DType("f6e3m2fn", 6, "float")
f4e2m1fn = DType("f4e2m1fn", 4, "float")

DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        *(f64, f32, f16, bf16, i64, i32, i16, i8, i4, i2, u64, u32, u16, u8, u4, u2, boolean, c64, c128),
        *(f8e4m3fn, f8e5m2, f8e4m3fnuz, f8e5m2fnuz, f8e8m0fnu, f6e2m3fn, f6e3m2fn, f4e2m1fn),
    )
}
_NUMPY: dict[str, np.dtype] = {
    "f64": np.dtype(np.float64),
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "i64": np.dtype(np.int64),
    "i32": np.dtype(np.int32),
    "i16": np.dtype(np.int16),
    "i8": np.dtype(np.int8),
    "i4": np.dtype(np.int8),
    "i2": np.dtype(np.int8),
    "u64": np.dtype(np.uint64),
    "u32": np.dtype(np.uint32),
    "u16": np.dtype(np.uint16),
    "u8": np.dtype(np.uint8),
    "u4": np.dtype(np.uint8),
    "u2": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
    "c64": np.dtype(np.complex64),
    "c128": np.dtype(np.complex128),
    "f8e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "f8e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "f8e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "f8e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "f8e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
    "f6e2m3fn": np.dtype(ml_dtypes.float6_e2m3fn),
    "f6e3m2fn": np.dtype(ml_dtypes.float6_e3m2fn),
    "f4e2m1fn": np.dtype(ml_dtypes.float4_e2m1fn),
}
_FROM_NUMPY: dict[np.dtype, DType] = {
    _NUMPY[name]: d for name, d in DTYPES.items() if name not in ("i4", "u4", "i2", "u2")
}


def dtype_of(array_dtype: np.dtype) -> DType:
    """The element type of a numpy dtype.  Raises ValueError where the IR has none."""
    try:
        return _FROM_NUMPY[np.dtype(array_dtype)]
    except KeyError:
        raise ValueError(f"numpy dtype {array_dtype} has no IR element type") from None


class Type:
    """Base of all types."""

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the symbolic dims in the type."""
        return frozenset().union(*(symbols_of(dim) for dim in self._dims()))

    def _dims(self) -> Shape:
        return ()

    def map_dims(self, change: Callable[[IntLike], IntLike]) -> Type:
        """The type with every dim replaced by `change(dim)`."""
        return self

    def substitute(self, environment: Mapping[str, IntLike]) -> Type:
        """The type with dim symbols replaced."""
        return self.map_dims(lambda dim: substitute(dim, environment))


class ShapedType(Type):
    """Base of the tensor types; `shape` is a tuple of ints and dims, `dtype` the element type."""

    shape: Shape

    @property
    def dtype(self) -> DType:
        raise AttributeError(f"{type(self).__name__} has no element type")

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def element_bits(self) -> int:
        """Bits that one element takes in memory traffic."""
        return self.dtype.bits

    @property
    def count(self) -> IntLike:
        """Number of elements."""
        return product(self.shape)

    def bytes_at(self, environment: Mapping[str, int]) -> int:
        """Bytes of the tensor under dim values, sub-byte elements packed."""
        return (evaluate(self.count, environment) * self.element_bits + 7) // 8

    def _dims(self) -> Shape:
        return self.shape

    def with_shape(self, shape: Shape) -> ShapedType:
        """The same element encoding with another shape."""
        return replace(self, shape=shape)  # type: ignore[type-var]  # every subclass is a dataclass

    def map_dims(self, change: Callable[[IntLike], IntLike]) -> ShapedType:
        return self.with_shape(tuple(change(dim) for dim in self.shape))

    def _shape_text(self) -> str:
        return "[" + ",".join(map(str, self.shape)) + "]"


@dataclass(frozen=True)
class TensorType(ShapedType):
    """A dense tensor."""

    element: DType
    shape: Shape

    @property
    def dtype(self) -> DType:
        return self.element

    def __str__(self) -> str:
        return f"{self.element.name}{self._shape_text()}"


@dataclass(frozen=True)
class QuantType(ShapedType):
    """An affine-quantised tensor: real = scale * (stored - zero_point).

    Args:
        bits: 2..8, the logical width.
        signed: two's complement or unsigned.
        scale: a number, or the name of a constant that holds one scale per slice or group.
        zero_point: a number, or the name of a constant.
        axis: the axis that a referenced scale runs along; None per tensor.
        group: number of neighbouring elements along `axis` that share a scale.
    """

    bits: int
    signed: bool
    scale: float | str
    shape: Shape
    zero_point: int | str = 0
    axis: int | None = None
    group: int | None = None

    @property
    def dtype(self) -> DType:
        """The byte-wide integer that stores an element in memory."""
        return i8 if self.signed else u8

    @property
    def element_bits(self) -> int:
        return self.bits

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest stored integer."""
        if self.signed:
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1

    @property
    def references(self) -> tuple[str, ...]:
        """Names of the constants that the type refers to."""
        return tuple(p for p in (self.scale, self.zero_point) if isinstance(p, str))

    def __str__(self) -> str:
        def parameter(value: float | int | str) -> str:
            return f"@{value}" if isinstance(value, str) else repr(value)

        parts = [parameter(self.scale)]
        if self.zero_point != 0:
            parts.append(f"zp={parameter(self.zero_point)}")
        if self.axis is not None:
            parts.append(f"axis={self.axis}")
        if self.group is not None:
            parts.append(f"group={self.group}")
        sign = "i" if self.signed else "u"
        return f"q{sign}{self.bits}<{', '.join(parts)}>{self._shape_text()}"


@dataclass(frozen=True)
class SpikeType(ShapedType):
    """Binary events, one bit each.  `density` is an estimate and no part of type equality."""

    shape: Shape
    density: float | None = field(default=None, compare=False)

    @property
    def dtype(self) -> DType:
        return boolean

    @property
    def element_bits(self) -> int:
        return 1

    def __str__(self) -> str:
        density = "" if self.density is None else f"<{self.density!r}>"
        return f"spike{density}{self._shape_text()}"


@dataclass(frozen=True)
class GraphType(Type):
    """A message-passing topology: `edges` directed edges among `nodes` nodes, indices of `index`.

    `coo` holds source and destination of each edge; `csr` holds row pointers by
    destination, sources, and each edge's number in the original order.  Where
    `sources` is given the graph is bipartite: edges start at that many nodes of
    another kind, and `nodes` counts destinations only.
    """

    nodes: IntLike
    edges: IntLike
    format: Literal["coo", "csr"] = "csr"
    index: DType = i32
    sources: IntLike | None = None

    def ends(self, side: str) -> IntLike:
        """Number of nodes at the `src` or `dst` end of the edges."""
        return self.nodes if side == "dst" or self.sources is None else self.sources

    def _dims(self) -> Shape:
        return (self.nodes, self.edges, *(() if self.sources is None else (self.sources,)))

    def map_dims(self, change: Callable[[IntLike], IntLike]) -> GraphType:
        sources = None if self.sources is None else change(self.sources)
        return replace(self, nodes=change(self.nodes), edges=change(self.edges), sources=sources)

    def bytes_at(self, environment: Mapping[str, int]) -> int:
        """Bytes of the index arrays under dim values."""
        nodes, edges = evaluate(self.nodes, environment), evaluate(self.edges, environment)
        entries = 2 * edges if self.format == "coo" else nodes + 1 + 2 * edges
        return entries * self.index.bits // 8

    def __str__(self) -> str:
        sources = "" if self.sources is None else f", src={self.sources}"
        return f"graph<{self.nodes}, {self.edges}, {self.format}, {self.index}{sources}>"


# -- text ---------------------------------------------------------------------
#: Extent of a type inside a line; what it means is left to `parse_type`.
TYPE_PATTERN = re.compile(r"[A-Za-z]\w*(?:<[^<>]*>)?(?:\[[^\[\]]*\])?")
_TYPE = re.compile(r"([A-Za-z]\w*)(?:<([^<>]*)>)?(?:\[([^\[\]]*)\])?")
_NAME = re.compile(r"@[\w.$/-]+")


@lru_cache(maxsize=16384)
def parse_type(text: str) -> Type:
    """Parse a type.  Raises ValueError saying which part is wrong."""
    match = _TYPE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"'{text}' is no type; a type looks like f32[B,3,224,224]")
    head, parameters, shape_text = match.groups()
    if head == "graph":
        return _parse_graph(text, parameters, shape_text)
    quantised = re.fullmatch(r"q([iu])([2-8])", head)
    if shape_text is None:
        if head not in DTYPES and head != "spike" and not quantised:
            raise ValueError(_unknown(head))
        raise ValueError(f"type '{text}' lacks a shape; a scalar is written {text}[]")
    shape = tuple(parse_dim(part.strip()) for part in _split(shape_text)) if shape_text.strip() else ()
    if head == "spike":
        return SpikeType(shape, _density(text, parameters))
    if quantised:
        return _parse_quantised(text, quantised[1] == "i", int(quantised[2]), parameters, shape)
    if head not in DTYPES:
        raise ValueError(_unknown(head))
    if parameters is not None:
        raise ValueError(f"element type {head} takes no <...> parameters")
    return TensorType(DTYPES[head], shape)


def _unknown(head: str) -> str:
    names = [*DTYPES, "spike", "graph", "qi8", "qu8", "qi4"]
    return f"unknown element type '{head}'{did_you_mean(head, names)}"


def _split(text: str) -> list[str]:
    """Split at commas outside parentheses, so that `max(N, 4)` stays whole."""
    if "(" not in text:
        return text.split(",")
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


def _density(text: str, parameters: str | None) -> float | None:
    if parameters is None:
        return None
    try:
        density = float(parameters)
    except ValueError:
        raise ValueError(f"spike density in '{text}' is no number") from None
    if not 0.0 <= density <= 1.0:
        raise ValueError(f"spike density {density} in '{text}' is outside 0..1")
    return density


def _parse_graph(text: str, parameters: str | None, shape_text: str | None) -> GraphType:
    parts = [part.strip() for part in _split(parameters or "")]
    sources = parts.pop()[4:] if len(parts) == 5 and parts[4].startswith("src=") else None
    if len(parts) != 4 or shape_text is not None:
        raise ValueError(f"'{text}' is no graph type; it is written graph<N, E, csr, i32>")
    nodes, edges, layout, index = parts
    if layout not in ("coo", "csr"):
        raise ValueError(f"graph format '{layout}' is neither coo nor csr")
    if index not in ("i32", "i64"):
        raise ValueError(f"graph index type '{index}' is neither i32 nor i64")
    starts = None if sources is None else parse_dim(sources)
    return GraphType(parse_dim(nodes), parse_dim(edges), layout, DTYPES[index], starts)  # type: ignore[arg-type]


def _parse_quantised(text: str, signed: bool, bits: int, parameters: str | None, shape: Shape) -> QuantType:
    parts = [part.strip() for part in (parameters or "").split(",")]

    def reference_or(kind: type[int] | type[float], word: str) -> str | float:
        if _NAME.fullmatch(word):
            return word[1:]
        try:
            return kind(word)
        except ValueError:
            raise ValueError(f"'{word}' in '{text}' is neither a number nor a constant") from None

    if not parts[0]:
        raise ValueError(f"'{text}' lacks a scale; it is written q{'i' if signed else 'u'}{bits}<0.02>[..]")
    options: dict[str, str] = {}
    for part in parts[1:]:
        key, equals, word = part.partition("=")
        if not equals or key.strip() not in ("zp", "axis", "group"):
            raise ValueError(f"'{part}' in '{text}' is none of zp=, axis=, group=")
        options[key.strip()] = word.strip()
    integers = {}
    for key in ("axis", "group"):
        given = options.get(key)
        if given is not None and not given.isdigit():
            raise ValueError(f"{key}={given} in '{text}' is no whole number")
        integers[key] = None if given is None else int(given)
    zero_point = reference_or(int, options.get("zp", "0"))
    scale = reference_or(float, parts[0])
    return QuantType(bits, signed, scale, shape, zero_point, integers["axis"], integers["group"])  # type: ignore[arg-type]
