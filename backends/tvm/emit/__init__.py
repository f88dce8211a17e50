"""Emission of plait ops as tensor expressions, one file for each op family."""

from plait.backends.tvm.emit import (
    conv,
    elementwise,
    factor,
    first_spikes,
    fourier,
    host,
    index,
    linear,
    message,
    norm,
    orthogonal,
    pool,
    quant,
    random,
    reduce,
    sample,
    shape,
    spike,
    spike_code,
    spike_events,
    spike_learning,
    window,
)
from plait.backends.tvm.emit.table import EMISSIONS, Arguments, Emission, Emitter, Kind, Source, Stage, emit

_FAMILIES = (
    conv,
    elementwise,
    factor,
    first_spikes,
    fourier,
    host,
    index,
    linear,
    message,
    norm,
    orthogonal,
    pool,
    quant,
    random,
    reduce,
    sample,
    shape,
    spike,
    spike_code,
    spike_events,
    spike_learning,
    window,
)

__all__ = ["EMISSIONS", "Arguments", "Emission", "Emitter", "Kind", "Source", "Stage", "emit"]
