"""GPTQ: weights are rounded column by column, and the columns to come make up for each error.

With the columns C that a layer reads, rounding W to W' costs ||W C - W' C||^2, whose Hessian
for every row of W is H = 2 C C^T.  Column i is rounded; its error, divided by the i-th diagonal
element of the Cholesky factor U of H^-1 = U^T U, is taken off the columns to its right in
proportion to row i of U, which is the least-squares answer (Frantar et al. 2022, arXiv 2210.17323,
algorithm 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from plait.ir import Constant, Graph, InputError
from plait.ir.reference.tensors import from_numpy
from plait.passes.quantize.calibrate import Item
from plait.passes.quantize.layers import (
    Layer,
    Rounding,
    WeightGrid,
    elementwise,
    round_in_order,
    stored_array,
)
from plait.passes.quantize.scheme import Grid, OpScheme, Scheme, grid_of_weight


def gptq(
    weight: np.ndarray,
    hessian: np.ndarray,
    scheme: Scheme,
    *,
    grid: Grid | None = None,
    damp: float = 0.01,
    block: int = 128,
    by_activation: bool = True,
) -> tuple[np.ndarray, Grid]:
    """Round a weight so that the output of its layer changes little.

    Args:
        weight: [outputs, ...] in floating point; with groups, the outputs of each lie together.
        hessian: C C^T up to a factor, [taps, taps] or [groups, taps, taps], where taps is the
            number of elements of a row of `weight`.
        scheme: of the weight; scales are those of the unrounded weight.
        grid: the grid to use; by default from the smallest to the largest element.
        damp: share of itself by which the diagonal grows.  The paper adds a share of its mean,
            which beside channels of large magnitude drowns all others.
        block: columns whose later corrections are made at once.
        by_activation: columns in descending order of the diagonal, else from the left.  As scales
            are fixed beforehand, the order costs nothing later.

    Returns:
        Stored integers of the shape of `weight`, and the grid.

    Raises InputError for a Hessian that does not fit or is not finite.
    """
    grid = grid_of_weight(scheme, weight) if grid is None else grid
    products = torch.from_numpy(np.asarray(hessian, np.float64))
    products = products.unsqueeze(0) if products.dim() == 2 else products
    groups = products.shape[0]
    wanted = (groups, int(np.prod(weight.shape[1:])), int(np.prod(weight.shape[1:])))
    if tuple(products.shape) != wanted or weight.shape[0] % groups:
        raise InputError(
            f"the Hessian is {list(hessian.shape)} and the weight {list(weight.shape)}",
            where="gptq",
            why="it has a row and a column for each element of a row of the weight, by group",
        )
    shape = (groups, weight.shape[0] // groups, wanted[1])
    matrix, scale, zero = (
        array.reshape(shape)
        for array in (torch.from_numpy(weight.astype(np.float64)), *elementwise(grid, weight.shape))
    )
    stored = gptq_matrix(
        matrix, products, scale, zero, scheme, damp=damp, block=block, by_activation=by_activation
    )
    return stored_array(stored.reshape(weight.shape), scheme), grid


def gptq_matrix(
    matrix: torch.Tensor,
    hessian: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor,
    scheme: Scheme,
    *,
    damp: float = 0.01,
    block: int = 128,
    by_activation: bool = True,
) -> torch.Tensor:
    """GPTQ on [groups, outputs, taps] in float64 with a scale and zero point for each element.

    Returns whole numbers in float64.  See `gptq` for the arguments.
    """
    if not bool(torch.isfinite(hessian).all()):
        raise InputError("the Hessian is not finite", where="gptq", remedy="check the calibration data")
    taps = matrix.shape[-1]
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    order = (
        diagonal.argsort(dim=-1, descending=True, stable=True)
        if by_activation
        else torch.arange(taps).expand(diagonal.shape)
    )
    columns = order.unsqueeze(1).expand(matrix.shape)
    w, s, z = (array.gather(-1, columns) for array in (matrix, scale, zero))
    picked = hessian.gather(-2, order.unsqueeze(-1).expand(hessian.shape))
    picked = picked.gather(-1, order.unsqueeze(-2).expand(hessian.shape))
    factor = _inverse_factor(picked, damp)
    w = w.clone()
    whole = torch.empty_like(w)
    low, high = scheme.range
    for start in range(0, taps, block):
        end = min(start + block, taps)
        errors = torch.zeros_like(w[..., start:end])
        for i in range(start, end):
            column = w[..., i]
            whole[..., i] = (torch.round(column / s[..., i]) + z[..., i]).clamp(low, high)
            rounded = (whole[..., i] - z[..., i]) * s[..., i]
            error = (column - rounded) / factor[:, i, i].unsqueeze(-1)
            w[..., i:end] -= error.unsqueeze(-1) * factor[:, i, i:end].unsqueeze(1)
            errors[..., i - start] = error
        w[..., end:] -= errors @ factor[:, start:end, end:]
    return torch.empty_like(whole).scatter_(-1, columns, whole)


def _inverse_factor(hessian: torch.Tensor, damp: float) -> torch.Tensor:
    """U, upper triangular, with U^T U the inverse of the damped Hessian, by group.

    Damping grows tenfold, up to doubling the diagonal, until the factors exist.
    """
    eye = torch.eye(hessian.shape[-1], dtype=hessian.dtype)
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    # A tap that is always zero has no say: with 1 on its diagonal it is rounded to the nearest.
    root = torch.where(diagonal == 0, 1.0, diagonal).clamp_min(0.0).sqrt()
    unit = hessian / (root.unsqueeze(-1) * root.unsqueeze(-2))  # with ones on the diagonal
    unit = unit + torch.diag_embed((diagonal == 0).to(hessian.dtype))
    while True:
        lower, failed = torch.linalg.cholesky_ex(unit + damp * eye)
        if not bool(failed.any()):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not bool(failed.any()):
                return upper / root.unsqueeze(-2)
        if damp >= 1.0:
            raise InputError(
                "the Hessian is not positive semi-definite",
                where="gptq",
                why="its Cholesky factor does not exist even when its diagonal is doubled",
                remedy="pass C C^T of the columns that the layer reads",
            )
        damp = min(max(10.0 * damp, 1e-4), 1.0)


class HessianRounding(Rounding):
    """GPTQ for one layer: adds up C C^T of what it sees, then rounds."""

    def __init__(
        self, layer: Layer, weight: Constant, grid: Grid, damp: float, block: int, by_activation: bool
    ) -> None:
        self.layer, self.grid = layer, grid
        self.real = from_numpy(weight.data.astype(np.float64))
        taps = layer.matrix(self.real).shape[-1]
        self.hessian = torch.zeros(layer.groups, taps, taps, dtype=torch.float64)
        self.options = {"damp": damp, "block": block, "by_activation": by_activation}

    def see(self, x: torch.Tensor, reference: torch.Tensor) -> None:
        for part in self.layer.chunks(x):
            columns = self.layer.columns(part).to(torch.float32)
            self.hessian += (columns @ columns.mT).cpu()

    def stored(self) -> np.ndarray:
        scale, zero = elementwise(self.grid, tuple(self.real.shape))
        matrices = (self.layer.matrix(array) for array in (self.real, scale, zero))
        matrix, scale, zero = matrices
        whole = gptq_matrix(matrix, self.hessian, scale, zero, self.grid.scheme, **self.options)  # type: ignore[arg-type]
        return stored_array(self.layer.weight(whole), self.grid.scheme)


def gptq_round(
    graph: Graph,
    schemes: Mapping[str, OpScheme],
    data: Iterable[Item],
    *,
    damp: float = 0.01,
    block: int = 128,
    by_activation: bool = True,
    weight_grid: WeightGrid = grid_of_weight,
    dims: Mapping[str, int] | None = None,
    limit: int | None = None,
) -> tuple[dict[str, Grid], dict[str, np.ndarray]]:
    """GPTQ for all layers of a graph whose weights are quantised, from front to back.

    Args:
        schemes: by name of the op.
        data: calibration batches, see `batches_of`.
        damp, block, by_activation: see `gptq`.
        weight_grid: makes the grid of each weight.

    Returns:
        Grids and stored integers by name of the op.

    Raises InputError as `round_in_order` does.
    """

    def make(layer: Layer, weight: Constant, grid: Grid) -> Rounding:
        return HessianRounding(layer, weight, grid, damp, block, by_activation)

    return round_in_order(graph, schemes, data, make, weight_grid=weight_grid, dims=dims, limit=limit)
