"""Conversion of trained ReLU networks to spiking networks with the same weights.

from plait.passes.spike.conversion.pipeline import to_spiking

found = to_spiking(graph, batches, steps=64)
found.graph      # integrate-and-fire neurons in a loop over time, for compile()
print(found.report)
"""

from plait.passes.spike.conversion.result import Spiking

__all__ = ["Spiking"]
