"""Sharpness-aware quantisation (SAQ, Liu et al. 2021, arXiv:2111.12273): training towards flat minima.

Sharpness-aware minimisation (SAM, Foret et al. 2021, arXiv:2010.01412) descends by the gradient at
the worst point near the weights, eps = rho * g / |g|.  With quantised weights Q(w) there are three
places for the perturbation:

    case 1   L(Q(w) + eps(w))       by the gradient of the latent weights, added to the quantised ones
    case 2   L(Q(w + eps(w)))       on the latent weights: SAM as it is; a small eps is rounded away
    case 3   L(Q(w) + eps(Q(w)))    by the gradient of the quantised weights themselves: SAQ
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from plait.ir import InputError
from plait.passes.quantize.training.module import GraphModule
from plait.passes.quantize.training.prepare import QatModule
from plait.passes.quantize.training.quantizers import Quantizer

Case = Literal[1, 2, 3]
Closure = Callable[[], torch.Tensor]
_EPSILON = 1e-12


@dataclass(frozen=True)
class Reuse:
    """A new perturbation every `every` steps, used until the next: 1 + 1/every passes a step."""

    every: int = 5

    def __post_init__(self) -> None:
        _demand(self.every >= 1, f"every is {self.every}", "steps are counted from 1")


@dataclass(frozen=True)
class Subset:
    """Perturb a random share of the quantised layers, drawn anew in each step.

    Two passes, of which the first computes weight gradients for the chosen layers only (after ESAM,
    Du et al. 2022, arXiv:2110.03141, whose subset is of single weights and saves no arithmetic).
    """

    fraction: float = 0.5

    def __post_init__(self) -> None:
        _demand(0.0 < self.fraction <= 1.0, f"fraction is {self.fraction}", "it lies in 0..1, without 0")


@dataclass(frozen=True)
class Bernoulli:
    """Perturb in a step with this probability: 1 + probability passes a step (Zhao et al. 2022, SS-SAM)."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        given = self.probability
        _demand(0.0 <= given <= 1.0, f"probability is {given}", "it lies in 0..1")


Strategy = Reuse | Subset | Bernoulli


def _demand(holds: bool, what: str, why: str) -> None:
    if not holds:
        raise InputError(what, where="SharpnessAware", why=why)


@dataclass
class _Part:
    """A tensor that is perturbed: where its gradient is, its value, and where the perturbation goes."""

    gradient: torch.Tensor
    value: torch.Tensor
    target: nn.Parameter | Quantizer


