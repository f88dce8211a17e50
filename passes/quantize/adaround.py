"""AdaRound: whether each weight is rounded down or up is learned, layer by layer.

With W' = s * clip(floor(W / s) + h(V)), h a sigmoid stretched to -0.1..1.1 and clipped to 0..1,

    minimise over V   ||a(W x + b) - a(W' x' + b)||^2 + lambda * sum(1 - |2 h(V) - 1|^beta),

where a is the layer's activation, x what it reads in the float graph and x' what it reads after
the layers before it were rounded.  beta falls, so that the second term first leaves h free and
then drives it to 0 or 1 (Nagel et al. 2020, arXiv 2004.10568, equations 21 to 25).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from plait.ir import Constant, Graph, InputError
from plait.ir.reference.tensors import activate, from_numpy
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

#: Ends of the stretched sigmoid.
_LOW, _HIGH = -0.1, 1.1


@dataclass(frozen=True)
class Learning:
    """How rounding is learned.

    Attributes:
        iterations: steps of Adam.
        rate: its learning rate.
        columns: output positions in a step.
        weight: of the term that drives h to 0 or 1, where the error is counted in units of
            the error of rounding to the nearest, and the term is a mean over weights.
        beta: its exponent at the end of the warm-up, and at the end.
        warm_up: share of the iterations without the term.
        seed: of the order of columns.
    """

    iterations: int = 1000
    rate: float = 0.01
    columns: int = 256
    weight: float = 10.0
    beta: tuple[float, float] = (20.0, 2.0)
    warm_up: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.columns < 1 or not 0.0 <= self.warm_up < 1.0:
            raise InputError(
                f"iterations={self.iterations}, columns={self.columns}, warm_up={self.warm_up}",
                where="Learning",
                why="the first two are at least 1 and the third lies in 0..1, below 1",
            )

    def beta_at(self, iteration: int) -> float | None:
        """The exponent, which falls along half a cosine; None during the warm-up."""
        start = self.warm_up * self.iterations
        if iteration < start:
            return None
        share = (iteration - start) / max(self.iterations - start, 1.0)
        first, last = self.beta
        return last + 0.5 * (first - last) * (1.0 + math.cos(math.pi * share))


def stretched(v: torch.Tensor) -> torch.Tensor:
    """h(V) = clip(sigmoid(V) * 1.2 - 0.1, 0, 1), the rectified sigmoid (equation 23)."""
    return (torch.sigmoid(v) * (_HIGH - _LOW) + _LOW).clamp(0.0, 1.0)


def learn_rounding(
    matrix: torch.Tensor,
    columns: torch.Tensor,
    target: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor,
    scheme: Scheme,
    *,
    bias: torch.Tensor | None = None,
    act: str = "none",
    act_alpha: float = 0.01,
    learning: Learning | None = None,
) -> torch.Tensor:
    """AdaRound on a layer in matrix form, all in float32.

    Args:
        matrix: W [groups, outputs, taps].
        columns: what the rounded layer reads, [groups, taps, samples].
        target: what it should give, activation included, [groups, outputs, samples].
        scale, zero: of each element of W.
        bias: [groups, outputs, 1].
        act: activation of the layer, and its parameter.

    Returns:
        Whole numbers [groups, outputs, taps]: those learned or, where these do not lower the
        error on the samples, the nearest.
    """
    options = learning or Learning()
    low, high = scheme.range
    floor = torch.floor(matrix / scale)
    rest = (matrix / scale - floor).clamp(1e-4, 1.0 - 1e-4)
    v = torch.logit((rest - _LOW) / (_HIGH - _LOW)).requires_grad_()

    def output(whole: torch.Tensor, picked: torch.Tensor) -> torch.Tensor:
        real = ((whole + zero).clamp(low, high) - zero) * scale
        total = real @ picked
        return activate(total if bias is None else total + bias, act, act_alpha)

    def error(whole: torch.Tensor) -> float:
        with torch.no_grad():
            return float((output(whole, columns) - target).square().mean())

    nearest = torch.round(matrix / scale)
    unit = error(nearest)
    if unit == 0.0:
        return (nearest + zero).clamp(low, high)
    optimiser = torch.optim.Adam([v], lr=options.rate)
    generator = torch.Generator().manual_seed(options.seed)
    samples = columns.shape[-1]
    for iteration in range(options.iterations):
        pick = torch.randint(samples, (min(options.columns, samples),), generator=generator)
        h = stretched(v)
        found = output(floor + h, columns[..., pick])
        loss = (found - target[..., pick]).square().mean() / unit
        beta = options.beta_at(iteration)
        if beta is not None:
            loss = loss + options.weight * (1.0 - (2.0 * h - 1.0).abs().pow(beta)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    learned = floor + (v.detach() >= 0.0).to(floor.dtype)
    best = learned if error(learned) < unit else nearest
    return (best + zero).clamp(low, high)


class LearnedRounding(Rounding):
    """AdaRound for one layer: keeps a sample of the columns it sees, then learns."""

    wants_reference = True

    def __init__(self, layer: Layer, weight: Constant, grid: Grid, learning: Learning, samples: int) -> None:
        self.layer, self.grid, self.learning, self.samples = layer, grid, learning, samples
        self.real = from_numpy(weight.data.astype(np.float32))
        self.generator = torch.Generator().manual_seed(learning.seed)
        self.columns: list[torch.Tensor] = []
        self.targets: list[torch.Tensor] = []

    def see(self, x: torch.Tensor, reference: torch.Tensor) -> None:
        matrix = self.layer.matrix(self.real)
        parts = list(zip(self.layer.chunks(x), self.layer.chunks(reference), strict=True))
        for part, original in parts:
            columns, wanted = (self.layer.columns(y).to(torch.float32) for y in (part, original))
            if not columns.shape[-1]:
                continue
            wish = -(-self.samples // len(parts))
            pick = torch.randperm(columns.shape[-1], generator=self.generator)[:wish]
            self.columns.append(columns[..., pick])
            self.targets.append(matrix @ wanted[..., pick])

    def stored(self) -> np.ndarray:
        op, layer, scheme = self.layer.op, self.layer, self.grid.scheme
        scale, zero = (layer.matrix(p).float() for p in elementwise(self.grid, tuple(self.real.shape)))
        bias = getattr(op, "b", None)
        shift = None
        if isinstance(bias, Constant):
            shift = from_numpy(bias.data.astype(np.float32)).reshape(layer.groups, -1, 1)
        # A bias that is computed, which is rare, is left out on both sides; so is then the activation.
        act = "none" if bias is not None and shift is None else op.act  # type: ignore[attr-defined]
        alpha: float = op.act_alpha  # type: ignore[attr-defined]
        if not self.columns:
            return self.grid.quantise(self.real.numpy())
        target = torch.cat(self.targets, -1)
        target = activate(target if shift is None else target + shift, act, alpha)
        whole = learn_rounding(
            layer.matrix(self.real),
            torch.cat(self.columns, -1),
            target,
            scale,
            zero,
            scheme,
            bias=shift,
            act=act,
            act_alpha=alpha,
            learning=self.learning,
        )
        return stored_array(layer.weight(whole), scheme)


def adaround(
    graph: Graph,
    schemes: Mapping[str, OpScheme],
    data: Iterable[Item],
    *,
    learning: Learning | None = None,
    samples: int = 512,
    weight_grid: WeightGrid = grid_of_weight,
    dims: Mapping[str, int] | None = None,
    limit: int | None = None,
) -> tuple[dict[str, Grid], dict[str, np.ndarray]]:
    """Learned rounding for all layers of a graph whose weights are quantised, from front to back.

    Args:
        schemes: by name of the op.
        data: calibration batches, see `batches_of`.
        learning: how; by default `Learning()`.
        samples: output positions of each batch that are learned from.
        weight_grid: makes the grid of each weight.

    Returns:
        Grids and stored integers by name of the op.

    Raises InputError as `round_in_order` does.
    """

    def make(layer: Layer, weight: Constant, grid: Grid) -> Rounding:
        return LearnedRounding(layer, weight, grid, learning or Learning(), samples)

    return round_in_order(graph, schemes, data, make, weight_grid=weight_grid, dims=dims, limit=limit)
