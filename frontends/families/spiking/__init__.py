"""Spiking networks: rank-order layers learned by STDP, and leaky neurons learned by gradients or traces."""

from plait.frontends.families.spiking.coding import (
    SpikeEvents,
    first_spike_times,
    gather,
    rank_order_code,
    scatter,
    wave_of,
)
from plait.frontends.families.spiking.diehl_cook import DiehlCook, DiehlCookConfig, NeuronLabels
from plait.frontends.families.spiking.filters import (
    DifferenceOfGaussians,
    Gabor,
    LaplacianOfGaussian,
    suppress,
)
from plait.frontends.families.spiking.layers import (
    Winners,
    convolution_winners,
    convolve,
    fire,
    inhibit,
    pool,
)
from plait.frontends.families.spiking.networks import Kheradpisheh, LayerConfig, RankOrderNetwork, Rezghi
from plait.frontends.families.spiking.neurons import LIF, CurrentLIF, IntegrateAndFire, OverTime
from plait.frontends.families.spiking.stdp import STDPConfig, convergence, quantize, reward
from plait.frontends.families.spiking.surrogate import ArcTangent, FastSigmoid, StraightThrough, Triangle
from plait.frontends.families.spiking.training import (
    GradientTraining,
    SpikingClassifier,
    spiking_convnet,
    spiking_mlp,
)

__all__ = [
    "LIF",
    "ArcTangent",
    "CurrentLIF",
    "DiehlCook",
    "DiehlCookConfig",
    "DifferenceOfGaussians",
    "FastSigmoid",
    "Gabor",
    "GradientTraining",
    "IntegrateAndFire",
    "Kheradpisheh",
    "LaplacianOfGaussian",
    "LayerConfig",
    "NeuronLabels",
    "OverTime",
    "RankOrderNetwork",
    "Rezghi",
    "STDPConfig",
    "SpikeEvents",
    "SpikingClassifier",
    "StraightThrough",
    "Triangle",
    "Winners",
    "convergence",
    "convolution_winners",
    "convolve",
    "fire",
    "first_spike_times",
    "gather",
    "inhibit",
    "pool",
    "quantize",
    "rank_order_code",
    "reward",
    "scatter",
    "spiking_convnet",
    "spiking_mlp",
    "suppress",
    "wave_of",
]
