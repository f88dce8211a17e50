"""Lowering rules for ATen operators, one module per group; importing this registers them."""

from plait.frontends.pytorch.aten import (
    activation,
    attention,
    conv,
    creation,
    elementwise,
    index,
    linear,
    norm,
    pool,
    reduce,
    shape,
)

__all__ = [
    "activation",
    "attention",
    "conv",
    "creation",
    "elementwise",
    "index",
    "linear",
    "norm",
    "pool",
    "reduce",
    "shape",
]
