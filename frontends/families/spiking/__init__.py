"""Rank-order spiking networks: filters, codes, integrate-and-fire layers, STDP and whole networks."""

from plait.frontends.families.spiking.coding import (
    SpikeEvents,
    first_spike_times,
    gather,
    rank_order_code,
    scatter,
    wave_of,
)
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
from plait.frontends.families.spiking.stdp import STDPConfig, convergence, quantize, reward

__all__ = [
    "DifferenceOfGaussians",
    "Gabor",
    "Kheradpisheh",
    "LaplacianOfGaussian",
    "LayerConfig",
    "RankOrderNetwork",
    "Rezghi",
    "STDPConfig",
    "SpikeEvents",
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
    "suppress",
    "wave_of",
]
