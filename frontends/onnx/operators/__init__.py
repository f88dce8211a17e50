"""Lowering rules by operator group.  Importing this package registers all of them."""

from plait.frontends.onnx.operators import (
    activation,
    contrib,
    conv,
    creation,
    einsum,
    elementwise,
    index,
    linear,
    norm,
    pool,
    quant,
    reduce,
    resize,
    shape,
    slicing,
)

__all__ = [
    "activation",
    "contrib",
    "conv",
    "creation",
    "einsum",
    "elementwise",
    "index",
    "linear",
    "norm",
    "pool",
    "quant",
    "reduce",
    "resize",
    "shape",
    "slicing",
]
