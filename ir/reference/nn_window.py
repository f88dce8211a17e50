"""Reference semantics of nn's windows over any number of axes, and of sampling at positions that are data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from plait.ir.ops import nn
from plait.ir.reference.nn_conv import split_pads
from plait.ir.reference.nn_pool import covered, fit
from plait.ir.reference.table import Args, Context, reference

MAX_POOL: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@reference(nn.MaxPoolIndices)
def max_pool_indices(op: nn.MaxPoolIndices, args: Args, ctx: Context) -> torch.Tensor:
    """Places among the padded elements, counted anew among the elements themselves."""
    (x,) = args
    spatial = len(op.kernel)
    sizes = ctx.shape(op.result.shaped)[2:]
    before, _ = split_pads(op.pad, spatial)
    real = x if x.is_floating_point() else x.to(torch.float64)
    padded = fit(real, before, covered(sizes, op.kernel, op.stride, op.dilation), -math.inf)
    _, rest = MAX_POOL[spatial](padded, op.kernel, op.stride, 0, op.dilation, return_indices=True)
    place, step = torch.zeros_like(rest), 1
    for axis in reversed(range(spatial)):
        width, size = padded.shape[2 + axis], x.shape[2 + axis]
        place = place + (rest % width - before[axis]).clamp(0, size - 1) * step
        rest, step = rest // width, step * size
    return place


@reference(nn.Fold)
def fold(op: nn.Fold, args: Args, ctx: Context) -> torch.Tensor:
    """Each kernel element adds its blocks to a strided part of the padded result."""
    (x,) = args
    batch, channels, *sizes = ctx.shape(op.result.shaped)
    before, after = split_pads(op.pad, len(op.kernel))
    blocks = tuple(ctx.size(dim) for dim in op.blocks())
    columns = x.reshape(batch, channels, *op.kernel, *blocks)
    extent = tuple(b + size + a for b, size, a in zip(before, sizes, after, strict=True))
    total = torch.zeros((batch, channels, *extent), dtype=x.dtype, device=x.device)
    lead = (slice(None), slice(None))
    for window in itertools.product(*(range(k) for k in op.kernel)):
        places = tuple(
            slice(k * d, k * d + (n - 1) * s + 1, s)
            for k, d, n, s in zip(window, op.dilation, blocks, op.stride, strict=True)
        )
        total[lead + places] += columns[lead + window]
    inner = tuple(slice(b, b + size) for b, size in zip(before, sizes, strict=True))
    return total[lead + inner]


@reference(nn.GridSample)
def grid_sample(op: nn.GridSample, args: Args, ctx: Context) -> torch.Tensor:
    """In f64 where positions are pixels or numbers are short; pixels as half-pixel coordinates."""
    x, grid = args
    real, positions = x, grid
    if op.coordinates == "pixels" or x.dtype in (torch.float16, torch.bfloat16):
        real, positions = x.double(), grid.double()
    if op.coordinates == "pixels":
        sizes = torch.tensor(x.shape[:1:-1], dtype=torch.float64, device=x.device)
        positions = (2 * positions + 1) / sizes - 1
    mode = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}[op.mode]
    aligned = op.coordinates == "align_corners"
    return F.grid_sample(real, positions, mode, op.padding, aligned).to(x.dtype)
