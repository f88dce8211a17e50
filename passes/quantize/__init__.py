"""Quantisation: schemes, selection, calibration, post-training methods, training and integer lowering."""

from plait.passes.quantize.quantized import Quantized
from plait.passes.quantize.scheme import (
    INT4_WEIGHT_ONLY,
    INT8,
    INT8_WEIGHT_ONLY,
    Grid,
    OpScheme,
    Scheme,
)
from plait.passes.quantize.select import Rule

__all__ = [
    "INT4_WEIGHT_ONLY",
    "INT8",
    "INT8_WEIGHT_ONLY",
    "Grid",
    "OpScheme",
    "Quantized",
    "Rule",
    "Scheme",
]
