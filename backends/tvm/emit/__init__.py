"""Emission of plait ops as tensor expressions, one file for each op family."""

from plait.backends.tvm.emit import (
    conv,
    elementwise,
    index,
    linear,
    message,
    norm,
    pool,
    quant,
    reduce,
    shape,
    spike,
)
from plait.backends.tvm.emit.table import EMISSIONS, Arguments, Emission, Emitter, Kind, Source, Stage, emit

_FAMILIES = (conv, elementwise, index, linear, message, norm, pool, quant, reduce, shape, spike)

__all__ = ["EMISSIONS", "Arguments", "Emission", "Emitter", "Kind", "Source", "Stage", "emit"]
