"""Digits and trained networks, made once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from .nets import SEED, Digits, Plain, Residual, trained


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits() -> Digits:
    datasets = pytest.importorskip("sklearn.datasets")
    pixels, labels = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(pixels))
    images = (pixels[order] / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    return Digits(images, labels[order])


@pytest.fixture(scope="session")
def plain(digits: Digits) -> nn.Module:
    torch.manual_seed(SEED)
    return trained(Plain(), digits, 10)


@pytest.fixture(scope="session")
def residual(digits: Digits) -> nn.Module:
    torch.manual_seed(SEED)
    return trained(Residual(), digits, 6)
