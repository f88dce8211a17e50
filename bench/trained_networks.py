"""Three networks that are really trained here: a convnet, a residual net and a small vision transformer.

The data is scikit-learn's digits (1,797 handwritten digits of 8 x 8 pixels, which the package
ships), split once and for all; or the 10,000 test images of MNIST, where a folder with
the two `t10k` files is given.  Training is plain PyTorch with fixed seeds, about a minute on one thread.

Run: python bench/trained_networks.py [NETWORK ...] [--mnist FOLDER]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from saq_data import IMAGES, LABELS, read_idx, shifted
from torch import Tensor, nn

from plait.frontends.families.layers import ConvNormAct, TransformerBlock
from plait.frontends.families.resnet import BasicBlock

#: Images of a batch, in training and in evaluation.
BATCH = 64
#: Seed of the split into training and test images.
SPLIT = 20240501
console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=150)


@dataclass(frozen=True)
class Images:
    """Labelled grey images in 0..1, split into two parts.

    Attributes:
        name: of the set.
        train: f32 [N, 1, size, size].
        train_labels: i64 [N].
        test: f32 [M, 1, size, size].
        test_labels: i64 [M].
    """

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return self.train.shape[-1]

    def batches(self, count: int, size: int = 32) -> list[Tensor]:
        """`count` batches of training images, for calibration."""
        return [self.train[i * size : (i + 1) * size] for i in range(count)]


def split(name: str, images: np.ndarray, labels: np.ndarray, tests: int) -> Images:
    """A set in a random order that is always the same; the last `tests` images are for the test."""
    order = np.random.default_rng(SPLIT).permutation(len(images))
    x = torch.from_numpy(np.ascontiguousarray(images[order, None], np.float32))
    y = torch.from_numpy(np.ascontiguousarray(labels[order], np.int64))
    return Images(name, x[:-tests], y[:-tests], x[-tests:], y[-tests:])


def digits() -> Images:
    """scikit-learn's digits: 1,397 images for training, 400 for the test."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return split("digits", found.images / 16.0, found.target, 400)


def mnist(folder: Path) -> Images:
    """The test set of MNIST: 8,000 images for training, 2,000 for the test."""

    return split("mnist t10k", read_idx(folder / IMAGES) / 255.0, read_idx(folder / LABELS), 2000)


# -- networks ----------------------------------------------------------------------------
class ConvNet(nn.Module):
    """Dense and depthwise convolutions with pooling between them, [B, 1, H, W] -> [B, 10]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvNormAct(1, 16, 3),
            ConvNormAct(16, 32, 3),
            nn.MaxPool2d(2),
            ConvNormAct(32, 32, 3, groups=32),
            ConvNormAct(32, 64, 1),
        )
        self.classifier = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.classifier(self.features(image).mean((2, 3)))
        return found


class ResidualNet(nn.Module):
    """Four basic blocks, two of them strided, [B, 1, H, W] -> [B, 10]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.stem = ConvNormAct(1, 16, 3)
        self.blocks = nn.Sequential(
            BasicBlock(16, 16), BasicBlock(16, 32, stride=2), BasicBlock(32, 32), BasicBlock(32, 64, stride=2)
        )
        self.classifier = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.classifier(self.blocks(self.stem(image)).mean((2, 3)))
        return found


class SmallVit(nn.Module):
    """Pre-norm transformer blocks over square patches, averaged, [B, 1, H, W] -> [B, 10]."""

    def __init__(self, size: int, *, width: int = 64, depth: int = 3, heads: int = 4) -> None:
        super().__init__()
        patch = size // 4 if size < 16 else size // 7
        self.patch_embedding = nn.Conv2d(1, width, patch, stride=patch)
        self.position_embedding = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patch_embedding(image).flatten(2).transpose(1, 2) + self.position_embedding
        found: Tensor = self.classifier(self.norm(self.blocks(tokens)).mean(1))
        return found


@dataclass(frozen=True)
class Recipe:
    """A network and how it is trained.

    Attributes:
        build: the network for images of so many pixels.
        epochs: over the training images of digits; MNIST takes a fifth of them.
        rate: largest learning rate of AdamW.
    """

    build: Callable[[int], nn.Module]
    epochs: int
    rate: float


NETWORKS: dict[str, Recipe] = {
    "convnet": Recipe(ConvNet, 60, 4e-3),
    "residual": Recipe(ResidualNet, 40, 3e-3),
    "vit": Recipe(SmallVit, 80, 2e-3),
}


# -- training ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Trained:
    """A network in eval mode, and the seconds that its training took."""

    model: nn.Module
    seconds: float


def train(name: str, images: Images, seed: int = 0, epochs: int | None = None) -> Trained:
    """Train a network of `NETWORKS` by AdamW under a one-cycle schedule, on images shifted at random.

    The outcome depends on the seed, and on torch's version and threads, but on no global state.
    """
    recipe = NETWORKS[name]
    if epochs is None:
        epochs = recipe.epochs if len(images.train) < 2000 else max(1, recipe.epochs // 5)
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = recipe.build(images.size).train()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.rate, weight_decay=0.05)
    steps = len(images.train) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=epochs * steps)
    for _ in range(epochs):
        order = torch.randperm(len(images.train), generator=generator)
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            loss = nn.functional.cross_entropy(
                model(shifted(images.train[chosen], 1, generator)), images.train_labels[chosen]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return Trained(model.eval(), time.perf_counter() - started)


def accuracy(predict: Callable[[np.ndarray], np.ndarray], images: Images, batch: int = 100) -> float:
    """Per cent of the test images that a function from images [batch, 1, H, W] to logits gets right."""
    right = 0
    for start in range(0, len(images.test), batch):
        logits = predict(images.test[start : start + batch].numpy())
        right += int((np.argmax(logits, 1) == images.test_labels[start : start + batch].numpy()).sum())
    return 100.0 * right / len(images.test)


def eager(model: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """A torch model on arrays."""

    def predict(array: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = model(torch.from_numpy(array)).numpy()
        return found

    return predict


def load(folder: Path | None) -> Images:
    """MNIST from a folder, or digits."""
    return digits() if folder is None else mnist(folder)


def main() -> None:
    """Train and print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[[], *NETWORKS], help="by default all")
    parser.add_argument("--mnist", type=Path, help="folder with the t10k files")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = load(options.mnist)
    table = Table(title=f"{images.name}, {len(images.test)} test images")
    for heading in ("network", "parameters", "accuracy %", "training s"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for name in options.networks or NETWORKS:
        found = train(name, images, options.seed)
        parameters = sum(p.numel() for p in found.model.parameters())
        rate = accuracy(eager(found.model), images)
        table.add_row(name, f"{parameters:,}", f"{rate:.2f}", f"{found.seconds:.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
