"""Quantisation-aware training of models that came from ONNX and from Keras, down to compiled integers."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import plait
from plait.ir import Graph, QuantType
from plait.ir.ops import linalg, nn
from plait.passes.quantize.pipeline import raised, requested
from plait.passes.quantize.scheme import INT8, OpScheme, Scheme
from plait.passes.quantize.training.prepare import QatModule, prepare

INT4 = OpScheme(Scheme(4, symmetric=False), Scheme(4, axis=0, narrow=True))
SIZE = 8


def bars(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images [count, 1, 8, 8] of a bar that is level, upright, or along a diagonal, and which."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    images = random.normal(0.0, 0.35, (count, 1, SIZE, SIZE))
    for image, label in zip(images, labels, strict=True):
        place = int(random.integers(1, SIZE - 1))
        if label == 0:
            image[0, place] += 1.0
        elif label == 1:
            image[0, :, place] += 1.0
        else:
            steps = np.arange(SIZE)
            columns = (steps + place if label == 2 else place - steps) % SIZE
            image[0, steps, columns] += 1.0
    return torch.from_numpy(images.astype(np.float32)), torch.from_numpy(labels)


def torch_net() -> torch.nn.Module:
    """Two convolutions with batch norm, pooled, and a classifier."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(8, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 4),
    )


def from_onnx(folder: Path) -> Graph:
    """The net through an ONNX file that torch writes, with any batch."""
    path = folder / "net.onnx"
    torch.onnx.export(
        torch_net().eval(),
        (torch.zeros(2, 1, SIZE, SIZE),),
        path,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["image"],
        verbose=False,
    )
    return plait.lower(path)


def from_keras() -> Graph:
    """Convolutions, one of them depthwise, and a dense layer, on images with their channels last."""
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((SIZE, SIZE, 1), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    x = layers.MaxPooling2D(2)(x)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    x = layers.Conv2D(16, 1, activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return plait.lower(keras.Model(image, layers.Dense(4)(x)))


def fit(module: QatModule, images: torch.Tensor, labels: torch.Tensor, steps: int) -> list[float]:
    """Train by Adam; the loss of each step."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(0, len(images), (64,), generator=generator)
        loss = F.cross_entropy(module(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def check(graph: Graph, scheme: OpScheme, channels_last: bool, steps: int = 150) -> None:
    """Train, convert, compile: the loss falls, and the executable decides as the module does."""

    def arranged(images: torch.Tensor) -> torch.Tensor:
        return images.permute(0, 2, 3, 1).contiguous() if channels_last else images

    images, labels = bars(512, 1)
    test, test_labels = bars(200, 2)
    images, test = arranged(images), arranged(test)
    module = prepare(graph, requested(graph, scheme, ()), "lsq")
    module.train()
    with torch.no_grad():
        module(images[:64])  # sets the ranges
    losses = fit(module, images, labels, steps)
    assert statistics.mean(losses[-10:]) < 0.6 * statistics.mean(losses[:10])

    module.eval()
    with torch.no_grad():
        logits = module(test)
    reached = accuracy(logits, test_labels)
    assert reached > 0.8, "chance is 0.25"
    integers = raised(module.convert())
    products = [op for op in integers.walk() if isinstance(op, (nn.Conv2d, nn.Linear, linalg.Matmul))]
    assert len(products) >= 3
    assert all(isinstance(v.type, QuantType) for op in products for v in op.operands[:2])
    executable = plait.compile(integers, target="cpu", isolate=False, cache=False)
    found = executable(test)
    print(f"module {reached:.3f}, executable {accuracy(found, test_labels):.3f}")
    assert accuracy(found, test_labels) == pytest.approx(reached, abs=0.011)
    assert float((found.argmax(1) == logits.argmax(1)).double().mean()) > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [INT8, INT4], ids=["int8", "int4"])
def test_a_model_from_onnx(scheme: OpScheme, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    check(from_onnx(tmp_path), scheme, channels_last=False)


@pytest.mark.slow
def test_a_model_from_keras() -> None:
    check(from_keras(), INT4, channels_last=True)


def test_a_few_steps_from_an_onnx_model_that_is_built_by_hand() -> None:
    """The graph keeps its names, so layers can be named as the ONNX file names them."""
    graph = hand_made()
    images, labels = bars(256, 1)
    schemes = requested(graph, INT8, ())
    module = prepare(graph, schemes, "lsq")
    with torch.no_grad():
        module(images[:64])
    losses = fit(module, images, labels, 30)
    assert losses[-1] < losses[0]
    before: dict[str, Any] = {name: c.data for name, c in graph.constants.items()}
    after = module.to_graph().constants
    assert any(name in after and not np.array_equal(after[name].data, data) for name, data in before.items())


def hand_made() -> Graph:
    """A convolution and a dense layer as ONNX nodes."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)

    def initial(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(random.normal(0, 0.3, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalMaxPool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        [initial("w1", 8, 1, 3, 3), initial("b1", 8), initial("w2", 4, 8), initial("b2", 4)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return plait.lower(onnx.shape_inference.infer_shapes(model))