class SharpnessAware:
    """An optimiser whose step descends by the gradient at the perturbed weights.

    One global norm runs over the quantised weights and, where they take part, all other
    parameters; those are shifted in place.  In cases 1 and 3 the quantised weights are perturbed,
    in case 2 the latent ones.  After the second pass every parameter is as before, bit for bit,
    and the wrapped optimiser steps with the gradients of that pass.

    Args:
        optimizer: any torch optimiser of the module's parameters, such as SGD or AdamW.
        module: a `QatModule`; case 2 takes any `GraphModule`, whose weights it perturbs.
        rho: norm of the perturbation.
        case: which of the three; 3 is SAQ.
        adaptive: scale by the weights (ASAM, Kwon et al. 2021, arXiv:2102.11600): with
            t = |x| + eta, eps = rho * t^2 * g / |t * g|.
        eta: see `adaptive`.
        efficient: `Reuse`, `Subset` or `Bernoulli` to save passes; None for two in each step.
        include_bias: perturb biases.
        include_norm: perturb gains and biases of normalisations.
        include_clip: perturb the quantisers' own parameters: steps, zero points and intervals.
        freeze_statistics: leave the stored batch norm statistics alone in the second pass.
        warmup: steps over which rho grows from 0; an attribute, `rho`, may be set between steps as well.
        seed: of the random choices of `Subset` and `Bernoulli`.

    Attributes:
        passes: how often the closure was called.
        steps: how many steps were taken.

    Raises InputError for a case or number out of range, and cases 1 and 3 without quantised weights.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        module: GraphModule,
        rho: float = 0.05,
        *,
        case: Case = 3,
        adaptive: bool = False,
        eta: float = 0.01,
        efficient: Strategy | None = None,
        include_bias: bool = True,
        include_norm: bool = True,
        include_clip: bool = False,
        freeze_statistics: bool = True,
        warmup: int = 0,
        seed: int = 0,
    ) -> None:
        _demand(case in get_args(Case), f"case is {case!r}", "the paper has cases 1, 2 and 3")
        _demand(rho >= 0.0, f"rho is {rho}", "it is the norm of a perturbation")
        _demand(warmup >= 0, f"warmup is {warmup}", "it is a number of steps")
        self.optimizer = optimizer
        self.module = module
        self.rho = rho
        self.case = case
        self.adaptive = adaptive
        self.eta = eta
        self.efficient = efficient
        self.freeze_statistics = freeze_statistics
        self.warmup = warmup
        self.passes = 0
        self.steps = 0
        self._random = torch.Generator().manual_seed(seed)
        self._layers = list(module.quantised_weights()) if isinstance(module, QatModule) else []
        if case != 2 and not self._layers:
            raise InputError(
                f"case {case} perturbs quantised weights, and the module has none",
                where="SharpnessAware",
                remedy="prepare() the graph, or use case 2, which is SAM",
            )
        taken = {"bias": include_bias, "norm": include_norm, "clip": include_clip, "weight": True}
        kinds = module.parameter_kinds()
        latents = {id(latent) for _, _, latent in self._layers}
        self._others = [
            parameter
            for name, parameter in module.named_parameters()
            if id(parameter) not in latents and taken[kinds[name]]
        ]
        self._kept: list[tuple[nn.Parameter | Quantizer, torch.Tensor]] = []

    # -- as an optimiser ---------------------------------------------------------------
    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the wrapped optimiser."""
        return self.optimizer.param_groups

    def zero_grad(self) -> None:
        """Clear all gradients."""
        self.module.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The state of the wrapped optimiser and of this one; a perturbation in reuse is not part of it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "passes": self.passes,
            "steps": self.steps,
            "random": self._random.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.passes, self.steps = state["passes"], state["steps"]
        self._random.set_state(state["random"])
        self._kept = []

    def step(self, closure: Closure) -> torch.Tensor:
        """One step.

        Args:
            closure: runs the module forward and backward and returns the loss; gradients are
                cleared before, and random numbers are the same in both passes.

        Returns:
            The loss of the first pass: that of the unperturbed weights where there are two.
        """
        strategy = self.efficient
        ascends = True
        if isinstance(strategy, Reuse):
            ascends = self.steps % strategy.every == 0 or not self._kept
        elif isinstance(strategy, Bernoulli):
            ascends = bool(torch.rand((), generator=self._random) < strategy.probability)
            self._kept = [] if not ascends else self._kept
        loss = None
        moves = self.module.track_statistics
        state = torch.get_rng_state()
        if ascends:
            loss = self._ascend(closure)
            self.module.track_statistics = moves and not self.freeze_statistics
            torch.set_rng_state(state)
        saved = self._apply()
        try:
            self.zero_grad()
            descended = self._run(closure)
        finally:
            self._restore(saved)
            self.module.track_statistics = moves
        self.optimizer.step()
        self.steps += 1
        return descended if loss is None else loss

    def _run(self, closure: Closure) -> torch.Tensor:
        self.passes += 1
        return closure().detach()

    # -- the perturbation ----------------------------------------------------------------
    def _ascend(self, closure: Closure) -> torch.Tensor:
        """The first pass; leaves the perturbation in `_kept`."""
        layers = self._chosen_layers()
        spared = [entry for entry in self._layers if not any(entry is chosen for chosen in layers)]
        self.zero_grad()
        for _, quantizer, latent in spared:
            quantizer.detached = True
            latent.requires_grad_(False)
        for _, quantizer, _ in layers:
            quantizer.keep = self.case == 3
        try:
            loss = self._run(closure)
            parts = list(self._parts(layers))
        finally:
            for _, quantizer, latent in spared:
                quantizer.detached = False
                latent.requires_grad_(True)
            for _, quantizer, _ in layers:
                quantizer.keep, quantizer.output = False, None
        self._kept = self._perturbations(parts)
        return loss

    def _chosen_layers(self) -> list[tuple[str, Quantizer, torch.Tensor]]:
        trained = [entry for entry in self._layers if entry[2].requires_grad]
        if not isinstance(self.efficient, Subset) or not trained:
            return trained
        count = max(1, round(self.efficient.fraction * len(trained)))
        order = torch.randperm(len(trained), generator=self._random)[:count]
        return [trained[i] for i in sorted(order.tolist())]

    def _parts(self, layers: list[tuple[str, Quantizer, torch.Tensor]]) -> Iterator[_Part]:
        seen: set[int] = set()
        for _, quantizer, latent in layers:
            if self.case == 3:
                output = quantizer.output
                if output is not None and output.grad is not None:
                    yield _Part(output.grad, output.detach(), quantizer)
            elif latent.grad is not None and (self.case == 1 or id(latent) not in seen):
                seen.add(id(latent))
                assert isinstance(latent, nn.Parameter)  # it requires a gradient
                yield _Part(latent.grad, latent.detach(), quantizer if self.case == 1 else latent)
        for parameter in self._others:
            if parameter.grad is not None:
                yield _Part(parameter.grad, parameter.detach(), parameter)

    def _perturbations(self, parts: list[_Part]) -> list[tuple[nn.Parameter | Quantizer, torch.Tensor]]:
        """Where to add what: one norm over all parts."""
        if not parts:
            raise InputError(
                "no gradient reached what is to be perturbed",
                where="SharpnessAware.step",
                remedy="call loss.backward() in the closure",
            )
        scales = [part.value.abs() + self.eta if self.adaptive else None for part in parts]
        scaled = [
            part.gradient if t is None else part.gradient * t for part, t in zip(parts, scales, strict=True)
        ]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in scaled]))
        reach = self.current_rho() / (norm + _EPSILON)
        return [
            (part.target, (g if t is None else g * t) * reach)
            for part, g, t in zip(parts, scaled, scales, strict=True)
        ]

    def current_rho(self) -> float:
        """rho in this step, warm-up included."""
        return self.rho * min(1.0, self.steps / self.warmup) if self.warmup else self.rho

    @torch.no_grad()
    def _apply(self) -> list[tuple[nn.Parameter, torch.Tensor]]:
        """Put the perturbation in place; returns parameters with the values to restore."""
        saved = []
        for target, shift in self._kept:
            if isinstance(target, Quantizer):
                target.perturbation = shift
            else:
                saved.append((target, target.detach().clone()))
                target.add_(shift)
        return saved

    @torch.no_grad()
    def _restore(self, saved: list[tuple[nn.Parameter, torch.Tensor]]) -> None:
        for target, _ in self._kept:
            if isinstance(target, Quantizer):
                target.perturbation = None
        for parameter, value in saved:
            parameter.copy_(value)
