"""plait's graph IR: one SSA graph of typed values.

Types, values, ops, graph, text and verifier are the core; the interpreter, cost
rules, memory plan, archive, diff and analyses read it and change no op.
"""

from plait.ir.dims import Dim, IntLike
from plait.ir.errors import (
    CompileError,
    InputError,
    LoweringError,
    PlaitError,
    PredictError,
    VerifyError,
)
from plait.ir.graph import DimRange, Graph
from plait.ir.loc import Loc, Origin
from plait.ir.op import REGISTRY, Op, op
from plait.ir.region import Region
from plait.ir.text.parser import parse
from plait.ir.text.printer import print_graph
from plait.ir.types import (
    DType,
    GraphType,
    QuantType,
    ShapedType,
    SpikeType,
    TensorType,
    Type,
    parse_type,
)
from plait.ir.value import Constant, Value

__all__ = [
    "REGISTRY",
    "CompileError",
    "Constant",
    "DType",
    "Dim",
    "DimRange",
    "Graph",
    "GraphType",
    "InputError",
    "IntLike",
    "Loc",
    "LoweringError",
    "Op",
    "Origin",
    "PlaitError",
    "PredictError",
    "QuantType",
    "Region",
    "ShapedType",
    "SpikeType",
    "TensorType",
    "Type",
    "Value",
    "VerifyError",
    "op",
    "parse",
    "parse_type",
    "print_graph",
]
