"""Representational similarity against scipy and counts by hand, on synthetic representations."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("rsatoolbox")
stats = pytest.importorskip("scipy.stats")

from plait.frontends.families import spiking  # noqa: E402
from plait.frontends.families.spiking import representation as rsa  # noqa: E402
from plait.frontends.families.spiking.networks import LayerConfig, RankOrderNetwork  # noqa: E402
from plait.ir.errors import InputError  # noqa: E402

STIMULI = 14
PAIRS = STIMULI * (STIMULI - 1) // 2


def small_network() -> RankOrderNetwork:
    return RankOrderNetwork(
        spiking.DifferenceOfGaussians(2, [(1, 2), (2, 1)], padding=2),
        2,
        0.01,
        [LayerConfig(4, 3, 1, 3.0, 1, 2, 2), LayerConfig(5, 2, 0, 6.5, 1, 2, 0)],
        spiking.STDPConfig(0.004, -0.003),
        mean=0.5,
        deviation=0.1,
        seed=2,
        steps=6,
    )


def vectors(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def square(vector: np.ndarray) -> np.ndarray:
    size = int((1 + np.sqrt(1 + 8 * len(vector))) / 2)
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size, 1)] = vector
    return matrix + matrix.T


def tau_a(one: np.ndarray, two: np.ndarray) -> float:
    """Concordant less discordant pairs, by all pairs; a tie in either is neither."""
    signs = np.sign(one[:, None] - one[None]) * np.sign(two[:, None] - two[None])
    return float(signs.sum() / (len(one) * (len(one) - 1)))


def noisy(data: np.ndarray, noise: float, seed: int) -> np.ndarray:
    return data + noise * np.random.default_rng(seed).standard_normal(data.shape)


def test_stages_are_those_of_the_network() -> None:
    network = small_network()
    images = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    found = rsa.representations(network, images)
    assert list(found) == ["pixels", "code", "layer 1", "layer 2"]
    wave = network.encode(images)
    waves = {"code": wave, "layer 1": network.run(wave, 1), "layer 2": network.run(wave, 2)}
    for name, expected in waves.items():
        # The number of steps before the spike, counted on the wave itself.
        assert torch.equal(found[name], (expected == 0).sum(dim=1).flatten(1).float()), name
    assert torch.equal(found["pixels"], images.flatten(1))
    assert torch.equal(found["layer 2"], network(images).flatten(1).float())
    assert 0 < float((found["layer 2"] < 6).float().mean()) < 1
    calls: list[int] = []

    def run(image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append(len(image))
        return rsa.Stages(network)(image)

    again = rsa.representations(network, images, run=run)
    assert calls == [1, 1, 1]
    assert all(torch.equal(again[name], found[name]) for name in found)


def test_dissimilarities_are_one_less_pearson() -> None:
    features = {"a": vectors(0, STIMULI, 30), "b": torch.from_numpy(vectors(1, STIMULI, 7))}
    found = rsa.dissimilarities(features)
    assert list(found.rdm_descriptors["name"]) == ["a", "b"]
    for row, values in zip(found.dissimilarities, features.values(), strict=True):
        expected = [
            1 - stats.pearsonr(values[i], values[j]).statistic
            for i in range(STIMULI)
            for j in range(i + 1, STIMULI)
        ]
        np.testing.assert_allclose(row, expected, rtol=1e-10)


@pytest.mark.parametrize("levels", [None, 4])
def test_correlations_against_scipy_and_counts(levels: int | None) -> None:
    one, two = vectors(2, PAIRS), vectors(3, PAIRS)
    two = one + two
    if levels:  # ties in both
        one, two = np.floor(one * levels), np.floor(two * levels)
    models, data = rsa.named_rdms(["m"], one[None]), rsa.named_rdms(["d"], two[None])
    spearman = rsa.correlations(models, data, "spearman")["m"]
    assert spearman == pytest.approx(stats.spearmanr(one, two).statistic, abs=1e-12)
    found = rsa.correlations(models, data, "tau-a")["m"]
    assert found == pytest.approx(tau_a(one, two), abs=1e-12)
    tau_b = stats.kendalltau(one, two).statistic
    rho_a = rsa.correlations(models, data, "rho-a")["m"]
    if levels:
        assert abs(found) < abs(tau_b) - 0.01
        assert abs(rho_a) < abs(spearman) - 0.01
        # rho-a is the mean of Spearman's rho over random orders of tied values.
        generator = np.random.default_rng(5)
        broken = [
            stats.spearmanr(one + 1e-3 * generator.random(PAIRS), two + 1e-3 * generator.random(PAIRS))
            for _ in range(300)
        ]
        assert rho_a == pytest.approx(np.mean([each.statistic for each in broken]), abs=0.01)
    else:
        assert found == pytest.approx(tau_b, abs=1e-12)
        assert rho_a == pytest.approx(spearman, abs=1e-12)


def test_tau_a_by_hand_with_ties() -> None:
    # Of 15 pairs of distances: 3 ties in the model (1-1, 2-2, 3-3), 1 discordant (the 2 at 5 with the 3 at 4).
    one, two = np.array([1.0, 1, 2, 2, 3, 3]), np.array([1.0, 2, 3, 5, 4, 6])
    models, data = rsa.named_rdms(["m"], one[None]), rsa.named_rdms(["d"], two[None])
    assert rsa.correlations(models, data, "tau-a")["m"] == pytest.approx((11 - 1) / 15)


@pytest.mark.parametrize("method", rsa.METHODS)
def test_a_model_equal_to_the_data(method: str) -> None:
    data = rsa.named_rdms(["d"], vectors(4, 1, PAIRS))
    # Any rising function of the distances is the same model.
    models = rsa.named_rdms(
        ["same", "opposed"], np.stack([data.dissimilarities[0] ** 3, -data.dissimilarities[0]])
    )
    found = rsa.correlations(models, data, method)
    assert found == {"same": pytest.approx(1.0), "opposed": pytest.approx(-1.0)}
    drawn = rsa.bootstrap(models, data, method, draws=20)
    np.testing.assert_allclose(drawn.draws[:, 0], -drawn.draws[:, 1], atol=1e-12)
    # A stimulus drawn twice has each distance twice: ties, which only Spearman's rho makes up for.
    assert drawn.draws[:, 0].min() > (1 - 1e-12 if method == "spearman" else 0.9)


def test_sets_of_one_name_are_one_model() -> None:
    values, data = vectors(6, 3, PAIRS), rsa.named_rdms(["d", "e"], vectors(7, 2, PAIRS))
    models = rsa.concatenate([rsa.named_rdms(["n", "o"], values[:2]), rsa.named_rdms(["n"], values[2:])])
    each = [[stats.spearmanr(value, target).statistic for target in data.dissimilarities] for value in values]
    found = rsa.correlations(models, data)
    assert found == {"n": pytest.approx(np.mean([each[0], each[2]])), "o": pytest.approx(np.mean(each[1]))}
    assert rsa.bootstrap(models, data, draws=3).names == ("n", "o")


@pytest.mark.parametrize("method", ["spearman", "tau-a"])
def test_bootstrap_leaves_out_pairs_of_a_stimulus_with_itself(method: str) -> None:
    def expected(a: np.ndarray, b: np.ndarray) -> float:
        return tau_a(a, b) if method == "tau-a" else float(stats.spearmanr(a, b).statistic)

    one, two = vectors(8, PAIRS), vectors(9, PAIRS)
    models, data = rsa.named_rdms(["m"], one[None]), rsa.named_rdms(["d"], two[None])
    drawn = rsa.bootstrap(models, data, method, draws=25, seed=3)
    generator = np.random.default_rng(3)
    first, second, with_zeros = square(one), square(two), []
    upper = np.triu_indices(STIMULI, 1)
    for value in drawn.draws[:, 0]:
        chosen = generator.integers(0, STIMULI, STIMULI)
        assert len(set(chosen)) < STIMULI
        a, b = first[np.ix_(chosen, chosen)][upper], second[np.ix_(chosen, chosen)][upper]
        differ = chosen[upper[0]] != chosen[upper[1]]
        assert value == pytest.approx(expected(a[differ], b[differ]), abs=1e-12)
        with_zeros.append(expected(a, b))
    # The zeros would have counted as agreement.
    assert np.mean(with_zeros) > drawn.draws.mean() + 0.05


def test_bootstrap_is_determined_by_its_seed() -> None:
    models, data = rsa.named_rdms(["m"], vectors(10, 1, PAIRS)), rsa.named_rdms(["d"], vectors(11, 1, PAIRS))
    draws = [rsa.bootstrap(models, data, draws=10, seed=seed).draws for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_bootstrap_intervals_cover() -> None:
    """Stimuli drawn from a known population: about 95 % of intervals hold the population's correlation."""

    def distances(points: np.ndarray) -> np.ndarray:
        return np.abs(points[:, None] - points[None])[np.triu_indices(len(points), 1)]

    def draw(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        points = generator.standard_normal(count)
        return distances(points), distances(points + generator.standard_normal(count))

    generator = np.random.default_rng(12)
    truth = stats.spearmanr(*draw(1500, generator)).statistic
    held = []
    for seed in range(40):
        one, two = draw(30, generator)
        models, data = rsa.named_rdms(["m"], one[None]), rsa.named_rdms(["d"], two[None])
        found = rsa.bootstrap(models, data, draws=50, seed=seed).interval("m")
        assert found.lower < found.upper
        held.append(found.lower <= truth <= found.upper)
    assert 0.85 <= np.mean(held) <= 1.0


def test_paired_differences() -> None:
    points = np.random.default_rng(13).standard_normal((40, 8))
    generator = np.random.default_rng(14)
    features = {
        "near": points + 0.3 * generator.standard_normal(points.shape),
        "far": points + 2.0 * generator.standard_normal(points.shape),
    }
    features["near too"] = features["near"] * 2 + 1
    models, data = rsa.dissimilarities(features), rsa.dissimilarities({"data": points})
    drawn = rsa.bootstrap(models, data, draws=199)
    better = drawn.difference("near", "far")
    assert 0 < better.lower < better.estimate < better.upper
    assert better.p == pytest.approx(2 / 200)
    worse = drawn.difference("far", "near")
    assert (worse.estimate, worse.lower, worse.upper) == pytest.approx(
        (-better.estimate, -better.upper, -better.lower)
    )
    same = drawn.difference("near", "near too")
    assert same.estimate == pytest.approx(0.0, abs=1e-9)
    # By hand: the quantiles of the differences, draw by draw.
    by_hand = np.quantile(drawn.draws[:, 0] - drawn.draws[:, 1], [0.05, 0.95])
    found = drawn.difference("near", "far", level=0.9)
    np.testing.assert_allclose([found.lower, found.upper], by_hand)


@pytest.mark.parametrize("method", ["spearman", "rho-a"])
def test_noise_ceiling_by_hand(method: str) -> None:
    subjects = ["a", "a", "b", "b", "c"]
    data = noisy(np.tile(vectors(15, PAIRS), (5, 1)), 0.3, 16)
    found = rsa.noise_ceiling(rsa.named_rdms(subjects, data, {"subject": subjects}), method)
    ranks = np.stack([stats.rankdata(row) for row in data])
    lower, upper = [], []
    for subject in "abc":
        own = np.array([each == subject for each in subjects])
        upper.append(np.mean([stats.spearmanr(row, ranks.mean(axis=0)).statistic for row in data[own]]))
        lower.append(np.mean([stats.spearmanr(row, ranks[~own].mean(axis=0)).statistic for row in data[own]]))
    assert found.lower == pytest.approx(np.mean(lower), abs=1e-3)
    assert found.upper == pytest.approx(np.mean(upper), abs=1e-3)
    assert 0 < found.lower < found.upper < 1
    assert rsa.noise_ceiling(rsa.named_rdms(subjects, data), "tau-a", by="name").lower > 0


def test_a_single_recording_has_no_noise_ceiling() -> None:
    one = rsa.named_rdms(["macaque"], vectors(17, 1, PAIRS), {"subject": ["macaque"]})
    with pytest.raises(InputError, match="no noise ceiling can be computed from one subject"):
        rsa.noise_ceiling(one)
    with pytest.raises(InputError, match="no descriptor is called 'subject'"):
        rsa.noise_ceiling(rsa.named_rdms(["macaque"], vectors(17, 1, PAIRS)))


def test_refusals() -> None:
    models, data = rsa.named_rdms(["m"], vectors(18, 1, PAIRS)), rsa.named_rdms(["d"], vectors(19, 1, 10))
    with pytest.raises(InputError, match="models of 14 stimuli and data of 5"):
        rsa.correlations(models, data)
    with pytest.raises(InputError, match="did you mean 'spearman'"):
        rsa.correlations(models, models, "spearmen")
    with pytest.raises(InputError, match="no model is called 'n'"):
        rsa.bootstrap(models, models, draws=2).interval("n")
    with pytest.raises(InputError, match="for 2 names"):
        rsa.named_rdms(["a", "b"], vectors(18, 1, PAIRS))
    with pytest.raises(InputError, match="not finite"):
        rsa.named_rdms(["a"], np.full((1, PAIRS), np.nan))
    flat = vectors(20, STIMULI, 6)
    flat[3] = 15.0
    with pytest.raises(InputError, match=r"layer 2: all features are equal for the stimuli \[3\]"):
        rsa.dissimilarities({"layer 2": flat})
    with pytest.raises(InputError, match="b: 13 stimuli"):
        rsa.dissimilarities({"a": vectors(21, STIMULI, 6), "b": vectors(21, STIMULI - 1, 6)})


def test_without_rsatoolbox(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: dict[str, Any] = {"rsatoolbox": None}
    monkeypatch.setitem(sys.modules, "rsatoolbox", missing["rsatoolbox"])
    with pytest.raises(InputError, match="rsatoolbox is not installed") as caught:
        rsa.dissimilarities({"a": vectors(22, STIMULI, 6)})
    assert caught.value.remedy == "pip install 'plait[neuro]'"
