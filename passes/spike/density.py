"""Measured densities: a graph runs on the user's batches, and its types say how much spikes.

Costs, predictions and the choice of kernels read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from plait.ir import Graph, Value
from plait.ir.ops import core, spike
from plait.ir.types import SpikeType
from plait.passes.quantize.calibrate import batches_of, run


@dataclass(frozen=True)
class Density:
    """What was seen of one value.

    Attributes:
        density: share of elements that spike; of first-spike times, of inputs that fire.
        silent: share of rows (along the leading axes but the last; of images, of samples) without a spike.
        elements: how many elements were seen.
    """

    density: float
    silent: float
    elements: int


@dataclass(frozen=True)
class DensityReport:
    """The densities of a graph by the name of the value, in the order of the graph."""

    rows: Mapping[str, Density]

    def __str__(self) -> str:
        lines = ["value                              density   silent rows"]
        for name, row in self.rows.items():
            lines.append(f"%{name:32s} {row.density:9.4f} {row.silent:13.4f}")
        return "\n".join(lines)


class _Counter:
    """Spikes, elements, silent rows and rows of one value over all batches and steps."""

    def __init__(self) -> None:
        self.spikes = self.elements = self.silent = self.rows = 0

    def see(self, fires: torch.Tensor) -> None:
        rank = fires.dim()
        rows = fires.reshape(1, -1) if rank == 0 else fires.flatten(1 if rank == 4 else max(rank - 1, 0))
        rows = rows.reshape(-1, rows.shape[-1]) if rank else rows
        self.spikes += int(fires.sum())
        self.elements += fires.numel()
        self.silent += int((~rows.any(dim=1)).sum())
        self.rows += rows.shape[0]

    def result(self) -> Density:
        return Density(self.spikes / self.elements, self.silent / self.rows, self.elements)


def annotate_density(
    graph: Graph,
    data: Iterable[Any],
    *,
    limit: int | None = None,
    dims: Mapping[str, int] | None = None,
) -> tuple[Graph, DensityReport]:
    """A copy of a graph whose spike types, and layers on first-spike times, hold measured densities.

    Values inside loops get the mean over all steps.  The graph is run by its reference semantics.

    Args:
        data: calibration batches: each a mapping by input, a sequence, or the sole input.
        limit: batches to read at most.
        dims: values of dims that the inputs leave open.

    Returns:
        The copy, which is the same graph but for densities, and what was measured.

    Raises:
        InputError: data that is empty, not finite, or of a wrong shape or type.
    """
    copy = graph.clone()
    counters: dict[Value, _Counter] = {}
    readers: dict[Value, list[spike.FirstSpikeConv2d]] = {}
    for value in copy.values():
        if isinstance(value.type, SpikeType):
            counters[value] = _Counter()
    for op in copy.walk():
        if isinstance(op, spike.FirstSpikeConv2d):
            readers.setdefault(op.x, []).append(op)
            counters[op.x] = _Counter()

    def see(value: Value, tensor: Any) -> None:
        if value not in counters or not isinstance(tensor, torch.Tensor) or not tensor.numel():
            return
        steps = readers[value][0].steps if value in readers else 0
        counters[value].see(tensor < steps if value in readers else tensor.to(torch.bool))

    for batch in batches_of(copy, data, limit):
        for value in copy.inputs:
            see(value, torch.as_tensor(batch[value.name]))
        run(copy, batch, see, dims=dims)

    found = {value: counter.result() for value, counter in counters.items() if counter.elements}
    _share_with_parameters(copy, found)
    for value, row in found.items():
        if isinstance(value.type, SpikeType):
            value.type = SpikeType(value.type.shape, row.density)
    for value, ops in readers.items():
        for op in ops:
            if value in found:
                copy.replace(op, op.evolve(density=round(found[value].density, 6)))
    copy.verify()
    return copy, DensityReport({value.name: row for value, row in found.items()})


def _share_with_parameters(graph: Graph, found: dict[Value, Density]) -> None:
    """Parameters of loops are computed by no op, so that none was seen: they are what the loop is handed."""
    for op in graph.walk():
        if not isinstance(op, core.Scan):
            continue
        for given, parameter in zip(op.inputs, op.body.params, strict=False):
            if given in found and isinstance(parameter.type, SpikeType):
                found.setdefault(parameter, found[given])


__all__ = ["Density", "DensityReport", "annotate_density"]
