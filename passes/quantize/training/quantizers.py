"""Fake quantisers with learned parameters: rounding whose gradient passes straight through.

All round to a uniform grid, out = step * clamp(round(x / step + shift) - shift, low, high), and
differ in how the step is learned:

    LearnedStep      LSQ (Esser et al. 2020, arXiv:1902.08153); with a learned zero point as well
                     where the scheme is affine (LSQ+, Bhalgat et al. 2020, arXiv:2004.09576)
    LearnedClipping  PACT (Choi et al. 2018, arXiv:1805.06085), for activations that are not negative
    LearnedInterval  the quantiser of SAQ (Liu et al. 2021, arXiv:2111.12273): weights normalised to
                     mean 0 and variance 1, a learned interval, 2^bits levels without a zero

Each states the `Grid` that it stands for, so that what was trained is what is written out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from plait.ir import InputError
from plait.passes.quantize.scheme import MAX_BITS, Grid, Scheme

Bound = float | torch.Tensor
hardtanh_backward = torch.ops.aten.hardtanh_backward
_TINY = float(torch.finfo(torch.float32).tiny)


def levels(x: torch.Tensor, step: torch.Tensor, low: Bound, high: Bound, shift: float = 0.0) -> torch.Tensor:
    """The grid points nearest to x, in units of the step: between low and high, halves to even."""
    whole = x / step
    whole = whole.round_() if shift == 0.0 else whole.add_(shift).round_().sub_(shift)
    return whole.clamp_(low, high)  # type: ignore[arg-type]  # both numbers or both tensors


class RoundToGrid(torch.autograd.Function):
    """step * levels(x, step, low, high, shift), with the gradients of LSQ (Esser et al. 2020, eq. 3 and 5).

    With v = x / step, the gradient by x is 1 for low < v < high and 0 elsewhere.  That by the step is

        low or high               where v is clipped,
        round(v) - v              inside; 0 there if `residual` is false, as in PACT (eq. 3 of its paper),

    times `factor`.  That by low or high, where they are tensors, is the step where v is clipped there.
    Gradients can be differentiated again.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        step: torch.Tensor,
        low: Bound,
        high: Bound,
        shift: float,
        residual: bool,
        factor: float,
    ) -> torch.Tensor:
        found = levels(x, step, low, high, shift).mul_(step)
        bounds = [bound for bound in (low, high) if isinstance(bound, torch.Tensor)]
        ctx.save_for_backward(x, step, found, *bounds)
        ctx.bounds = None if bounds else (low, high)
        ctx.options = residual, factor
        return found

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        x, step, found, *held = ctx.saved_tensors
        low, high = ctx.bounds or held
        residual, factor = ctx.options
        by_step = by_low = by_high = None
        if step.dim() == 0 and ctx.bounds:  # one kernel of torch does comparison and product
            edges = low * step.item(), high * step.item()
            by_x = hardtanh_backward(gradient, x, *edges)
            kept = hardtanh_backward(x if residual else found, x, *edges)
        else:
            inside = (x > low * step) & (x < high * step)
            by_x = gradient * inside
            kept = (x if residual else found) * inside
        if ctx.needs_input_grad[1]:
            slope = found - kept  # times the step
            total = torch.dot(gradient.reshape(-1), slope.reshape(-1)) if step.dim() == 0 else None
            if total is None:
                total = (gradient * slope).sum_to_size(step.shape)
            by_step = total * factor / step
        if ctx.needs_input_grad[2]:
            by_low = (gradient * (x <= low * step) * step).sum_to_size(low.shape)
        if ctx.needs_input_grad[3]:
            by_high = (gradient * (x >= high * step) * step).sum_to_size(high.shape)
        return by_x, by_step, by_low, by_high, None, None, None


def round_through(x: torch.Tensor) -> torch.Tensor:
    """round(x) with the gradient of x."""
    return x + (x.round() - x).detach()


