"""One run of the SAQ comparison: a net, a method, a seed; trained through `GraphModule`, on the IR."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from saq_data import Part, Split, shifted
from torch import nn

import plait
from plait.ir import Graph
from plait.passes.quantize.insert import CONTRACTIONS, weight_of
from plait.passes.quantize.scheme import OpScheme, Scheme
from plait.passes.quantize.training import (
    GraphModule,
    Landscape,
    QatModule,
    Reuse,
    SharpnessAware,
    prepare,
)

Method = Literal["sgd", "adamw", "sam", "case1", "case2", "case3", "reuse", "case3-adamw"]


@dataclass(frozen=True)
class Setting:
    """What all runs share.

    Attributes:
        width: channels of the first block; the second has twice as many.
        train: images to train on.
        reach: pixels by which training images are shifted.
        float_epochs: of training in floating point, with the learning rate `float_lr`.
        epochs: of quantisation-aware training from there.
        lr: of SGD with Nesterov momentum 0.9 in quantised training; cosine to 0.
        adamw_lr: of AdamW.
        quantizer: see `prepare`.
        every: steps for which `reuse` keeps a perturbation.
        sharpness_rho: norm at which sharpness is measured.
        measured: training images that sharpness and Hessian are measured on.
    """

    width: int = 8
    train: int = 7_000
    reach: int = 0
    batch: int = 128
    float_epochs: int = 10
    float_lr: float = 0.1
    epochs: int = 6
    lr: float = 0.06
    adamw_lr: float = 4e-3
    weight_decay: float = 1e-4
    adamw_weight_decay: float = 1e-2
    quantizer: str = "lsq"
    every: int = 5
    sharpness_rho: float = 0.2
    measured: int = 256


@dataclass(frozen=True)
class Run:
    """One training run; `rho` is 0 for the methods that have none."""

    method: Method
    bits: int
    rho: float
    seed: int
    purpose: Literal["sweep", "final"] = "final"

    def key(self) -> str:
        """What a record is found by."""
        return f"{self.purpose}/{self.method}/{self.bits}/{self.rho:g}/{self.seed}"


class ResidualNet(nn.Module):
    """A convolution, two residual blocks of stride 2, the mean over the image, a dense layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )  # fmt: skip
        self.block1 = Block(width, width, 2)
        self.block2 = Block(width, 2 * width, 2)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        y = self.block2(self.block1(self.stem(image)))
        return self.head(y.mean((2, 3)))


