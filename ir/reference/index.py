"""Reference semantics of core's indexing, sorting and random ops.  Negative indices count from the end."""

from __future__ import annotations

import math

import torch

from plait.ir.ops import core
from plait.ir.reference import philox
from plait.ir.reference.table import Args, Context, reference
from plait.ir.reference.tensors import torch_dtype

REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def wrapped(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Indices counted from the front, as int64."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


@reference(core.Take)
def take(op: core.Take, args: Args, ctx: Context) -> torch.Tensor:
    """Slices along an axis."""
    x, indices = args
    axis = op.axis % x.dim()
    picked = x.index_select(axis, wrapped(indices, x.shape[axis]).reshape(-1))
    return picked.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@reference(core.GatherElements)
def gather_elements(op: core.GatherElements, args: Args, ctx: Context) -> torch.Tensor:
    """Elements picked along an axis."""
    x, indices = args
    return x.gather(op.axis, wrapped(indices, x.shape[op.axis]))


def flat_rows(shape: torch.Size, indices: torch.Tensor) -> torch.Tensor:
    """Row number of each index tuple (last axis of `indices`) among the leading axes of `shape`."""
    depth = indices.shape[-1]
    rows = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=indices.device)
    for axis in range(depth):
        rows = rows * shape[axis] + checked(wrapped(indices[..., axis], shape[axis]), shape[axis])
    return rows.reshape(-1)


def checked(indices: torch.Tensor, size: int) -> torch.Tensor:
    """The indices.  Raises IndexError when one is outside 0..size-1."""
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < size:
        raise IndexError(
            f"index {int(indices.min())} or {int(indices.max())} is out of range for size {size}"
        )
    return indices


@reference(core.GatherND)
def gather_nd(op: core.GatherND, args: Args, ctx: Context) -> torch.Tensor:
    """Slices picked by index tuples."""
    x, indices = args
    depth = indices.shape[-1]
    rows = x.reshape(math.prod(x.shape[:depth]), math.prod(x.shape[depth:]))
    return rows[flat_rows(x.shape, indices)].reshape((*indices.shape[:-1], *x.shape[depth:]))


def scattered(
    x: torch.Tensor, axis: int, indices: torch.Tensor, updates: torch.Tensor, reduce: str
) -> torch.Tensor:
    """A copy of `x` with `updates` written, or combined, along an axis."""
    if reduce == "none":
        return x.scatter(axis, indices, updates)
    return x.scatter_reduce(axis, indices, updates, REDUCE[reduce])


@reference(core.ScatterElements)
def scatter_elements(op: core.ScatterElements, args: Args, ctx: Context) -> torch.Tensor:
    """Elements written along an axis."""
    x, indices, updates = args
    return scattered(x, op.axis, wrapped(indices, x.shape[op.axis]), updates, op.reduce)


@reference(core.ScatterND)
def scatter_nd(op: core.ScatterND, args: Args, ctx: Context) -> torch.Tensor:
    """Slices written at index tuples."""
    x, indices, updates = args
    depth = indices.shape[-1]
    width = math.prod(x.shape[depth:])
    rows = flat_rows(x.shape, indices)
    picks = rows[:, None].expand(rows.shape[0], width)
    flat = x.reshape(math.prod(x.shape[:depth]), width)
    return scattered(flat, 0, picks, updates.reshape(rows.shape[0], width), op.reduce).reshape(x.shape)


@reference(core.TopK)
def top_k(op: core.TopK, args: Args, ctx: Context) -> tuple[torch.Tensor, torch.Tensor]:
    """The head of a stable sort, so that the first of equals comes first."""
    (x,) = args
    values, indices = x.sort(dim=op.axis, descending=op.largest, stable=True)
    count = ctx.size(op.k)
    return values.narrow(op.axis, 0, count), indices.narrow(op.axis, 0, count)


@reference(core.Sort)
def sort(op: core.Sort, args: Args, ctx: Context) -> tuple[torch.Tensor, torch.Tensor]:
    """A stable sort."""
    values, indices = args[0].sort(dim=op.axis, descending=op.descending, stable=True)
    return values, indices


@reference(core.Random)
def random(op: core.Random, args: Args, ctx: Context) -> torch.Tensor:
    """Numbers that depend on the seed and on their row-major place only."""
    draw = philox.uniform if op.distribution == "uniform" else philox.normal
    return draw(ctx.shape(op.out), op.seed, torch_dtype(op.out)).to(ctx.device)
