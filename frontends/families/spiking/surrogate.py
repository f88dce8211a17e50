"""Surrogate gradients: a step function forwards, a smooth derivative backwards.

A neuron spikes where x = v - v_th is at least 0.  The derivative of that step is 0 or infinite, so
learning by gradients puts another one in its place (Neftci, Mostafa and Zenke, IEEE Signal Processing
Magazine 36(6), 2019).  A surrogate is called on x and gives spikes 0 or 1 of the same shape and type,
whose gradient is that of the result times `derivative(x)`.  It is differentiable once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

#: Every surrogate by the name of its class, for operators of torch, which take names and numbers only.
_KINDS: dict[str, type[Surrogate]] = {}


class _Step(torch.autograd.Function):
    """1 where x >= 0, with the derivative of a surrogate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return (x >= 0).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradients[0] * ctx.surrogate.derivative(x), None


@dataclass(frozen=True)
class Surrogate(ABC):
    """A step function with a derivative of its own.  Raises ValueError for a parameter not above 0."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _KINDS[cls.kind()] = cls

    @classmethod
    def kind(cls) -> str:
        """A name for the class, unique in a process; `from_parameters` takes it."""
        return f"{cls.__module__}.{cls.__qualname__}"

    @property
    def parameters(self) -> list[float]:
        """The numbers that it was made with, in order."""
        return [float(getattr(self, field.name)) for field in fields(self)]

    @staticmethod
    def from_parameters(kind: str, parameters: Sequence[float]) -> Surrogate:
        """The surrogate of a kind with these parameters; the inverse of `kind` and `parameters`."""
        return _KINDS[kind](*parameters)

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(
                    f"{type(self).__name__}: {field.name} is above 0, got {getattr(self, field.name)}"
                )

    @abstractmethod
    def derivative(self, x: Tensor) -> Tensor:
        """What stands for the derivative of the step at x = v - v_th."""

    def __call__(self, x: Tensor) -> Tensor:
        """Spikes, 1 where x >= 0 and else 0, in the type of x."""
        if x.requires_grad and torch.is_grad_enabled():
            spikes: Tensor = _Step.apply(x, self)  # type: ignore[no-untyped-call]
            return spikes
        return (x >= 0).to(x.dtype)  # nothing to differentiate: plain operators, which torch.export takes


@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """1 / (1 + slope |x|)^2: SuperSpike (Zenke and Ganguli, Neural Computation 30(6), 2018)."""

    slope: float

    def derivative(self, x: Tensor) -> Tensor:
        return 1 / (1 + self.slope * x.abs()) ** 2


@dataclass(frozen=True)
class ArcTangent(Surrogate):
    """(slope / 2) / (1 + (pi slope x / 2)^2), the derivative of arctan(pi slope x / 2) / pi.

    Fang et al., Incorporating Learnable Membrane Time Constant, ICCV 2021.
    """

    slope: float

    def derivative(self, x: Tensor) -> Tensor:
        return self.slope / 2 / (1 + (math.pi / 2 * self.slope * x) ** 2)


@dataclass(frozen=True)
class Triangle(Surrogate):
    """height * max(0, 1 - |x| / width).

    Bellec et al., Long short-term memory and learning-to-learn in networks of spiking neurons, NeurIPS 2018.
    """

    height: float
    width: float

    def derivative(self, x: Tensor) -> Tensor:
        return self.height * torch.relu(1 - x.abs() / self.width)


@dataclass(frozen=True)
class StraightThrough(Surrogate):
    """1 where |x| <= window, else 0: the gradient passes as it is near the threshold, and nowhere else.

    Bengio, Leonard and Courville, arXiv:1308.3432, with a window as in binary networks.
    """

    window: float

    def derivative(self, x: Tensor) -> Tensor:
        return (x.abs() <= self.window).to(x.dtype)


__all__ = ["ArcTangent", "FastSigmoid", "StraightThrough", "Surrogate", "Triangle"]
