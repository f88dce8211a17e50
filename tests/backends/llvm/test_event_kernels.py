"""Frames of spikes (convolution and linear) and kernels on packed bits, against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plait.backends.llvm import (
    EventConv2d,
    PopcountConv2d,
    Processor,
    event_conv2d,
    event_linear,
    gather_rows,
    pack_spike_bits,
    pack_weight_bits,
    pack_weights,
    popcount_conv2d,
)

#: input channels, output channels, kernel, stride, padding
SHAPES = [
    (1, 1, (1, 1), (1, 1), (0, 0)),
    (2, 3, (3, 3), (1, 1), (1, 1)),
    (6, 100, (5, 5), (1, 1), (2, 2)),
    (40, 150, (2, 2), (2, 1), (1, 3)),
    (32, 30, (2, 3), (2, 2), (3, 0)),
]


def sizes(shape: tuple) -> dict[str, object]:
    ci, co, kernel, stride, padding = shape
    return {
        "height": 6, "width": 8, "in_channels": ci, "out_channels": co, "kernel": kernel, "stride": stride,
        "padding": padding,
    }  # fmt: skip


def dense(spikes: np.ndarray, weights: np.ndarray, spec: EventConv2d | PopcountConv2d) -> np.ndarray:
    """conv2d of the frames with weights [kh,kw,ci,co], in f64."""
    frames = torch.from_numpy(spikes != 0).double().permute(0, 3, 1, 2)
    kernel = torch.from_numpy(weights).double().permute(3, 2, 0, 1)
    out = torch.nn.functional.conv2d(frames, kernel, stride=spec.stride, padding=spec.padding)
    return out.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_event_conv2d_is_the_dense_convolution(shape: tuple) -> None:
    rng = np.random.default_rng(0)
    spec = EventConv2d(**sizes(shape))
    weights = rng.integers(-8, 9, spec.weight_shape).astype(np.float32)
    for density in (0.0, 0.05, 0.6, 1.0):
        spikes = rng.random((4, 6, 8, spec.in_channels)) < density
        out = event_conv2d(spec, spikes, weights)
        assert out.dtype == np.float32
        np.testing.assert_array_equal(out, dense(spikes, weights, spec))
        levels = spikes * rng.integers(1, 256, spikes.shape)
        np.testing.assert_array_equal(event_conv2d(spec, levels.astype(np.uint8), weights, threads=3), out)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (784, 10), (100, 450), (67, 33)])
def test_event_linear_sums_the_rows_of_spikes(inputs: int, outputs: int) -> None:
    rng = np.random.default_rng(1)
    weights = rng.integers(-8, 9, (inputs, outputs)).astype(np.float32)
    spikes = (rng.random((5, inputs)) < 0.2).astype(np.uint8)
    spikes[2] = 0
    out = event_linear(gather_rows(inputs, outputs), spikes, weights)
    np.testing.assert_array_equal(out, spikes.astype(np.float32) @ weights)


def test_event_conv2d_keeps_the_order_of_sums_on_narrow_vectors() -> None:
    rng = np.random.default_rng(2)
    spec = EventConv2d(**sizes(SHAPES[2]))
    spikes = rng.random((3, 6, 8, 6)) < 0.3
    weights = rng.normal(size=spec.weight_shape).astype(np.float32)
    wide = event_conv2d(spec, spikes, weights)
    np.testing.assert_allclose(wide, dense(spikes, weights, spec), atol=1e-4)
    for cpu in ("haswell", "x86-64"):
        assert event_conv2d(spec, spikes, weights, processor=Processor(cpu)).tobytes() == wide.tobytes()


@pytest.mark.parametrize(("shape", "result"), list(zip(SHAPES, ("f32", "i32", "f32", "i32", "f32"))), ids=str)
def test_popcount_of_zero_and_one_is_exact(shape: tuple, result: str) -> None:
    rng = np.random.default_rng(3)
    spec = PopcountConv2d(**sizes(shape), result=result)
    spikes = rng.random((3, 6, 8, spec.in_channels)) < 0.4
    ones = rng.random((*spec.kernel, spec.in_channels, spec.out_channels)) < 0.5
    out = popcount_conv2d(spec, pack_spike_bits(spikes), pack_weight_bits(ones), threads=2)
    assert out.dtype == (np.float32 if result == "f32" else np.int32)
    np.testing.assert_array_equal(out, dense(spikes, ones, spec))


@pytest.mark.parametrize("cpu", ["", "haswell", "x86-64"])
def test_popcount_of_two_levels(cpu: str) -> None:
    rng = np.random.default_rng(4)
    shape = SHAPES[3]
    spikes = rng.random((3, 6, 8, shape[0])) < 0.4
    ones = rng.random((*shape[2], shape[0], shape[1])) < 0.5
    words, weights = pack_spike_bits(spikes), pack_weight_bits(ones)
    integers = PopcountConv2d(**sizes(shape), two_level=True, result="i32")
    out = popcount_conv2d(integers, words, weights, levels=(-3, 7), processor=Processor(cpu))
    np.testing.assert_array_equal(out, dense(spikes, np.where(ones, 7, -3), integers))
    floats = PopcountConv2d(**sizes(shape), two_level=True)
    low, high = np.float32(0.1), np.float32(0.73)
    out = popcount_conv2d(floats, words, weights, levels=(low, high), processor=Processor(cpu))
    count = dense(spikes, np.ones_like(ones), floats).astype(np.float32)
    found = dense(spikes, ones, floats).astype(np.float32)
    np.testing.assert_array_equal(out, low * count + (high - low) * found)


def test_packing_puts_the_first_channel_lowest() -> None:
    spikes = np.zeros((1, 1, 1, 34), np.uint8)
    spikes[..., [0, 5, 33]] = [1, 7, 255]
    assert pack_spike_bits(spikes).reshape(-1).tolist() == [0b100001, 0b10]
    weights = np.zeros((1, 1, 34, 2), bool)
    weights[0, 0, 33, 1] = True
    assert pack_weight_bits(weights).tolist() == [[[[0, 0], [0, 2]]]]
    assert pack_weights(np.arange(24).reshape(2, 3, 2, 2))[1, 0, 2, 1] == 12 + 8 + 2
