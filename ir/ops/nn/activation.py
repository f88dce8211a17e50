"""nn: activations."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

from plait.ir.op import op
from plait.ir.ops.common import broadcast, floating, normalise_axis, numeric, same_dtype
from plait.ir.ops.core.elementwise import FloatUnary, Unary
from plait.ir.types import Type
from plait.ir.value import Value


@op("nn.relu")
class Relu(Unary):
    """max(x, 0)."""


@op("nn.relu6")
class Relu6(FloatUnary):
    """min(max(x, 0), 6)."""


@op("nn.leaky_relu")
class LeakyRelu(FloatUnary):
    """x where x > 0, else alpha * x."""

    _: KW_ONLY
    alpha: float = 0.01


@op("nn.elu")
class Elu(FloatUnary):
    """x where x > 0, else alpha * (e^x - 1)."""

    _: KW_ONLY
    alpha: float = 1.0


@op("nn.selu")
class Selu(FloatUnary):
    """Scaled exponential linear unit (Klambauer et al. 2017) with its fixed alpha and scale."""


@op("nn.sigmoid")
class Sigmoid(FloatUnary):
    """1 / (1 + e^-x)."""


@op("nn.tanh")
class Tanh(FloatUnary):
    """Hyperbolic tangent of x."""


@op("nn.gelu")
class Gelu(FloatUnary):
    """x * Phi(x) (Hendrycks & Gimpel 2016), by erf or by the tanh approximation."""

    _: KW_ONLY
    approximate: Literal["none", "tanh"] = "none"


@op("nn.silu")
class Silu(FloatUnary):
    """x * sigmoid(x)."""


@op("nn.mish")
class Mish(FloatUnary):
    """x * tanh(softplus(x))."""


@op("nn.softplus")
class Softplus(FloatUnary):
    """log(1 + e^(beta x)) / beta."""

    _: KW_ONLY
    beta: float = 1.0


@op("nn.hardswish")
class Hardswish(FloatUnary):
    """x * min(max(x + 3, 0), 6) / 6 (Howard et al. 2019)."""


@op("nn.hardsigmoid")
class Hardsigmoid(FloatUnary):
    """min(max(alpha * x + beta, 0), 1)."""

    _: KW_ONLY
    alpha: float = 1.0 / 6.0
    beta: float = 0.5


@op("nn.prelu")
class Prelu(Unary):
    """x where x > 0, else slope * x; `slope` broadcasts against x."""

    slope: Value

    def infer(self) -> tuple[Type, ...]:
        x, slope = floating(self, self.x, "x"), numeric(self, self.slope, "slope")
        same_dtype(self, self.x, self.slope)
        if broadcast(self, x, slope, (self.x, self.slope)) != x.shape:
            raise self.error(f"{self.slope} : {slope} does not broadcast to {self.x} : {x}")
        return (x,)


@op("nn.softmax")
class Softmax(FloatUnary):
    """e^x / sum(e^x) along an axis."""

    _: KW_ONLY
    axis: int

    def infer(self) -> tuple[Type, ...]:
        kind = floating(self, self.x, "x")
        normalise_axis(self, self.axis, kind.rank)
        return (kind,)


@op("nn.log_softmax")
class LogSoftmax(FloatUnary):
    """x - log(sum(e^x)) along an axis."""

    _: KW_ONLY
    axis: int

    def infer(self) -> tuple[Type, ...]:
        kind = floating(self, self.x, "x")
        normalise_axis(self, self.axis, kind.rank)
        return (kind,)
