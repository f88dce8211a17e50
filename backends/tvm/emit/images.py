"""Which convolutions and poolings run as loops over channels-last images, see `emit.cpu`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from plait.backends.targets import CpuTarget
from plait.backends.tvm.emit.cpu.tiles import chosen_tile
from plait.backends.tvm.emit.cpu.window import Window
from plait.backends.tvm.emit.cpu.winograd import TRANSFORMS, Winograd, choose_transforms
from plait.backends.tvm.emit.table import Arguments, Emitter, Packing
from plait.ir import Dim, TensorType

_ZERO = tirx.IntImm("int64", 0)
#: Images in a batch whose size only a run shows, when transforms are chosen.
_BATCH = 4


def transformed(
    op: Any, args: Arguments, emitter: Emitter, pads: Sequence[tuple[int, int]]
) -> te.Tensor | None:
    """The sums of a 3 x 3 convolution through Winograd's transforms, where they pay; else None."""
    target = emitter.target
    if not isinstance(target, CpuTarget) or not target.winograd or not _is_plain(op):
        return None
    n, _, *size = op.result.type.shape
    channels_out, channels_in = map(int, op.w.type.shape[:2])
    if any(isinstance(dim, Dim) for dim in (*size, *op.x.type.shape[2:])) or channels_in % target.lanes:
        return None
    images = _BATCH if isinstance(n, Dim) else int(n)
    if emitter.choice is not None:
        transforms = TRANSFORMS.get(emitter.choice.transforms)
    else:
        area = (int(size[0]), int(size[1]))
        transforms = choose_transforms(target, images, (channels_in, channels_out), area)
    if transforms is None:
        return None
    tiles = images * -(-int(size[0]) // transforms.m) * -(-int(size[1]) // transforms.m)
    tile, _ = chosen_tile(emitter, tiles, channels_out, channels_in)
    blocks = -(-channels_out // tile.lanes)
    shape = (transforms.size**2, blocks, channels_in, tile.lanes)
    weight = emitter.packed(op.w, shape, transforms.packing(tile.lanes))
    sums = te.compute(
        emitter.shape(op.result.type.shape),
        lambda b, o, y, x: args.x(b, _ZERO, y, x) * weight(_ZERO, _ZERO, _ZERO, _ZERO),
        name="conv",
    )
    emitter.products[sums.op] = Winograd(
        sums=sums,
        transforms=transforms,
        tile=tile,
        size=(int(op.x.type.shape[2]), int(op.x.type.shape[3])),
        channels=(channels_in, channels_out),
        pad=(pads[0][0], pads[1][0]),
        read=lambda b, c, y, x: args.x(b, c, y, x),
        weight=lambda place, block, c, lane: weight(place, block, c, lane),
    )
    return sums


def _is_plain(op: Any) -> bool:
    """Whether an op is a 3 x 3 convolution of stride 1 in f32."""
    kind = op.x.type
    return (
        isinstance(kind, TensorType)
        and kind.dtype.name == "f32"
        and op.w.type.shape[2:] == (3, 3)
        and tuple(op.stride) == (1, 1)
        and tuple(op.dilation) == (1, 1)
        and op.groups == 1
    )


def _keeps_channels_last(op: Any, emitter: Emitter) -> bool:
    """Whether vectors of channels can be read and written as they lie in memory."""
    target, kind = emitter.target, op.x.type
    return (
        isinstance(target, CpuTarget)
        and isinstance(kind, TensorType)
        and kind.dtype.name == "f32"
        and kind.rank == 4
        and emitter.layouts.get(op.x) == (0, 2, 3, 1)
        and not isinstance(kind.shape[1], Dim)
        and kind.shape[1] % target.lanes == 0
    )


def window(
    op: Any,
    emitter: Emitter,
    x: te.Tensor,
    pads: Sequence[tuple[int, int]],
    start: Expr,
    combine: Callable[[Expr, Expr, Expr, tuple[Expr, Expr]], Expr],
    kernel: tuple[int, int],
    beside: Expr | None = None,
) -> te.Tensor | None:
    """The reduction of each window of an image; None where it does not lie channels last.

    Args:
        combine: (found, element, channel, place in the window) -> found.
        beside: an expression over what `combine` reads beside `x`.
    """
    if not _keeps_channels_last(op, emitter):
        return None
    assert isinstance(emitter.target, CpuTarget)
    height, width = emitter.shape(op.x.type.shape[2:])

    def stand_in(n: Expr, c: Expr, y: Expr, x_: Expr) -> Expr:
        found = x(n, c, y, x_)
        return found if beside is None else found * beside

    sums = te.compute(emitter.shape(op.result.type.shape), stand_in, name="window")
    emitter.products[sums.op] = Window(
        sums=sums,
        width=emitter.target.lanes,
        size=(height, width),
        kernel=kernel,
        stride=tuple(op.stride),
        dilation=tuple(getattr(op, "dilation", (1, 1))),
        pad=(pads[0][0], pads[1][0]),
        start=start,
        read=lambda n, c, y, x_: x(n, c, y, x_),
        combine=combine,
    )
    return sums


def depthwise_window(
    op: Any, args: Arguments, emitter: Emitter, pads: Sequence[tuple[int, int]]
) -> te.Tensor | None:
    """A convolution of each channel on its own."""
    if not emitter.packs(op.w) or not _keeps_channels_last(op, emitter):
        return None
    kernel = (int(op.w.type.shape[2]), int(op.w.type.shape[3]))
    layout = Packing("depthwise", lambda array: np.ascontiguousarray(np.moveaxis(array[:, 0], 0, -1)))
    weight = emitter.packed(op.w, (*kernel, int(op.w.type.shape[0])), layout)
    return window(
        op,
        emitter,
        args.x,
        pads,
        tirx.const(0, "float32"),
        lambda found, element, c, k: found + element * weight(*k, c),
        kernel,
        beside=weight(_ZERO, _ZERO, _ZERO),
    )


__all__ = ["depthwise_window", "transformed", "window"]
