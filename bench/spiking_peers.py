"""Spyker's and snnTorch's forms of plait's rank-order networks, and the digits that all of them see."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from plait.frontends.families.spiking import (
    DifferenceOfGaussians,
    LaplacianOfGaussian,
    RankOrderNetwork,
    RewardNetwork,
)

#: Standard deviations in pixels of the filters of each network, as published.
DEVIATIONS: dict[str, list[Any]] = {
    "Kheradpisheh": [(1.0, 2.0), (2.0, 1.0)],
    "Rezghi": [0.4714, 1.0999, 2.0428],
    "Mozafari": [(a / 9, b / 9) for a, b in ((3, 6), (6, 3), (7, 14), (14, 7), (13, 26), (26, 13))],
}


def digits(count: int) -> torch.Tensor:
    """The first of scikit-learn's digits, 20x20 in the middle: float32 [count, 1, 28, 28] in 0..1."""
    from sklearn.datasets import load_digits

    small = torch.tensor(load_digits().images[:count], dtype=torch.float32).unsqueeze(1) / 16
    large = nn.functional.interpolate(small, size=(20, 20), mode="bilinear", align_corners=False)
    return nn.functional.pad(large, (4, 4, 4, 4))


def labels_of(count: int) -> torch.Tensor:
    """Their labels, int64 [count]."""
    from sklearn.datasets import load_digits

    return torch.tensor(load_digits().target[:count], dtype=torch.int64)


