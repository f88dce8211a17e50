"""Quantisation-aware training of graphs, and sharpness-aware training (SAQ).

    module = prepare(graph, schemes)                          # fake quantisers with learned steps
    optimizer = SharpnessAware(SGD(module.parameters(), lr=0.01), module, rho=0.05, case=3)
    optimizer.step(closure)                                   # closure: forward, backward, loss
    qdq = module.convert()

Importing this package imports torch.
"""

from plait.passes.quantize.training.landscape import Estimate, Landscape, plot_lines, plot_planes
from plait.passes.quantize.training.module import GraphModule
from plait.passes.quantize.training.prepare import QUANTIZERS, QatModule, QuantizerKind, prepare
from plait.passes.quantize.training.quantizers import (
    LearnedClipping,
    LearnedInterval,
    LearnedStep,
    Quantizer,
)
from plait.passes.quantize.training.saq import Bernoulli, Reuse, SharpnessAware, Subset

__all__ = [
    "QUANTIZERS",
    "Bernoulli",
    "Estimate",
    "GraphModule",
    "Landscape",
    "LearnedClipping",
    "LearnedInterval",
    "LearnedStep",
    "QatModule",
    "Quantizer",
    "QuantizerKind",
    "Reuse",
    "SharpnessAware",
    "Subset",
    "plot_lines",
    "plot_planes",
    "prepare",
]
