"""The result of a conversion to spikes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait.ir import Graph

if TYPE_CHECKING:
    from plait.passes.spike.conversion.report import SpikingReport


@dataclass(frozen=True)
class Spiking:
    """A spiking model and what it was made from.

    Attributes:
        graph: the network over time; it takes the inputs of the source and gives its outputs.
        source: what was converted: the optimised float graph, whose values the report names.
        report: scale, clipping and firing rate of each layer of neurons.
    """

    graph: Graph
    source: Graph
    report: SpikingReport
