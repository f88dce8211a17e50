"""What a predictor answers: figures with intervals, their basis, and what they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from plait.predictors.mig import MigChoice
from plait.predictors.published import PublishedMeasurement

Basis = Literal["measured", "calibrated", "simulated"]


@dataclass(frozen=True)
class Interval:
    """Where the true figure is expected to lie."""

    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return {"low": self.low, "high": self.high}


@dataclass(frozen=True)
class OpShare:
    """One kernel's part of the latency, named after its heaviest op.

    Args:
        name: the op's value name.
        fused: how many ops run in the kernel.
        share: of the time of all kernels, 0..1.
        bound: what takes most of the kernel's time.
        location: place in the source model.
    """

    name: str
    opname: str
    share: float
    bound: Literal["compute", "memory", "launch"]
    location: str
    fused: int = 1

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "opname": self.opname,
            "share": self.share,
            "bound": self.bound,
            "location": self.location,
            "fused": self.fused,
        }


@dataclass(frozen=True)
class Roofline:
    """The analytical figures, shown beside those of a learned predictor.

    `busy_ms` is the time that kernels run; the rest of the latency the GPU waits for the host.
    """

    latency_ms: float
    energy_j: float
    memory_mb: float
    busy_ms: float
    kernels: int
    flops: float
    bytes: float

    def to_dict(self) -> dict[str, float]:
        return {
            "latency_ms": self.latency_ms,
            "energy_j": self.energy_j,
            "memory_mb": self.memory_mb,
            "busy_ms": self.busy_ms,
            "kernels": self.kernels,
            "flops": self.flops,
            "bytes": self.bytes,
        }


@dataclass(frozen=True)
class Prediction:
    """Latency, energy and memory of one run of a graph on a device.  Memory is in MiB.

    Args:
        basis: the predictor, "roofline" or a model's name.
        provenance: per figure, how it was come by.
        in_distribution: whether the training data of a learned predictor covers the
            graph; None where no predictor was trained.
        mig: the smallest MIG profile that fits.
        top_ops: the kernels that take most time, largest first.
        coverage: share of the priced ops whose cost rule is exact.
        weights_mb, activations_mb, workspace_mb, context_mb: parts of memory_mb.
        peak_op: op at which most activations are alive.
        published: a published measurement of the same model, device and batch.
        notes: what a reader must know, such as dims that were set to their upper bound.
    """

    graph_name: str
    graph_id: str
    device: str
    dims: Mapping[str, int]
    precision: str
    fused: bool
    latency_ms: float
    latency_interval_ms: Interval
    energy_j: float
    energy_interval_j: Interval
    memory_mb: float
    memory_interval_mb: Interval
    basis: str
    provenance: Mapping[str, Basis]
    in_distribution: bool | None
    roofline: Roofline
    mig: MigChoice
    top_ops: tuple[OpShare, ...]
    coverage: float
    priced_ops: int
    weights_mb: float
    activations_mb: float
    workspace_mb: float
    context_mb: float
    peak_op: str | None
    published: PublishedMeasurement | None = None
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """The prediction as plain data, ready for JSON."""
        return {
            "graph_name": self.graph_name,
            "graph_id": self.graph_id,
            "device": self.device,
            "dims": dict(self.dims),
            "precision": self.precision,
            "fused": self.fused,
            "latency_ms": self.latency_ms,
            "latency_interval_ms": self.latency_interval_ms.to_dict(),
            "energy_j": self.energy_j,
            "energy_interval_j": self.energy_interval_j.to_dict(),
            "memory_mb": self.memory_mb,
            "memory_interval_mb": self.memory_interval_mb.to_dict(),
            "basis": self.basis,
            "provenance": dict(self.provenance),
            "in_distribution": self.in_distribution,
            "roofline": self.roofline.to_dict(),
            "mig": self.mig.to_dict(),
            "top_ops": [share.to_dict() for share in self.top_ops],
            "coverage": self.coverage,
            "priced_ops": self.priced_ops,
            "weights_mb": self.weights_mb,
            "activations_mb": self.activations_mb,
            "workspace_mb": self.workspace_mb,
            "context_mb": self.context_mb,
            "peak_op": self.peak_op,
            "published": None if self.published is None else self.published.to_dict(),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        r = self.roofline
        dims = ", ".join(f"{name}={value}" for name, value in self.dims.items()) or "fixed dims"
        peak = f" peak at %{self.peak_op}" if self.peak_op else ""
        exact = round(self.coverage * self.priced_ops)
        trust = {
            None: "not applicable, no learned model",
            True: "in distribution",
            False: "out of distribution",
        }
        rows = [
            (
                "device",
                f"{self.device}, {dims}, {self.precision}, {'fused' if self.fused else 'eager'} kernels",
            ),
            (
                "latency_ms",
                _figure(self.latency_ms, self.latency_interval_ms) + f"   roofline {r.latency_ms:.3g}",
            ),
            ("energy_j", _figure(self.energy_j, self.energy_interval_j) + f"   roofline {r.energy_j:.3g}"),
            (
                "memory_mb",
                _figure(self.memory_mb, self.memory_interval_mb)
                + f"   weights {self.weights_mb:,.1f}, activations {self.activations_mb:,.1f}{peak},"
                + f" workspace {self.workspace_mb:,.1f}, context {self.context_mb:,.0f}",
            ),
            ("mig", str(self.mig)),
            ("basis", f"{self.basis}; " + ", ".join(f"{k} {v}" for k, v in self.provenance.items())),
            ("trust", trust[self.in_distribution]),
            (
                "top ops",
                ", ".join(f"%{o.name} {o.share:.0%} ({o.bound})" for o in self.top_ops[:5]) or "none",
            ),
            (
                "coverage",
                f"{exact} of {self.priced_ops} ops have an exact cost rule; {r.kernels:,} kernels, "
                f"{r.busy_ms:.3g} ms busy",
            ),
        ]
        if self.published is not None:
            rows.append(("published", str(self.published)))
        rows += [("note", note) for note in self.notes]
        return "\n".join(f"{label:<12}{text}" for label, text in rows)


def _figure(value: float, interval: Interval) -> str:
    return f"{_number(value)}   ({_number(interval.low)} .. {_number(interval.high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