def slices(x: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """The elements that share a step, along the last axis (see `scheme.slices_of`)."""
    if scheme.group is not None:
        return x.reshape(*x.shape[:-1], -1, scheme.group)
    if scheme.axis is None:
        return x.reshape(-1)
    return x.movedim(scheme.axis, 0).reshape(x.shape[scheme.axis], -1)


def spread(parameter: torch.Tensor, scheme: Scheme, rank: int) -> torch.Tensor:
    """A number for each slice, shaped to broadcast against the tensor."""
    if scheme.group is not None:
        return parameter.repeat_interleave(scheme.group, dim=-1)
    if scheme.axis is None:
        return parameter
    axis = scheme.axis % rank
    return parameter.reshape([-1 if i == axis else 1 for i in range(rank)])


class Quantizer(nn.Module):
    """Base of fake quantisers.

    The parameters are set from the first tensor that is quantised.

    Args:
        scheme: width and granularity.
        shape: of the learned numbers, one for each slice of the tensor: `parameter_shape` of a weight, or ().
        activation: whether the tensors are batches, axis 0 of which counts samples.

    Attributes:
        keep: whether to keep the last result in `output`, with its gradient after a backward pass.
        perturbation: added to the result; None for nothing.
        substitute: returned in place of the result; None for nothing.
        detached: quantise without gradients.
    """

    initialised: torch.Tensor
    scheme: Scheme

    def __init__(self, scheme: Scheme, shape: tuple[int, ...] = (), *, activation: bool = False) -> None:
        super().__init__()
        self.scheme = scheme
        self.shape = shape
        self.activation = activation
        self.register_buffer("initialised", torch.tensor(False))
        self.keep = False
        self.detached = False
        self.output: torch.Tensor | None = None
        self.perturbation: torch.Tensor | None = None
        self.substitute: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x on the grid, and what `perturbation`, `substitute` and `keep` ask for."""
        if self.substitute is not None:
            found = self.substitute
        elif self.detached:
            with torch.no_grad():
                found = self.quantise(x)
        else:
            found = self.quantise(x)
        if self.keep:
            self.output = found
            if found.requires_grad:
                found.retain_grad()
        return found if self.perturbation is None else found + self.perturbation

    def quantise(self, x: torch.Tensor) -> torch.Tensor:
        """x on the grid; the first call sets the parameters."""
        if not self.initialised:
            with torch.no_grad():
                self.initialise(x)
                self.initialised.fill_(True)
        return self.rounded(x)

    def initialise(self, x: torch.Tensor) -> None:
        """Set the parameters from a tensor."""
        raise NotImplementedError(f"{type(self).__name__}.initialise")

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """x on the grid, with gradients."""
        raise NotImplementedError(f"{type(self).__name__}.rounded")

    def grid(self) -> Grid:
        """The grid that the results lie on.  Raises InputError before anything was quantised."""
        raise NotImplementedError(f"{type(self).__name__}.grid")

    def stored(self, x: torch.Tensor) -> np.ndarray:
        """The integers of `grid()` that stand for the quantised x (int8 or uint8)."""
        grid = self.grid()
        with torch.no_grad():
            real = self.rounded(x)
            step = spread(torch.from_numpy(grid.scale).to(x.device), grid.scheme, x.dim())
            zero = spread(torch.from_numpy(grid.zero_point).to(x.device), grid.scheme, x.dim())
            whole = (real / step).round() + zero
        low, high = grid.scheme.range
        return whole.clamp(low, high).cpu().numpy().astype(np.int8 if grid.scheme.signed else np.uint8)

    def _check_initialised(self) -> None:
        if not self.initialised:
            raise InputError(
                "a quantiser has no grid yet",
                why="its range is set by the first batch",
                remedy="run the module on a batch of real data",
            )

    def extra_repr(self) -> str:
        return str(self.scheme)


class LearnedStep(Quantizer):
    """LSQ: the step is a parameter, with gradient scale 1 / sqrt(N * Qp) and start 2 * mean|x| / sqrt(Qp).

    N is the number of weights that share the step, or of features of one sample; Qp the largest
    level.  Affine schemes learn the zero point too, rounded with a straight-through gradient; it
    stays at the lowest level where the first tensor has nothing negative.
    """

    def __init__(self, scheme: Scheme, shape: tuple[int, ...] = (), *, activation: bool = False) -> None:
        super().__init__(scheme, shape, activation=activation)
        self.step = nn.Parameter(torch.ones(shape))
        self.zero: nn.Parameter | None = None
        if not scheme.symmetric:
            self.zero = nn.Parameter(torch.zeros(shape))

    def initialise(self, x: torch.Tensor) -> None:
        low, high = self.scheme.range
        parts = slices(x.float(), self.scheme)
        if self.zero is None:
            step = 2.0 * parts.abs().mean(-1) / math.sqrt(max(high, 1))
        else:
            first, last = parts.amin(-1).clamp(max=0.0), parts.amax(-1).clamp(min=0.0)
            if bool((first == 0).all()):
                step = 2.0 * parts.abs().mean(-1) / math.sqrt(high - low)
                self.zero.fill_(low)
                self.zero.requires_grad_(False)
            else:
                step = (last - first) / (high - low)
                self.zero.copy_((low - first / step.clamp(min=_TINY)).round().clamp(low, high))
        self.step.copy_(torch.where(step > _TINY, step, torch.ones_like(step)))

    def gradient_scale(self, x: torch.Tensor) -> float:
        """1 / sqrt(N * Qp) (Esser et al. 2020, section 2.2)."""
        count = x[0].numel() if self.activation else x.numel() // max(self.step.numel(), 1)
        low, high = self.scheme.range
        top = high if self.zero is None else high - low
        return 1.0 / math.sqrt(max(count * top, 1))

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        low: Bound
        high: Bound
        low, high = self.scheme.range
        if self.zero is not None:
            zero = round_through(spread(self.zero, self.scheme, x.dim()).clamp(low, high))
            low, high = low - zero, high - zero
        step = spread(self.step.abs().clamp(min=_TINY), self.scheme, x.dim())
        found: torch.Tensor = RoundToGrid.apply(x, step, low, high, 0.0, True, self.gradient_scale(x))
        return found

    def grid(self) -> Grid:
        self._check_initialised()
        step = self.step.detach().abs().clamp(min=_TINY).cpu().numpy()
        if self.zero is None:
            return Grid(self.scheme, step, np.zeros(step.shape, np.int32))
        low, high = self.scheme.range
        zero = self.zero.detach().clamp(low, high).round().to(torch.int32).cpu().numpy()
        return Grid(self.scheme, step, zero)


class LearnedClipping(Quantizer):
    """PACT: y = clamp(x, 0, alpha) rounded to 2^bits levels; alpha learns from what is clipped only.

    The start is the largest element of the first batch, or `start` (the paper has 10 for its nets).
    Raises InputError for a grid with a scale for each slice, or one that has negative numbers only.
    """

    def __init__(self, scheme: Scheme, *, start: float | None = None) -> None:
        super().__init__(scheme, activation=True)
        if scheme.symmetric and scheme.signed:
            raise InputError(
                f"the scheme of PACT is {scheme}",
                why="it clips to 0..alpha, so the grid starts at zero",
                remedy="use an unsigned or an affine scheme",
            )
        self.start = start
        self.alpha = nn.Parameter(torch.tensor(1.0))

    @property
    def top(self) -> int:
        """Number of steps between 0 and alpha."""
        low, high = self.scheme.range
        return high - low

    def initialise(self, x: torch.Tensor) -> None:
        largest = float(x.max()) if self.start is None else self.start
        self.alpha.fill_(largest if largest > _TINY else 1.0)

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        step = self.alpha.abs().clamp(min=_TINY) / self.top
        found: torch.Tensor = RoundToGrid.apply(x, step, 0.0, float(self.top), 0.0, False, 1.0)
        return found

    def grid(self) -> Grid:
        self._check_initialised()
        step = (self.alpha.detach().abs().clamp(min=_TINY) / self.top).cpu().numpy()
        return Grid(self.scheme, step, np.asarray(self.scheme.range[0]))


class LearnedInterval(Quantizer):
    """The uniform quantiser of SAQ, with a learned interval alpha.

    Weights: alpha * (2 * round((clamp(w / alpha, -1, 1) + 1) / 2 * n) / n - 1), n = 2^bits - 1, which
    has no zero level.  Activations: alpha * round(clamp(x / alpha, 0, 1) * n) / n.  Both start at
    0.8 times the largest magnitude.

    With u the level 0..n of a weight, its value is (alpha / n) * (2u - n): the odd integers from -n
    to n.  They are exact in a symmetric grid of one bit more, which `grid()` states; hence weights
    have at most 7 bits.

    Args:
        scheme: bits of the levels; for activations one that starts at zero.
        normalise: bring weights to mean 0 and variance 1 first (statistics without gradient), as
            the paper does for convolutions; the lost scale is for a batch norm behind to make good.

    Raises InputError for weights of 8 bits, and for signed symmetric activations.
    """

    def __init__(
        self,
        scheme: Scheme,
        shape: tuple[int, ...] = (),
        *,
        activation: bool = False,
        normalise: bool = False,
    ) -> None:
        super().__init__(scheme, shape, activation=activation)
        if activation and scheme.symmetric and scheme.signed:
            raise InputError(
                f"the scheme of activations is {scheme}",
                why="the interval is 0..alpha, so the grid starts at zero",
                remedy="use an unsigned or an affine scheme",
            )
        if not activation and scheme.bits >= MAX_BITS:
            raise InputError(
                f"weights have {scheme.bits} bits",
                why=f"levels without a zero take one bit more to store, {scheme.bits + 1}",
                remedy="use LSQ for weights of 8 bits",
            )
        self.normalise = normalise
        self.alpha = nn.Parameter(torch.ones(shape))

    @property
    def count(self) -> int:
        """Number of steps in the interval, 2^bits - 1."""
        return (1 << self.scheme.bits) - 1

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        """(w - mean) / std over the whole tensor, if asked for."""
        if not self.normalise:
            return x
        variance, mean = torch.var_mean(x.detach())
        return (x - mean) / variance.sqrt().clamp(min=_TINY)

    def initialise(self, x: torch.Tensor) -> None:
        largest = 0.8 * slices(self.normalised(x).float(), self.scheme).abs().amax(-1)
        self.alpha.copy_(torch.where(largest > _TINY, largest, torch.ones_like(largest)))

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        reach = self.count if self.activation else self.count / 2
        step = spread(self.alpha.abs().clamp(min=_TINY) / reach, self.scheme, x.dim())
        low, shift = (0.0, 0.0) if self.activation else (-reach, 0.5)
        found: torch.Tensor = RoundToGrid.apply(self.normalised(x), step, low, float(reach), shift, True, 1.0)
        return found

    def grid(self) -> Grid:
        self._check_initialised()
        step = (self.alpha.detach().abs().clamp(min=_TINY) / self.count).cpu().numpy()
        if self.activation:
            return Grid(self.scheme, step, np.asarray(self.scheme.range[0]))
        odd = replace(self.scheme, bits=self.scheme.bits + 1, symmetric=True, signed=True, narrow=True)
        return Grid(odd, step, np.zeros(step.shape, np.int32))