class SpykerNetwork:
    """A network as Spyker computes it, with the weights of plait's.

    Args:
        sparse: by Spyker's lists of events, else on dense waves.
    """

    def __init__(self, network: RankOrderNetwork, *, sparse: bool, threads: int) -> None:
        import spyker

        self.spyker, self.network, self.sparse = spyker, network, sparse
        spyker.set_max_threads(threads)
        deviations = DEVIATIONS[type(network).__name__]
        radius, padding = network.filters.kernel.shape[-1] // 2, network.filters.padding
        if isinstance(network.filters, DifferenceOfGaussians):
            self.filters = spyker.DoG(radius, [spyker.DoGFilter(*pair) for pair in deviations], pad=padding)
        else:
            assert isinstance(network.filters, LaplacianOfGaussian)
            self.filters = spyker.LoG(radius, deviations, pad=padding)
        self.layers = []
        for index, (config, weight) in enumerate(zip(network.configs, network.weights, strict=True)):
            outputs, inputs, kernel, _ = weight.shape
            layer = spyker.Conv(inputs, outputs, kernel, pad=config.padding)
            rules = [network.rules[index]]
            if isinstance(network, RewardNetwork) and index == network.last:
                rules = network.current.by_index()
            layer.stdpconfig = [
                spyker.STDPConfig(r.positive, r.negative, r.stabilize, r.lower, r.upper) for r in rules
            ]
            self.layers.append(layer)
        self.reset()

    def reset(self) -> None:
        """Give the layers the weights of plait's network again."""
        for layer, weight in zip(self.layers, self.network.weights, strict=True):
            self.spyker.copy_array(weight.detach().numpy(), layer.kernel)

    def code(self, image: torch.Tensor) -> Any:
        """Spikes of an encoded image."""
        strong = self.spyker.threshold(self.filters(image), self.network.filter_threshold)
        code = self.spyker.sparse.code if self.sparse else self.spyker.code
        return code(strong, self.network.steps)

    def layer(self, wave: Any, index: int) -> Any:
        """Spikes of a layer before pooling."""
        threshold = self.network.configs[index].threshold
        if self.sparse:
            return self.layers[index](wave, threshold)
        if threshold is None:
            return self.spyker.fire(self.spyker.infinite(self.layers[index](wave)))
        return self.spyker.fire(self.layers[index](wave), threshold)

    def run(self, wave: Any, count: int) -> Any:
        """Spikes after the first `count` layers."""
        pool = self.spyker.sparse.pool if self.sparse else self.spyker.pool
        for index, config in enumerate(self.network.configs[:count]):
            wave = self.layer(wave, index)
            if config.pool:
                wave = pool(wave, config.pool, pad=config.pool_padding)
        return wave

    def infer(self, image: torch.Tensor) -> np.ndarray:
        """First-spike times u8 of the last layer."""
        wave = self.run(self.code(image), len(self.layers))
        if self.sparse:
            return np.asarray(self.spyker.to_numpy(self.spyker.sparse.gather(wave)))
        found: torch.Tensor = self.spyker.gather(wave)
        return found.numpy()

    def step(self, image: torch.Tensor, index: int) -> np.ndarray:
        """One STDP update of a layer; its weights."""
        wave = self.run(self.code(image), index)
        config, layer = self.network.configs[index], self.layers[index]
        if self.sparse:
            fired = self.spyker.sparse.inhibit(layer(wave, config.threshold))
            layer.stdp(wave, self.spyker.sparse.convwta(fired, config.radius, config.winners))
        else:
            potential = self.spyker.threshold(layer(wave), config.threshold)
            potential = self.spyker.inhibit(potential)
            winners = self.spyker.convwta(potential, config.radius, config.winners)
            layer.stdp(wave, winners, self.spyker.fire(potential))
        return np.asarray(self.spyker.to_numpy(layer.kernel))

    def winners(self, image: torch.Tensor, index: int) -> list[list[tuple[int, int, int]]]:
        """Winners (channel, row, column) of each sample, on dense waves."""
        config = self.network.configs[index]
        potential = self.layers[index](self.run(self.code(image), index))
        potential = self.spyker.inhibit(self.spyker.threshold(potential, config.threshold))
        found = self.spyker.convwta(potential, config.radius, config.winners)
        return [[(winner.z, winner.y, winner.x) for winner in sample] for sample in found]

    def reward_step(self, image: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
        """One R-STDP update of the last layer on dense waves; its weights."""
        network = self.network
        assert isinstance(network, RewardNetwork)
        layer, config = self.layers[-1], network.configs[-1]
        wave = self.run(self.code(image), network.last)
        potential = self.spyker.infinite(layer(wave))
        winners = self.spyker.convwta(potential, config.radius, config.winners)
        for sample, label in zip(winners, labels.tolist(), strict=True):
            for winner in sample:
                winner.c = int(winner.z // (config.maps // network.classes) != label)
        layer.stdp(wave, winners, self.spyker.fire(potential))
        return np.asarray(self.spyker.to_numpy(layer.kernel))


class SnnTorchNetwork(nn.Module):
    """A network as snnTorch computes it: a convolution a step, and neurons that neither leak nor reset.

    In each step a layer convolves the spikes that are new and adds them to the potential of `Leaky(beta=1)`,
    whose spikes stay from the step on at which it passes the threshold.
    """

    def __init__(self, network: RankOrderNetwork) -> None:
        super().__init__()
        import snntorch

        self.network = network
        self.neurons = nn.ModuleList(
            snntorch.Leaky(
                beta=1.0,
                threshold=float("inf") if config.threshold is None else config.threshold,
                reset_mechanism="none",
            )
            for config in network.configs
        )

    @torch.no_grad()
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image [B, 1, H, W] -> first-spike times int64 [B, O, H', W']."""
        network = self.network
        wave = network.encode(image).to(torch.float32)
        states: list[Any] = [neuron.init_leaky() for neuron in self.neurons]  # type: ignore[operator]
        before: list[torch.Tensor | None] = [None] * len(self.neurons)
        times = torch.empty(0)
        for step in range(network.steps):
            spikes = wave[:, step]
            for index, (config, neuron) in enumerate(zip(network.configs, self.neurons, strict=True)):
                old = before[index]
                new = spikes if old is None else spikes - old
                before[index] = spikes
                current = nn.functional.conv2d(new, network.weights[index], padding=config.padding)
                spikes, states[index] = neuron(current, states[index])
                if config.threshold is None and step == network.steps - 1:
                    spikes = (states[index] > 0).to(torch.float32)
                if config.pool:
                    spikes = nn.functional.max_pool2d(spikes, config.pool, padding=config.pool_padding)
            if step == 0:
                times = torch.full(spikes.shape, network.steps)
            times = torch.where((spikes > 0) & (times == network.steps), step, times)
        return times


__all__ = ["SnnTorchNetwork", "SpykerNetwork", "digits", "labels_of"]
