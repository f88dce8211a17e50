"""Reference semantics of nn's convolutions, dense and quantised."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from plait.ir.ops import nn
from plait.ir.reference.quantised import contract
from plait.ir.reference.table import Context, MixedArgs, reference

CONVOLUTION: dict[int, Callable[..., torch.Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Callable[..., torch.Tensor]] = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


def split_pads(pad: tuple[int, ...], spatial: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Leading and trailing pad of each spatial axis."""
    return tuple(pad[:spatial]), tuple(pad[spatial:]) or tuple(pad[:spatial])


def pad_axes(
    x: torch.Tensor, before: tuple[int, ...], after: tuple[int, ...], value: float = 0.0
) -> torch.Tensor:
    """Pads of the trailing axes; a negative one crops."""
    widths = [w for sides in zip(reversed(before), reversed(after), strict=True) for w in sides]
    return F.pad(x, widths, value=value) if any(widths) else x


@reference(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def convolution(op: nn.Conv1d | nn.Conv2d | nn.Conv3d, args: MixedArgs, ctx: Context) -> torch.Tensor:
    """Convolution; uneven pads are added first.  A pad of a quantised operand is its zero point."""
    before, after = split_pads(op.pad, op.spatial)
    function = CONVOLUTION[op.spatial]

    def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        if before == after:
            return function(x, w, None, op.stride, before, op.dilation, op.groups)
        return function(pad_axes(x, before, after), w, None, op.stride, 0, op.dilation, op.groups)

    types = (op.x.shaped, op.w.shaped)
    x, w, b = args
    return contract(op, (x, w, b), types, ctx, product, output_axis=0, result_axis=-1 - op.spatial)


@reference(nn.ConvTranspose2d, nn.ConvTranspose3d)
def conv_transpose(
    op: nn.ConvTranspose2d | nn.ConvTranspose3d, args: MixedArgs, ctx: Context
) -> torch.Tensor:
    """The whole result of the transposed convolution, from which pads are cropped."""
    before, after = split_pads(op.pad, op.spatial)
    crop = tuple(-side for side in before)
    extend = tuple(extra - side for extra, side in zip(op.output_pad, after, strict=True))
    function = TRANSPOSED[op.spatial]

    def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        whole = function(x, w, None, op.stride, 0, 0, op.groups, op.dilation)
        return pad_axes(whole, crop, extend)

    types = (op.x.shaped, op.w.shaped)
    x, w, b = args
    return contract(op, (x, w, b), types, ctx, product, output_axis=1, result_axis=-1 - op.spatial)
