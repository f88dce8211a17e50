"""The images that SAQ is compared on: the 10,000 of MNIST's test file, halved to 14x14, split three ways.

MNIST's training file is not used: 7,000 images train, 1,000 choose rho, 2,000 test, by one fixed
permutation, so figures do not compare with those of the usual 60,000 / 10,000 split.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from plait.ir import InputError

IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
TRAIN, VALIDATION, TEST = 7_000, 1_000, 2_000
SPLIT_SEED = 0


@dataclass(frozen=True)
class Part:
    """Images [N,1,14,14] in 0..1 and labels [N]."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Part:
        """The first `count` samples."""
        return Part(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class Split:
    """The three parts."""

    train: Part
    validation: Part
    test: Part


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes in IDX format, gzipped.  Raises InputError for any other file."""
    try:
        with gzip.open(path) as stream:
            raw = stream.read()
    except OSError as error:
        raise InputError(
            f"{path.name} cannot be read",
            where=str(path.parent),
            why=str(error),
            remedy="give the folder of MNIST's t10k files with --mnist",
        ) from error
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise InputError(f"{path} is no IDX file of bytes")
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(tuple(int(n) for n in shape))


def load_mnist(folder: Path) -> Split:
    """The split of the t10k files in a folder; pixels are means of 2x2."""
    images = torch.from_numpy(read_idx(folder / IMAGES).astype(np.float32) / 255.0).unsqueeze(1)
    images = torch.nn.functional.avg_pool2d(images, 2)
    labels = torch.from_numpy(read_idx(folder / LABELS).astype(np.int64))
    order = torch.from_numpy(np.random.default_rng(SPLIT_SEED).permutation(len(labels)))
    parts = order.split([TRAIN, VALIDATION, TEST])
    return Split(*(Part(images[part], labels[part]) for part in parts))


def shifted(images: torch.Tensor, reach: int, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by up to `reach` pixels both ways, filled with zeros."""
    if reach == 0:
        return images
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (reach,) * 4)
    down, across = torch.randint(0, 2 * reach + 1, (2, count, 1, 1), generator=generator)
    rows = down + torch.arange(height).view(1, -1, 1)
    columns = across + torch.arange(width).view(1, 1, -1)
    sample = torch.arange(count).view(-1, 1, 1)
    return padded[sample, 0, rows, columns].unsqueeze(1)
