"""The report of everything in a program that cannot be lowered, with torch's common mistakes."""

from __future__ import annotations

from plait.frontends import report
from plait.frontends.pytorch.registry import supported
from plait.ir.loc import Loc

#: What to do about operators that point at a common mistake, by a part of their name.
_ADVICE = {
    "native_batch_norm_legit_functional": "batch norm in training mode: call model.eval() before lowering",
    "batch_norm": "batch norm in training mode: call model.eval() before lowering",
    "dropout": "dropout in training mode: call model.eval() before lowering",
    "bernoulli": "random numbers are drawn inside the model: call model.eval(), or pass them as an input",
    "rand": "random numbers are drawn inside the model: pass them as an input",
    "item": "a tensor becomes a Python number: keep it a tensor",
    "_local_scalar_dense": "a tensor becomes a Python number: keep it a tensor",
}


class Report(report.Report):
    """Collects operators that cannot be lowered, with the module path and line of each call."""

    def __init__(self) -> None:
        super().__init__(supported, "rule(build, x, *arguments)", advice=_ADVICE)

    def add(self, operator: str, place: str | Loc, reason: str | None = None) -> None:
        """Record one occurrence; `reason` is None where no rule exists at all."""
        super().add(operator, place.readable() if isinstance(place, Loc) else place, reason)
