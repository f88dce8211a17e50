"""Spiking networks: rank-order layers learned by STDP, and leaky neurons learned by gradients or traces."""

from plait.frontends.families.spiking.backward import (
    BackwardConfig,
    TemporalNetwork,
    target_times,
    time_gradient,
)
from plait.frontends.families.spiking.coding import (
    SpikeEvents,
    first_spike_times,
    gather,
    rank_order_code,
    scatter,
    wave_of,
)
from plait.frontends.families.spiking.diehl_cook import DiehlCook, DiehlCookConfig, NeuronLabels
from plait.frontends.families.spiking.diehl_cook_response import DiehlCookResponse
from plait.frontends.families.spiking.filters import (
    DifferenceOfGaussians,
    Gabor,
    LaplacianOfGaussian,
    suppress,
)
from plait.frontends.families.spiking.fully_connected import (
    inhibit_neurons,
    neuron_winners,
    update_neurons,
)
from plait.frontends.families.spiking.layers import (
    Winners,
    convolution_winners,
    convolve,
    fire,
    inhibit,
    pool,
)
from plait.frontends.families.spiking.mozafari import Mozafari, MozafariShallow, RewardNetwork
from plait.frontends.families.spiking.networks import Kheradpisheh, LayerConfig, RankOrderNetwork, Rezghi
from plait.frontends.families.spiking.neurons import LIF, CurrentLIF, IntegrateAndFire, OverTime
from plait.frontends.families.spiking.rate import (
    gather_counts,
    rate_code,
    rate_fire,
    rate_pool,
    spike_trains,
)
from plait.frontends.families.spiking.reward import RewardRules, decide
from plait.frontends.families.spiking.stdp import STDPConfig, convergence, quantize, reward
from plait.frontends.families.spiking.surrogate import ArcTangent, FastSigmoid, StraightThrough, Triangle
from plait.frontends.families.spiking.training import (
    ClassifierOverTime,
    GradientTraining,
    SpikingClassifier,
    spiking_convnet,
    spiking_mlp,
)
from plait.frontends.families.spiking.whitening import Whitening

__all__ = [
    "LIF",
    "ArcTangent",
    "BackwardConfig",
    "ClassifierOverTime",
    "CurrentLIF",
    "DiehlCook",
    "DiehlCookConfig",
    "DiehlCookResponse",
    "DifferenceOfGaussians",
    "FastSigmoid",
    "Gabor",
    "GradientTraining",
    "IntegrateAndFire",
    "Kheradpisheh",
    "LaplacianOfGaussian",
    "LayerConfig",
    "Mozafari",
    "MozafariShallow",
    "NeuronLabels",
    "OverTime",
    "RankOrderNetwork",
    "RewardNetwork",
    "RewardRules",
    "Rezghi",
    "STDPConfig",
    "SpikeEvents",
    "SpikingClassifier",
    "StraightThrough",
    "TemporalNetwork",
    "Triangle",
    "Whitening",
    "Winners",
    "convergence",
    "convolution_winners",
    "convolve",
    "decide",
    "fire",
    "first_spike_times",
    "gather",
    "gather_counts",
    "inhibit",
    "inhibit_neurons",
    "neuron_winners",
    "pool",
    "quantize",
    "rank_order_code",
    "rate_code",
    "rate_fire",
    "rate_pool",
    "reward",
    "scatter",
    "spike_trains",
    "spiking_convnet",
    "spiking_mlp",
    "suppress",
    "target_times",
    "time_gradient",
    "update_neurons",
    "wave_of",
]
