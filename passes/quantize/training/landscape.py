"""How flat a minimum is: sharpness along directions, the Hessian's spectrum, and pictures of the loss.

The variables are the quantised weights Q(w) themselves (of a module without quantisers, its
weights); everything else stays, batch norms use their stored statistics.  Rounded activations
take part through their straight-through gradients, so second derivatives are those of that
surrogate; losses are exact.

    landscape = Landscape(module, lambda module, x, y: F.cross_entropy(module(x), y), [(x, y)])
    landscape.adversarial_sharpness(rho=0.5)       # L(Q + eps) - L(Q), |eps| = rho
    landscape.top_eigenvalue().value, landscape.trace().value
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plait.ir import InputError
from plait.passes.quantize.training.module import GraphModule
from plait.passes.quantize.training.prepare import QatModule
from plait.passes.quantize.training.quantizers import Quantizer

Direction = list[torch.Tensor]
Loss = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Estimate:
    """A figure of an iteration or a sample.

    Attributes:
        value: the estimate.
        error: relative change in the last iteration, or standard error of the mean of a sample.
        count: iterations or samples.
    """

    value: float
    error: float
    count: int


class Landscape:
    """The loss around the weights of a module.

    Args:
        module: stays as it is; it is run in evaluation mode.
        loss: from the module and the tensors of one batch to a mean loss.
        batches: data; every batch counts alike.

    Attributes:
        centre: the weights, the variables of the loss.

    Raises InputError without batches, or for a module whose quantisers have no range yet.
    """

    def __init__(self, module: GraphModule, loss: Loss, batches: Sequence[Sequence[Any]]) -> None:
        if not batches:
            raise InputError("there is no batch", where="Landscape", remedy="give one or more")
        self.module = module
        self._loss = loss
        self._batches = list(batches)
        self._quantizers: list[Quantizer] = []
        self._names: list[str] = []
        with torch.no_grad():
            if isinstance(module, QatModule):
                self.centre = self._quantised_weights(module)
            else:
                self._names = [name for name, p in module.store.trained() if p.dim() > 1]
                self.centre = [module.store[name].detach().clone() for name in self._names]
        if not self.centre:
            raise InputError("the module has no weights", where="Landscape")

    def _quantised_weights(self, module: QatModule) -> Direction:
        self._quantizers = [quantizer for _, quantizer, _ in module.quantised_weights()]
        for quantizer in self._quantizers:
            quantizer.keep = True
        try:
            with self._evaluating():
                self._loss(module, *self._batches[0])
            found = [q.output for q in self._quantizers]
        finally:
            for quantizer in self._quantizers:
                quantizer.keep, quantizer.output = False, None
        return [tensor.detach().clone() for tensor in found if tensor is not None]

    # -- the loss as a function of the weights -----------------------------------------------
    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self.module.training
        self.module.eval()
        try:
            yield
        finally:
            self.module.train(was_training)

    @contextmanager
    def _at(self, point: Sequence[torch.Tensor]) -> Iterator[None]:
        """The module with these weights."""
        for quantizer, tensor in zip(self._quantizers, point):
            quantizer.substitute = tensor
        self.module.substitutes = dict(zip(self._names, point))
        try:
            with self._evaluating():
                yield
        finally:
            self.module.substitutes = {}
            for quantizer in self._quantizers:
                quantizer.substitute = None

    def _shifted(self, offset: Sequence[torch.Tensor] | None) -> Direction:
        if offset is None:
            return [tensor.clone() for tensor in self.centre]
        return [tensor + shift for tensor, shift in zip(self.centre, offset, strict=True)]

    @torch.no_grad()
    def value(self, offset: Sequence[torch.Tensor] | None = None) -> float:
        """The mean loss at the weights plus `offset`."""
        with self._at(self._shifted(offset)):
            losses = [float(self._loss(self.module, *batch)) for batch in self._batches]
        return sum(losses) / len(losses)

    def gradient(self, offset: Sequence[torch.Tensor] | None = None) -> Direction:
        """The gradient of the mean loss there."""
        return self._derivatives(offset, None)

    def hessian_vector(self, vector: Sequence[torch.Tensor]) -> Direction:
        """The Hessian at the weights times a vector, by differentiating (gradient . vector) once more."""
        return self._derivatives(None, vector)

    def _derivatives(
        self, offset: Sequence[torch.Tensor] | None, vector: Sequence[torch.Tensor] | None
    ) -> Direction:
        point = [tensor.requires_grad_(True) for tensor in self._shifted(offset)]
        total = [torch.zeros_like(tensor) for tensor in self.centre]
        with self._at(point), torch.enable_grad():
            for batch in self._batches:
                loss = self._loss(self.module, *batch)
                found = torch.autograd.grad(loss, point, create_graph=vector is not None)
                if vector is not None:
                    along = sum(((g * v).sum() for g, v in zip(found, vector, strict=True)), torch.zeros(()))
                    found = torch.autograd.grad(along, point, materialize_grads=True)
                for sum_, part in zip(total, found, strict=True):
                    sum_.add_(part.detach(), alpha=1.0 / len(self._batches))
        return total

    # -- directions -------------------------------------------------------------------------
    def random_direction(self, seed: int, *, filter_normalised: bool = True) -> Direction:
        """A Gaussian direction; each filter as long as that of the weights (Li et al. 2018, section 4).

        Without `filter_normalised` it is uniform on the sphere, of length 1.
        """
        generator = torch.Generator().manual_seed(seed)
        found = [torch.randn(t.shape, generator=generator).to(t) for t in self.centre]
        if not filter_normalised:
            return scaled_to(found, 1.0)
        result = []
        for direction, weight in zip(found, self.centre, strict=True):
            axes = tuple(range(1, weight.dim()))
            length = torch.linalg.vector_norm(direction, dim=axes, keepdim=True).clamp(min=1e-12)
            result.append(direction * torch.linalg.vector_norm(weight, dim=axes, keepdim=True) / length)
        return result

    def random_sharpness(
        self, rho: float, *, samples: int = 10, seed: int = 0, filter_normalised: bool = True
    ) -> Estimate:
        """Mean of L(Q + eps) - L(Q) over random eps of norm rho, with its standard error."""
        base = self.value()
        rises = [
            self.value(scaled_to(self.random_direction(seed + i, filter_normalised=filter_normalised), rho))
            - base
            for i in range(samples)
        ]
        return Estimate(float(np.mean(rises)), _standard_error(rises), samples)

    def adversarial_sharpness(self, rho: float, *, steps: int = 1) -> float:
        """The largest L(Q + eps) - L(Q), |eps| = rho, on the way of gradient ascent.

        The first step is that of SAM, eps = rho * g / |g|; later ones add their gradient, of length
        rho, and return to the sphere.
        """
        base = self.value()
        offset = scaled_to(self.gradient(), rho)
        best = self.value(offset)
        for _ in range(steps - 1):
            ascent = scaled_to(self.gradient(offset), rho)
            offset = scaled_to([a + b for a, b in zip(offset, ascent, strict=True)], rho)
            best = max(best, self.value(offset))
        return best - base

    # -- the Hessian ------------------------------------------------------------------------
    def top_eigenvalue(self, *, iterations: int = 50, tolerance: float = 1e-3, seed: int = 0) -> Estimate:
        """The largest eigenvalue of the Hessian, by power iteration.

        Where the eigenvalue of largest magnitude is negative, a second iteration on the Hessian
        minus it finds the largest.
        """
        found = self._power_iteration(0.0, iterations, tolerance, seed)
        if found.value >= 0.0:
            return found
        shifted = self._power_iteration(found.value, iterations, tolerance, seed)
        return Estimate(shifted.value + found.value, shifted.error, shifted.count)

    def _power_iteration(self, shift: float, iterations: int, tolerance: float, seed: int) -> Estimate:
        vector = self.random_direction(seed, filter_normalised=False)
        value, change, count = 0.0, float("inf"), 0
        while count < iterations and change > tolerance:
            product = [
                h - shift * v for h, v in zip(self.hessian_vector(vector), vector, strict=True)
            ]  # fmt: skip
            new = _dot(product, vector)
            change = abs(new - value) / max(abs(new), 1e-12)
            value, count = new, count + 1
            if float(_norm(product)) == 0.0:
                return Estimate(0.0, 0.0, count)
            vector = scaled_to(product, 1.0)
        return Estimate(value, change, count)

    def trace(self, *, samples: int = 20, seed: int = 0) -> Estimate:
        """The trace of the Hessian: mean of v . H v over random signs v (Hutchinson); its standard error."""
        generator = torch.Generator().manual_seed(seed)
        found = []
        for _ in range(samples):
            signs = [
                (torch.randint(0, 2, t.shape, generator=generator) * 2 - 1).to(t) for t in self.centre
            ]  # fmt: skip
            found.append(_dot(self.hessian_vector(signs), signs))
        return Estimate(float(np.mean(found)), _standard_error(found), samples)

    # -- pictures ---------------------------------------------------------------------------
    def line(self, direction: Direction, distances: Sequence[float]) -> np.ndarray:
        """Losses at the weights plus each distance times the direction: [distances]."""
        return np.array([self.value([d * distance for d in direction]) for distance in distances])

    def plane(
        self, first: Direction, second: Direction, distances: Sequence[float]
    ) -> np.ndarray:  # fmt: skip
        """Losses on a grid: [distances along second, distances along first]."""
        rows = []
        for up in distances:
            row = [
                self.value([a * across + b * up for a, b in zip(first, second, strict=True)])
                for across in distances
            ]
            rows.append(row)
        return np.array(rows)


def scaled_to(direction: Sequence[torch.Tensor], length: float) -> Direction:
    """A direction of this length; zeros stay zeros."""
    norm = float(_norm(direction))
    return [tensor * (length / norm if norm > 0.0 else 0.0) for tensor in direction]


def _norm(direction: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in direction]))


def _dot(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> float:
    return float(sum((a * b).sum() for a, b in zip(left, right, strict=True)))


def _standard_error(sample: Sequence[float]) -> float:
    return float(np.std(sample, ddof=1) / np.sqrt(len(sample))) if len(sample) > 1 else float("inf")


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "matplotlib is not installed",
            where="plotting a loss landscape",
            why="it is no dependency of plait itself",
            remedy="pip install 'plait[bench]', or matplotlib alone",
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def plot_lines(path: str | Path, distances: Sequence[float], losses: dict[str, np.ndarray]) -> None:
    """Write loss against distance, a curve for each label, as PNG.  Raises InputError without matplotlib."""
    figure = _figure(6, 4)
    axes = figure.subplots()
    for label, curve in losses.items():
        axes.plot(distances, curve, label=label)
    axes.set(xlabel="distance along the direction", ylabel="loss")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_planes(path: str | Path, distances: Sequence[float], losses: dict[str, np.ndarray]) -> None:
    """Write contours of the loss on planes, one picture for each label on a common scale, as PNG."""
    figure = _figure(4 * len(losses), 3.6)
    panels = np.atleast_1d(figure.subplots(1, len(losses)))
    values = np.concatenate([surface.reshape(-1) for surface in losses.values()])
    marks = np.linspace(float(values.min()), float(np.quantile(values, 0.9)), 16)
    if marks[0] == marks[-1]:
        marks = np.linspace(marks[0] - 0.5, marks[0] + 0.5, 16)
    for axes, (label, surface) in zip(panels, losses.items(), strict=True):
        drawn = axes.contourf(distances, distances, surface, levels=marks, extend="both")
        axes.set_title(label)
    figure.colorbar(drawn, ax=list(panels), label="loss")
    figure.savefig(path, dpi=120)
