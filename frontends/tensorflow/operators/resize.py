"""Resampling of images."""

from __future__ import annotations

from typing import Literal

from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Operand
from plait.frontends.tensorflow.registry import lowers
from plait.ir import TensorType
from plait.ir import types as t
from plait.ir.ops import core, nn

Coordinates = Literal["half_pixel", "align_corners", "asymmetric"]


def _coordinates(call: Call) -> Coordinates:
    if call.flag("align_corners"):
        return "align_corners"
    return "half_pixel" if call.flag("half_pixel_centers") else "asymmetric"


@lowers("ResizeBilinear")
def resize_bilinear(call: Call) -> Operand:
    return _resized(call, "linear", _coordinates(call))


@lowers("ResizeBicubic")
def resize_bicubic(call: Call) -> Operand:
    """Half-pixel centres use Keys' kernel with a = -0.5, like the IR only by the letter `cubic`."""
    if _coordinates(call) != "align_corners" or tuple(call.dims(1, "the size")) != call.shape(0)[1:3]:
        raise call.unsupported(
            "bicubic resizing",
            remedy="resize with bilinear interpolation: TensorFlow's cubic kernel (a = -0.5, edges "
            "renormalised) differs from the one of the IR (a = -0.75)",
        )
    return call.operand(0)


@lowers("ResizeNearestNeighbor")
def resize_nearest(call: Call) -> Operand:
    """Half-pixel centres take floor((i + 0.5) * scale), which for a whole factor up is floor(i * scale)."""
    height, width = call.shape(0)[1:3]
    rows, columns = call.dims(1, "the size")
    mode = _coordinates(call)
    if mode == "half_pixel":
        whole = all(
            new % old == 0 if isinstance(new % old, int) else False
            for old, new in ((height, rows), (width, columns))
        )
        if whole:
            mode = "asymmetric"
    return _resized(call, "nearest", mode)


def _resized(call: Call, mode: Literal["nearest", "linear"], coordinates: Coordinates) -> Operand:
    rows, columns = call.dims(1, "the size")
    x = call.first(0)
    element = x.shaped.dtype
    if not element.is_float:
        x = call.cast(x, t.f32)
    y = call.emit(nn.Resize2d(x, size=(rows, columns), mode=mode, coordinates=coordinates))
    if mode == "nearest" and element != y.shaped.dtype:
        y = call.step(core.Cast(y, out=TensorType(element, y.shaped.shape)))
    return Operand.of_first(y)
