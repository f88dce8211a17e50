"""Where two versions of a graph part: both run in the interpreter, values of one name are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from plait.ir import Graph, InputError, Region, ShapedType, Value
from plait.ir.types import QuantType

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Divergence:
    """The first value that two graphs compute differently.

    Attributes:
        value: its name (for an output without a common name, `output N`).
        op: the op that computes it in the second graph, or `input` or `constant`.
        op_before: the same in the first graph.
        location: main origin of the op in the second graph.
        passes: the passes that made that op.
        max_abs: largest absolute difference (inf where only one is NaN or infinite).
        max_rel: largest difference relative to the first graph's magnitude.
        mismatched: share of elements outside the tolerance, 0..1.
    """

    value: str
    op: str
    op_before: str
    location: str
    passes: tuple[str, ...]
    max_abs: float
    max_rel: float
    mismatched: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        made = f", made by {'+'.join(self.passes)}" if self.passes else ""
        return (
            f"{self.value} diverges at {self.op} ({self.location}{made}): max abs {self.max_abs:.3g}, "
            f"max rel {self.max_rel:.3g}, {self.mismatched:.1%} of elements; it was {self.op_before}"
        )


def first_divergence(
    before: Graph,
    after: Graph,
    inputs: Mapping[str, Any] | Sequence[Any],
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> Divergence | None:
    """Run both graphs and name the first op of `after` whose result differs.

    Values are paired by name, which passes keep as long as the tensor is the same;
    outputs are also paired by position.  Only values of equal type are compared.
    Quantised values may differ by one step.

    Args:
        before: the reference.
        after: the graph under test, with the same inputs.
        inputs: as for `plait.ir.interpret.interpret`.
        rtol: |after - before| <= atol + rtol * |before| must hold for every element.
        atol: see rtol; in the units of the values.

    Returns:
        None where all agree.

    Raises:
        InputError: when the graphs have different inputs or numbers of outputs, or cannot run.
    """
    from plait.ir.interpret import interpret  # loads torch

    signatures = [[(value.name, value.type) for value in graph.inputs] for graph in (before, after)]
    if signatures[0] != signatures[1] or len(before.outputs) != len(after.outputs):
        raise InputError(
            "the graphs have different signatures",
            where=f"@{before.name} and @{after.name}",
            why=f"{len(before.inputs)} inputs and {len(before.outputs)} outputs "
            f"against {len(after.inputs)} and {len(after.outputs)}",
            remedy="compare two versions of one graph",
        )
    mine, others = _by_name(before), _by_name(after)
    shared = {name for name, value in mine.items() if name in others and others[name].type == value.type}
    kept: dict[str, Any] = {}

    def remember(value: Value, tensor: Any) -> None:
        if value.name in shared:
            kept[value.name] = tensor

    found: list[Divergence] = []

    def check(value: Value, tensor: Any) -> None:
        if found or value.name not in kept:
            return
        difference = _difference(value, kept.pop(value.name), tensor, rtol, atol)
        if difference is not None:
            found.append(_describe(str(value), mine[value.name], value, difference))

    expected = interpret(before, inputs, observe=remember)
    actual = interpret(after, inputs, observe=check)
    if found:
        return found[0]
    for index, (old, new) in enumerate(zip(before.outputs, after.outputs, strict=True)):
        if old.type != new.type:
            raise InputError(f"output {index} was {old.type} and is {new.type}", where=f"@{after.name}")
        difference = _difference(new, expected[index], actual[index], rtol, atol)
        if difference is not None:
            return _describe(f"output {index} ({new})", old, new, difference)
    return None


def _by_name(graph: Graph) -> dict[str, Value]:
    """Op results outside of loops; a value inside one has many tensors in a run."""
    return {value.name: value for op in graph.ops for value in op.results}


def _difference(
    value: Value, before: Any, after: Any, rtol: float, atol: float
) -> tuple[float, float, float] | None:
    """(max abs, max rel, share of mismatched elements), or None within tolerance."""
    if not isinstance(value.type, ShapedType):
        return None
    import torch

    left, right = _wide(before), _wide(after)
    if left.shape != right.shape:
        return float("inf"), float("inf"), 1.0
    if isinstance(value.type, QuantType):
        rtol, atol = 0.0, 1.0
    close = torch.isclose(right, left, rtol=rtol, atol=atol, equal_nan=True)
    if bool(close.all()):
        return None
    gap = (right - left).abs()
    gap = torch.where(close | gap.isfinite(), gap.nan_to_num(0.0, posinf=0.0), torch.inf)
    relative = gap / left.abs().clamp_min(1e-30)
    bad = ~close
    return (
        float(gap[bad].max()),
        float(relative[bad].nan_to_num(torch.inf).max()),
        float(bad.double().mean()),
    )


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    held = tensor.detach()
    return torch.view_as_real(held.to(torch.complex128)) if held.is_complex() else held.to(torch.float64)


def _describe(name: str, old: Value, new: Value, difference: tuple[float, float, float]) -> Divergence:
    op = new.producer
    return Divergence(
        value=name,
        op=_opname(new),
        op_before=_opname(old),
        location=op.loc.readable() if op is not None else "no location",
        passes=op.loc.passes if op is not None else (),
        max_abs=difference[0],
        max_rel=difference[1],
        mismatched=difference[2],
    )


def _opname(value: Value) -> str:
    if value.producer is not None:
        return value.producer.opname
    return "input" if isinstance(value.region, Region) else "constant"
