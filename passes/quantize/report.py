"""What quantisation did to a model: precision per op, sizes, signal-to-noise, the first op that diverges."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from plait.ir import Graph, Op, QuantType, ShapedType, Value
from plait.ir.interpret import interpret
from plait.passes.quantize.insert import CONTRACTIONS, activations_of, place, weight_of
from plait.passes.quantize.scheme import OpScheme
from plait.passes.why import reasons

if TYPE_CHECKING:
    import torch

    from plait.passes.quantize.pipeline import Quantized

#: An op diverges where its signal-to-noise ratio falls below this, in decibels.
DIVERGENCE_DB = 10.0


@dataclass(frozen=True)
class OpPrecision:
    """One op.

    Attributes:
        name: of its result in the float graph.
        op: its kind.
        path: module path.
        requested: what was asked for; "float" for an op that no rule selects.
        effective: what runs, as `activations x weights`: `int8 x int8`, `f32 x int4`, `f32`.
        reason: why the two differ; empty where they agree.
        snr_db: signal-to-noise ratio of the result against the float graph; None where the integer graph
            has no such value, infinite where they agree.
    """

    name: str
    op: str
    path: str
    requested: str
    effective: str
    reason: str
    snr_db: float | None


@dataclass(frozen=True)
class QuantizationReport:
    """All ops, in order.

    Attributes:
        bytes_before: of all constants of the float graph.
        bytes_after: of those of the integer graph, sub-byte elements packed.
        output_snr_db: of each output.
        first_divergence: name of the first op below `threshold_db`, or None.
    """

    rows: tuple[OpPrecision, ...]
    bytes_before: int
    bytes_after: int
    output_snr_db: tuple[float, ...]
    first_divergence: str | None
    threshold_db: float = DIVERGENCE_DB

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        heads = ("op", "kind", "requested", "effective", "snr dB", "reason")
        cells = [(r.name, r.op, r.requested, r.effective, decibels(r.snr_db), r.reason) for r in self.rows]
        widths = [max(len(row[i]) for row in (heads, *cells)) for i in range(len(heads))]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in (heads, *cells)
        ]
        ratio = self.bytes_before / max(1, self.bytes_after)
        lines.append(
            f"constants: {self.bytes_before:,} bytes before, {self.bytes_after:,} after ({ratio:.2f}x)"
        )
        lines.append(f"outputs: {', '.join(map(decibels, self.output_snr_db))} dB")
        lines.append(
            f"first op below {self.threshold_db:g} dB: "
            + ("none" if self.first_divergence is None else f"%{self.first_divergence}")
        )
        return "\n".join(lines)


def decibels(ratio: float | None) -> str:
    """A ratio for a table."""
    return "-" if ratio is None else f"{ratio:.1f}"


def constant_bytes(graph: Graph) -> int:
    """Bytes of all constants, sub-byte elements packed."""
    return sum(constant.shaped.bytes_at({}) for constant in graph.constants.values())


def report_on(found: Quantized, data: Iterable[Any], dims: Mapping[str, int] | None) -> QuantizationReport:
    """The report on the first batch of `data`.  Raises InputError when there is none."""
    from plait.passes.quantize.calibrate import batches_of

    (batch,) = batches_of(found.float_graph, data, 1)
    noise = _ratios(found, batch, dims)
    rows = []
    for op in found.float_graph.ops:
        scheme = found.schemes.get(op.name)
        if scheme is None and not isinstance(op, CONTRACTIONS):
            continue
        effective = _effective(found, op)
        rows.append(
            OpPrecision(
                name=op.name,
                op=op.opname,
                path=op.loc.origins[0].path if op.loc.origins else "",
                requested="float" if scheme is None else _requested(op, scheme),
                effective=effective,
                reason="" if scheme is None else _reason(found, op, scheme, effective),
                snr_db=noise.get(op.name),
            )
        )
    low = (row.name for row in rows if row.snr_db is not None and row.snr_db < DIVERGENCE_DB)
    return QuantizationReport(
        tuple(rows),
        constant_bytes(found.float_graph),
        constant_bytes(found.graph),
        tuple(noise[f"output {index}"] for index in range(len(found.graph.outputs))),
        next(low, None),
    )


# -- precision ---------------------------------------------------------------------
def _word(bits: int, signed: bool = True) -> str:
    return f"{'int' if signed else 'uint'}{bits}"


def _requested(op: Op, scheme: OpScheme) -> str:
    kind = op.result.shaped.dtype.name
    left = kind if scheme.activation is None else _word(scheme.activation.bits, scheme.activation.signed)
    if not isinstance(op, CONTRACTIONS):
        return left
    if weight_of(op) is None:
        return f"{left} x {left}"
    right = kind if scheme.weight is None else _word(scheme.weight.bits, scheme.weight.signed)
    return f"{left} x {right}"


def _counterpart(graph: Graph, op: Op) -> Op | None:
    """The op of a quantised graph that does the work of an op of the float graph."""
    names = {value.name: value for value in graph.values()}
    for suffix in (".quantized", "", ".accumulator"):
        value = names.get(f"{op.name}{suffix}")
        producer = value.producer if value is not None else None
        while producer is not None and not _same_work(producer, op):
            below = [v.producer for v in producer.operands if v.producer is not None]
            producer = below[0] if len(below) == 1 else None
        if producer is not None:
            return producer
    return None


def _same_work(made: Op, op: Op) -> bool:
    """Whether an op of the integer graph is an op of the float graph, by kind and origin."""
    kinds = {"core.add": "quant.add", "core.mean": "quant.mean", "nn.avg_pool2d": "quant.avg_pool2d"}
    kinds["nn.adaptive_avg_pool2d"] = "quant.mean"
    return made.opname in (op.opname, kinds.get(op.opname)) and bool(
        set(made.loc.origins) & set(op.loc.origins) or not op.loc.origins
    )


def _effective(found: Quantized, op: Op) -> str:
    made = _counterpart(found.graph, op)
    if made is None:
        return op.result.shaped.dtype.name
    words = [_element(value) for value in made.operands[: 2 if isinstance(op, CONTRACTIONS) else None]]
    if not isinstance(op, CONTRACTIONS):
        return words[0] if len(set(words)) == 1 else " + ".join(words)
    return " x ".join(words) if any("int" in word for word in words) else words[0]


def _element(value: Value) -> str:
    kind = value.type
    if isinstance(kind, QuantType):
        return _word(kind.bits, kind.signed)
    return kind.dtype.name if isinstance(kind, ShapedType) else str(kind)


def _reason(found: Quantized, op: Op, scheme: OpScheme, effective: str) -> str:
    if effective == _requested(op, scheme):
        return ""
    if isinstance(op, CONTRACTIONS):
        if scheme.weight is not None and weight_of(op) is None and len(activations_of(op)) < 2:
            return "its weight is no dense constant"
    elif not activations_of(op):
        return "an operand is a constant, or no floating-point tensor"
    placement = place(found.float_graph, found.schemes)
    if op.name not in placement.readers and not scheme.weight_only:
        return "nothing that reads it is quantised"
    wanted = [placement.schemes[v.name] for v in activations_of(op) if v.name in placement.schemes]
    if scheme.activation is not None and any(w.bits != scheme.activation.bits for w in wanted):
        return "another reader of its operand wants it wider"
    in_qdq = _counterpart(found.qdq, op)
    said = reasons(found.qdq, "raise-quantized", in_qdq) if in_qdq is not None else []
    return "; ".join(said) or "no integer kernel for it"


# -- noise -----------------------------------------------------------------------------
def signal_to_noise(signal: torch.Tensor, found: torch.Tensor) -> float:
    """10 log10(sum signal^2 / sum (found - signal)^2), in decibels; infinite where they agree."""
    signal, found = signal.double(), found.double()
    noise = float((found - signal).square().sum())
    power = float(signal.square().sum())
    if noise == 0.0:
        return math.inf
    return -math.inf if power == 0.0 else 10.0 * math.log10(power / noise)


def _ratios(found: Quantized, batch: Any, dims: Mapping[str, int] | None) -> dict[str, float]:
    """Ratio of each value that both graphs hold, by name, and of `output N`."""
    import torch

    kept: dict[str, torch.Tensor] = {}
    ratios: dict[str, float] = {}

    def remember(value: Value, tensor: Any) -> None:
        if isinstance(value.type, ShapedType) and value.type.dtype.is_float:
            kept[value.name] = tensor

    def check(value: Value, tensor: Any) -> None:
        name = value.name.removesuffix(".quantized")
        signal = kept.get(name)
        if signal is None or tuple(signal.shape) != tuple(tensor.shape):
            return
        kind = value.type
        if isinstance(kind, QuantType):
            if isinstance(kind.scale, str) or isinstance(kind.zero_point, str):
                return
            tensor = (tensor.double() - kind.zero_point) * kind.scale
        elif not kind.dtype.is_float:  # type: ignore[attr-defined]  # shapes agree, so it is a tensor
            return
        ratios[name] = signal_to_noise(signal, tensor)

    with torch.no_grad():
        expected = interpret(found.float_graph, batch, observe=remember, dims=dims)
        actual = interpret(found.graph, batch, observe=check, dims=dims)
    for index, (signal, tensor) in enumerate(zip(expected, actual, strict=True)):
        ratios[f"output {index}"] = signal_to_noise(signal, tensor)
    return ratios


__all__ = ["OpPrecision", "QuantizationReport", "constant_bytes", "report_on", "signal_to_noise"]
