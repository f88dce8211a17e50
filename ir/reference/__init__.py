"""Reference semantics of every op on torch tensors, one module for each family.

Importing this package fills `plait.ir.reference.table.REFERENCES`.
"""

from plait.ir.reference import (
    carrier,
    complex,
    control,
    dynamic,
    elementwise,
    first_spikes,
    index,
    linalg,
    message,
    nn_activation,
    nn_conv,
    nn_linear,
    nn_norm,
    nn_pool,
    nn_window,
    prob,
    quant,
    reduce,
    shape,
    spike,
    spike_learning,
)
from plait.ir.reference.table import REFERENCES, Args, Context, reference
from plait.ir.reference.tensors import EdgeList

__all__ = [
    "REFERENCES",
    "Args",
    "Context",
    "EdgeList",
    "carrier",
    "complex",
    "control",
    "dynamic",
    "elementwise",
    "first_spikes",
    "index",
    "linalg",
    "message",
    "nn_activation",
    "nn_conv",
    "nn_linear",
    "nn_norm",
    "nn_pool",
    "nn_window",
    "prob",
    "quant",
    "reduce",
    "reference",
    "shape",
    "spike",
    "spike_learning",
]