class Block(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def lowered(setting: Setting, seed: int) -> Graph:
    """The untrained net in the IR."""
    torch.manual_seed(seed)
    net = ResidualNet(setting.width).eval()
    return plait.lower(net, (torch.rand(2, 1, 14, 14),), dynamic={"image": {0: "B"}}, name="residual_net")


def schemes_of_bits(graph: Graph, bits: int) -> dict[str, OpScheme]:
    """Every convolution and dense layer with weights and activations of `bits` bits.

    Weights have a scale each; activations are unsigned, since all follow a relu.
    """
    scheme = OpScheme(Scheme(bits, signed=False), Scheme(bits, axis=None))
    return {
        op.name: scheme for op in graph.ops if isinstance(op, CONTRACTIONS) and weight_of(op) is not None
    }  # fmt: skip


def loss_of(module: GraphModule, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy."""
    return F.cross_entropy(module(images), labels)


@torch.no_grad()
def accuracy(module: GraphModule, part: Part) -> float:
    """Share of images classified right, in evaluation mode."""
    module.eval()
    right = 0
    for start in range(0, len(part), 500):
        images, labels = part.images[start : start + 500], part.labels[start : start + 500]
        right += int((module(images).argmax(-1) == labels).sum())
    return right / len(part)


def epochs(
    module: GraphModule,
    optimizer: torch.optim.Optimizer,
    step: Callable[[Callable[[], torch.Tensor]], torch.Tensor],
    part: Part,
    setting: Setting,
    count: int,
    seed: int,
) -> float:
    """Train for `count` epochs under a cosine schedule; returns the mean loss of the last."""
    generator = torch.Generator().manual_seed(seed)
    steps = len(part) // setting.batch
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: 0.5 * (1.0 + math.cos(math.pi * min(t / (count * steps), 1.0)))
    )
    losses: list[float] = []
    for _ in range(count):
        module.train()
        order = torch.randperm(len(part), generator=generator)
        losses = []
        for chosen in order[: steps * setting.batch].split(setting.batch):
            images = shifted(part.images[chosen], setting.reach, generator)
            labels = part.labels[chosen]

            def closure(images: torch.Tensor = images, labels: torch.Tensor = labels) -> torch.Tensor:
                loss = loss_of(module, images, labels)
                loss.backward()
                return loss

            losses.append(float(step(closure)))
            scheduler.step()
    return sum(losses) / max(len(losses), 1)


def plain_step(
    module: GraphModule, optimizer: torch.optim.Optimizer
) -> Callable[[Callable[[], torch.Tensor]], torch.Tensor]:
    """The step of an optimiser alone."""

    def step(closure: Callable[[], torch.Tensor]) -> torch.Tensor:
        module.zero_grad(set_to_none=True)
        loss = closure()
        optimizer.step()
        return loss.detach()

    return step


def sgd(module: GraphModule, lr: float, setting: Setting) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; only weights decay."""
    groups = module.parameter_groups(lr, weight_decay=setting.weight_decay)
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)


def adamw(module: GraphModule, setting: Setting) -> torch.optim.Optimizer:
    """AdamW; only weights decay."""
    groups = module.parameter_groups(setting.adamw_lr, weight_decay=setting.adamw_weight_decay)
    return torch.optim.AdamW(groups, lr=setting.adamw_lr)


def train_float(data: Split, setting: Setting, seed: int) -> tuple[Graph, dict[str, Any]]:
    """The net trained in floating point, as a graph, and a record of it."""
    module = GraphModule(lowered(setting, seed))
    optimizer = sgd(module, setting.float_lr, setting)
    part = data.train.first(setting.train)
    start = time.process_time()
    loss = epochs(
        module, optimizer, plain_step(module, optimizer), part, setting, setting.float_epochs, seed
    )  # fmt: skip
    record = {
        "seed": seed,
        "train_loss": loss,
        "validation": accuracy(module, data.validation),
        "test": accuracy(module, data.test),
        "cpu_s": time.process_time() - start,
    }
    return module.to_graph(), record


def stepper(
    module: QatModule, run: Run, setting: Setting
) -> tuple[torch.optim.Optimizer, Callable[..., torch.Tensor]]:
    """The optimiser of a method and its step."""
    optimizer = adamw(module, setting) if "adamw" in run.method else sgd(module, setting.lr, setting)
    if run.method in ("sgd", "adamw"):
        return optimizer, plain_step(module, optimizer)
    options: dict[str, Any] = {"case": 3}
    if run.method == "sam":
        options = {"case": 2, "include_clip": True}
    elif run.method.startswith("case"):
        options = {"case": int(run.method[4])}
    elif run.method == "reuse":
        options = {"case": 3, "efficient": Reuse(setting.every)}
    return optimizer, SharpnessAware(optimizer, module, run.rho, **options).step


def trained_module(graph: Graph, data: Split, setting: Setting, run: Run) -> tuple[QatModule, dict[str, Any]]:
    """A net after quantisation-aware training by one method, and its loss and CPU seconds."""
    torch.manual_seed(run.seed)
    module = prepare(graph, schemes_of_bits(graph, run.bits), setting.quantizer, fold_batch_norm=False)
    part = data.train.first(setting.train)
    module.eval()
    with torch.no_grad():
        module(part.images[:1000])  # sets the ranges
    optimizer, step = stepper(module, run, setting)
    start = time.process_time()
    loss = epochs(module, optimizer, step, part, setting, setting.epochs, run.seed)
    return module, {"train_loss": loss, "cpu_s": time.process_time() - start}


def train_quantised(graph: Graph, data: Split, setting: Setting, run: Run) -> dict[str, Any]:
    """One run: a record with accuracy, time, and in final runs sharpness."""
    module, figures = trained_module(graph, data, setting, run)
    record = {**asdict(run), **figures, "validation": accuracy(module, data.validation)}
    if run.purpose == "sweep":
        return record
    part = data.train.first(setting.train)
    record |= {"test": accuracy(module, data.test), "train": accuracy(module, part)}
    return record | measured(module, part, setting)


def measured(module: QatModule, part: Part, setting: Setting) -> dict[str, Any]:
    """How flat the minimum is, on the first training images."""
    few = part.first(setting.measured)
    landscape = Landscape(module, loss_of, [(few.images, few.labels)])
    top = landscape.top_eigenvalue(iterations=20, tolerance=0.02)
    rho = setting.sharpness_rho
    return {
        "loss": landscape.value(),
        "top_eigenvalue": top.value,
        "top_eigenvalue_change": top.error,
        "trace": landscape.trace(samples=4).value,
        "adversarial_sharpness": landscape.adversarial_sharpness(rho),
        "random_sharpness": landscape.random_sharpness(rho, samples=4).value,
    }
