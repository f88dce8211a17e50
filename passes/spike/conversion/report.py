"""What a conversion to spikes did: scales, clipping and firing rates, layer by layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LayerActivity:
    """One layer of neurons.

    Attributes:
        name: of the activation in the source graph, or of the input that is coded by spikes.
        op: its kind; "input" for an input.
        path: module path.
        neurons: of one sample; None where a size other than that of the batch is not known.
        scale: the activation that a neuron which fires at each step stands for.
        clipped: share of the activations on the calibration data that exceed the scale.
        rate: mean spikes of a neuron and step on the calibration data.
    """

    name: str
    op: str
    path: str
    neurons: int | None
    scale: float
    clipped: float
    rate: float


@dataclass(frozen=True)
class SpikingReport:
    """All layers of neurons, in order.

    Attributes:
        steps: of time for one sample.
        coding: of the input.
        percentile: of the activations, that gave the scales.
        samples: of the calibration data.
        remarks: what was done that the layers do not tell.
    """

    rows: tuple[LayerActivity, ...]
    steps: int
    coding: str
    percentile: float
    samples: int
    remarks: tuple[str, ...] = ()

    @property
    def spikes_per_sample(self) -> float | None:
        """Mean number of spikes in all layers and steps; None where the number of neurons is not known."""
        total = 0.0
        for row in self.rows:
            if row.neurons is None:
                return None
            total += row.rate * row.neurons * self.steps
        return total

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "spikes_per_sample": self.spikes_per_sample}

    def __str__(self) -> str:
        heads = ("layer", "kind", "path", "neurons", "scale", "clipped", "rate")
        cells = [
            (
                row.name,
                row.op,
                row.path,
                "?" if row.neurons is None else f"{row.neurons:,}",
                f"{row.scale:.4g}",
                f"{row.clipped:.3%}",
                f"{row.rate:.4f}",
            )
            for row in self.rows
        ]
        widths = [max(len(row[i]) for row in (heads, *cells)) for i in range(len(heads))]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in (heads, *cells)
        ]
        total = self.spikes_per_sample
        spikes = "" if total is None else f", {total:,.0f} spikes a sample"
        lines.append(
            f"{self.steps} steps, {self.coding} input, scales at the {self.percentile:g}th percentile of "
            f"{self.samples} samples{spikes}"
        )
        return "\n".join([*lines, *self.remarks])


__all__ = ["LayerActivity", "SpikingReport"]
