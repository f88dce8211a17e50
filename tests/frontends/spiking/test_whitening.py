"""ZCA whitening against its defining properties, scikit-learn's PCA and the Spyker package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import plait
from plait.frontends.families import spiking
from plait.frontends.families.spiking.whitening import Whitening, split
from plait.ir.interpret import interpret


def correlated(seed: int, count: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    features = int(np.prod(shape))
    mixing = torch.randn(features, features, generator=generator)
    return (torch.randn(count, features, generator=generator) @ mixing + 3).reshape(count, *shape)


def test_whitened_samples_have_the_identity_as_covariance() -> None:
    samples = correlated(0, 200, 2, 3, 2)
    whitened = Whitening((2, 3, 2)).fit(samples, 0.0)(samples)
    assert whitened.shape == samples.shape
    covariance = np.cov(whitened.flatten(1).numpy(), rowvar=False)
    np.testing.assert_allclose(covariance, np.eye(12), atol=1e-3)
    np.testing.assert_allclose(whitened.flatten(1).mean(0).numpy(), 0, atol=1e-4)


def test_transform_is_the_inverse_square_root() -> None:
    samples = correlated(1, 50, 6)
    module = Whitening((6,)).fit(samples, 0.1)
    transform = module.transform.double().numpy()
    np.testing.assert_allclose(transform, transform.T, atol=1e-6)
    covariance = np.cov(samples.double().numpy(), rowvar=False)
    np.testing.assert_allclose(transform @ transform @ (covariance + 0.1 * np.eye(6)), np.eye(6), atol=1e-4)


def test_against_the_principal_components_of_sklearn() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    samples = correlated(2, 80, 7)
    pca = decomposition.PCA(whiten=True).fit(samples.double().numpy())
    # ZCA is PCA whitening turned back to the pixels.
    expected = pca.transform(samples.double().numpy()) @ pca.components_
    found = Whitening((7,)).fit(samples, 0.0)(samples)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


def test_epsilon_damps_a_singular_covariance() -> None:
    samples = correlated(3, 5, 12)
    with pytest.raises(ValueError, match="singular"):
        Whitening((12,)).fit(samples, 0.0)
    whitened = Whitening((12,)).fit(samples, 1e-2)(samples)
    variances = np.linalg.eigvalsh(np.cov(whitened.numpy(), rowvar=False))
    values = np.linalg.eigvalsh(np.cov(samples.double().numpy(), rowvar=False))
    np.testing.assert_allclose(variances, values / (values + 1e-2), atol=1e-3)


def test_split_keeps_the_signed_values() -> None:
    whitened = correlated(4, 3, 2, 4, 5) - 3
    parts = split(whitened)
    assert parts.shape == (3, 4, 4, 5)
    assert bool((parts >= 0).all())
    assert torch.equal(parts[:, :2] - parts[:, 2:], whitened)
    assert split(torch.tensor([[-1.0, 2.0]])).tolist() == [[0.0, 2.0, 1.0, 0.0]]


def test_split_whitened_images_can_be_coded() -> None:
    images = torch.rand(20, 1, 5, 5, generator=torch.Generator().manual_seed(5))
    coded = spiking.rank_order_code(split(Whitening((1, 5, 5)).fit(images, 0.1)(images)), 15)
    assert coded.shape == (20, 15, 2, 5, 5)
    # A pixel is above its mean or below it: it has one spike, in one of the two channels.
    assert bool((coded[:, -1].sum(dim=1) <= 1).all())


def test_state_is_saved_and_fitting_reproduces(tmp_path: Path) -> None:
    safetensors: Any = pytest.importorskip("safetensors.torch")
    samples = correlated(6, 30, 1, 3, 3)
    module = Whitening((1, 3, 3)).fit(samples, 0.1)
    safetensors.save_file(module.state_dict(), tmp_path / "whitening.safetensors")
    again = Whitening((1, 3, 3))
    with pytest.raises(ValueError, match="nothing was learned"):
        again(samples)
    again.load_state_dict(safetensors.load_file(tmp_path / "whitening.safetensors"))
    assert torch.equal(again(samples), module(samples))
    assert torch.equal(Whitening((1, 3, 3)).fit(samples, 0.1).transform, module.transform)


def test_it_lowers() -> None:
    samples = correlated(8, 30, 1, 3, 3)
    module = Whitening((1, 3, 3)).fit(samples, 0.1)
    graph = plait.lower(module, (samples,))
    torch.testing.assert_close(interpret(graph, [samples])[0], module(samples), atol=1e-5, rtol=0)


def test_wrong_input_is_refused() -> None:
    module = Whitening((1, 3, 3))
    with pytest.raises(ValueError, match=r"samples are \(3, 3\)"):
        module.fit(torch.zeros(4, 3, 3), 0.1)
    with pytest.raises(ValueError, match="two samples"):
        module.fit(torch.zeros(1, 1, 3, 3), 0.1)
    with pytest.raises(ValueError, match="epsilon"):
        module.fit(torch.zeros(4, 1, 3, 3), -0.1)


@pytest.mark.parametrize("epsilon", [0.0, 0.01])
def test_against_spyker(epsilon: float) -> None:
    spyker: Any = pytest.importorskip("spyker")
    samples = torch.randn(60, 2, 3, 4, generator=torch.Generator().manual_seed(7))
    theirs = spyker.ZCA()
    theirs.fit(samples.clone(), epsilon)
    module = Whitening((2, 3, 4)).fit(samples, epsilon)
    expected = torch.from_numpy(spyker.to_numpy(theirs.transform).copy())
    torch.testing.assert_close(module.transform, expected, atol=1e-5, rtol=0)
    whitened = theirs(samples, inplace=False)
    torch.testing.assert_close(module(samples), whitened, atol=1e-5, rtol=0)
    # Spyker puts the sign in an axis of its own, before the channels.
    assert torch.equal(split(whitened), spyker.ZCA.split(whitened).flatten(1, 2))
