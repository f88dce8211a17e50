"""Pooling, sampling and resampling in the forms that onnx's own node tests leave out, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

runtime = pytest.importorskip("onnxruntime")
Agree = Callable[..., Any]


def f32(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


@pytest.fixture
def agree(check: Any, make_node_model: Any) -> Agree:
    """Compare a one-node model with ONNX Runtime."""

    def compare(op_type: str, feeds: dict[str, np.ndarray], opset: int = 19, **options: Any) -> Any:
        rtol, atol = options.pop("rtol", 1e-4), options.pop("atol", 1e-5)
        model = make_node_model(op_type, feeds, opset=opset, **options)
        model.ir_version = 9
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = session.run(None, feeds)
        return check(op_type, feeds, opset=opset, rtol=rtol, atol=atol, expected=expected, **options)

    return compare


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    ("sizes", "attributes"),
    [
        ((9,), {"kernel_shape": [3], "strides": [2], "pads": [1, 0]}),
        ((6, 7), {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
        ((6, 7), {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "strides": [2, 3]}),
        ((5, 6, 4), {"kernel_shape": [2, 3, 2], "dilations": [2, 1, 1]}),
    ],
)
def test_places_of_largest_elements(
    agree: Agree, rng: Any, order: int, sizes: tuple[int, ...], attributes: Any
) -> None:
    agree("MaxPool", {"x": f32(rng, 2, 3, *sizes)}, outputs=2, storage_order=order, **attributes)


def test_pooling_of_bytes(agree: Agree, rng: Any) -> None:
    x = rng.integers(-128, 128, (1, 2, 6, 6)).astype(np.int8)
    agree("MaxPool", {"x": x}, kernel_shape=[2, 2], outputs=2)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(9,), (7, 8), (5, 6, 4)])
def test_power_pools(agree: Agree, rng: Any, p: int, sizes: tuple[int, ...]) -> None:
    x, axes = {"x": f32(rng, 2, 3, *sizes)}, len(sizes)
    agree(
        "LpPool", x, opset=18, p=p, kernel_shape=[2] * axes, strides=[2] * axes, pads=[1] * axes + [0] * axes
    )
    agree("GlobalLpPool", x, p=p)


def test_power_pool_rounded_up(check: Any, rng: Any) -> None:
    x = f32(rng, 2, 3, 7, 8)
    whole = torch.from_numpy(
        np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 1)))
    )  # the last columns hold two elements
    expected = torch.nn.functional.lp_pool2d(whole, 2.0, 3, 2).numpy()
    attributes = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 0], "ceil_mode": 1}
    check("LpPool", {"x": x}, opset=18, expected=[expected], **attributes)


@pytest.mark.parametrize("count_pad", [0, 1])
def test_dilated_means_rounded_up(agree: Agree, rng: Any, count_pad: int) -> None:
    attributes = {"kernel_shape": [3, 2], "dilations": [2, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    x = {"x": f32(rng, 1, 2, 10, 12)}
    agree("AveragePool", x, ceil_mode=1, count_include_pad=count_pad, **attributes)


@pytest.mark.parametrize("half", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize(("mode", "samples"), [("avg", 0), ("avg", 3), ("max", 2)])
def test_regions_aligned(agree: Agree, rng: Any, half: str, mode: str, samples: int) -> None:
    """Some regions reach over the edges, one is far outside, one is empty."""
    feeds = {
        "x": f32(rng, 2, 3, 8, 9),
        "rois": np.array(
            [[1, 2, 9, 11], [0, 0, 30, 34], [-9, -5, 14, 9], [60, 60, 70, 80], [4, 4, 4, 4]], np.float32
        ),
        "batch": np.array([0, 1, 1, 0, 1], np.int64),
    }
    attributes = {"output_height": 3, "output_width": 2, "spatial_scale": 0.5, "sampling_ratio": samples}
    agree("RoiAlign", feeds, opset=16, mode=mode, coordinate_transformation_mode=half, **attributes)


def test_regions_pooled(agree: Agree, rng: Any) -> None:
    rois = np.array([[0, 1, 2, 9, 11], [1, 0, 0, 15, 15], [1, 3, 3, 3, 3], [0, 20, 2, 40, 6]], np.float32)
    feeds = {"x": f32(rng, 2, 3, 8, 9), "rois": rois}
    agree("MaxRoiPool", feeds, pooled_shape=[3, 2], spatial_scale=0.5)


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grids(agree: Agree, rng: Any, mode: str, padding: str) -> None:
    feeds = {"x": f32(rng, 2, 3, 5, 6), "grid": 1.4 * f32(rng, 2, 4, 3, 2)}
    for corners in (0, 1):
        agree("GridSample", feeds, opset=20, mode=mode, padding_mode=padding, align_corners=corners)


def test_deformed_convolution(agree: Agree, rng: Any) -> None:
    feeds = {
        "x": f32(rng, 2, 4, 7, 8),
        "w": f32(rng, 6, 2, 3, 2),
        "offset": f32(rng, 2, 2 * 2 * 6, 4, 4),
        "b": f32(rng, 6),
        "mask": f32(rng, 2, 2 * 6, 4, 4),
    }
    options = {"strides": [2, 2], "pads": [1, 0, 1, 1], "dilations": [1, 2], "group": 2, "offset_group": 2}
    agree("DeformConv", feeds, rtol=1e-3, atol=1e-4, **options)


@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_grouped_transposed_convolutions(agree: Agree, rng: Any, spatial: int) -> None:
    sizes, kernel = (5, 4, 6)[:spatial], (3, 2, 3)[:spatial]
    feeds, w = {"x": f32(rng, 2, 4, *sizes)}, f32(rng, 4, 3, *kernel)
    attributes = {"group": 2, "strides": [2, 3, 1][:spatial], "dilations": [1, 2, 2][:spatial]}
    pads = {"pads": [1, 0, 1][:spatial] + [0, 1, 1][:spatial], "output_padding": [1, 1, 0][:spatial]}
    agree("ConvTranspose", feeds, static={"w": w, "b": f32(rng, 6)}, opset=11, **attributes, **pads)
    agree("ConvTranspose", feeds, static={"w": w}, opset=11, auto_pad="SAME_UPPER", **attributes)


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resampled_volumes(agree: Agree, rng: Any, coordinates: str, mode: str) -> None:
    static = {"sizes": np.array([1, 2, 7, 3, 9])}
    agree(
        "Resize",
        {"x": f32(rng, 1, 2, 4, 5, 6)},
        static=static,
        inputs=["x", "", "", "sizes"],
        mode=mode,
        coordinate_transformation_mode=coordinates,
    )


def test_batch_norm_in_training_mode(check: Any, rng: Any) -> None:
    x, (s, b, m) = f32(rng, 4, 3, 5, 6), (f32(rng, 3) for _ in range(3))
    v = np.abs(f32(rng, 3))
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    wide = [a.reshape(3, 1, 1) for a in (mean, variance, s, b)]
    y = (x - wide[0]) / np.sqrt(wide[1] + 1e-5) * wide[2] + wide[3]
    expected = [y, m * 0.8 + mean * np.float32(0.2), v * 0.8 + variance * np.float32(0.2)]
    feeds = {"x": x, "s": s, "b": b, "m": m, "v": v}
    check(
        "BatchNormalization",
        feeds,
        opset=15,
        expected=[np.asarray(e, np.float32) for e in expected],
        training_mode=1,
        momentum=0.8,
        outputs=3,
    )
