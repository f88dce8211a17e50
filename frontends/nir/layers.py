"""Stateless nodes at one step: f32[B, *shape] to f32[B, *shape]."""

from __future__ import annotations

from plait.frontends.nir.builder import Builder
from plait.frontends.nir.fields import Shape, integers, pads
from plait.frontends.nir.shapes import flattened_axes
from plait.frontends.nir.structure import Node
from plait.ir import Value
from plait.ir import types as t
from plait.ir.dims import product
from plait.ir.ops import core, linalg, nn


def prepare_layer(build: Builder, node: Node, shape: Shape) -> None:
    """Make what a stateless node that takes signals of `shape` needs, outside of the loop."""
    for name in node.primitive.tensors:
        if getattr(node.source, name) is not None:
            build.parameter(node, name)
    if node.kind == "SumPool2d":
        kernel = integers(build.network, node, "kernel_size", 2, 1)
        build.keep(node, "ones", build.full(node, 1.0, t.f32, (shape[0], 1, *kernel), "ones"))


def emit_layer(build: Builder, node: Node, x: Value) -> Value:
    """The output of a stateless node."""
    if node.kind in ("Input", "Output"):
        return x
    if node.kind in ("Affine", "Linear"):
        return _linear(build, node, x)
    if node.kind in ("Conv1d", "Conv2d"):
        return _convolution(build, node, x)
    if node.kind in ("SumPool2d", "AvgPool2d"):
        return _pooling(build, node, x)
    if node.kind == "Scale":
        return build.emit(node, core.Mul(x, build.parameter(node, "scale")))
    if node.kind == "Threshold":
        return spikes(build, node, x, "threshold")
    assert node.kind == "Flatten", node.kind
    shape = x.shaped.shape
    start, end = flattened_axes(build.network, node, len(shape) - 1)
    joined = product(shape[start + 1 : end + 2])
    return build.reshape(node, x, (*shape[: start + 1], joined, *shape[end + 2 :]))


def spikes(build: Builder, node: Node, x: Value, threshold: str) -> Value:
    """1 where x > threshold, else 0."""
    return build.cast(node, fired(build, node, x, threshold), t.f32, "")


def fired(build: Builder, node: Node, x: Value, threshold: str) -> Value:
    """Whether x > threshold."""
    return build.emit(node, core.Gt(x, build.parameter(node, threshold)), "fired")


def _linear(build: Builder, node: Node, x: Value) -> Value:
    weight = build.parameter(node, "weight")
    bias = build.parameter(node, "bias") if node.kind == "Affine" else None
    out = weight.shaped.shape[:-1]
    if len(out) == 1 and (bias is None or bias.shaped.shape == out):
        return build.emit(node, nn.Linear(x, weight, bias))
    column = build.reshape(node, x, (*x.shaped.shape, 1), "column")
    y = build.emit(node, linalg.Matmul(weight, column), "product")
    y = build.reshape(node, y, (build.batch, *out), "row")
    if bias is None:
        return y
    # NIR's checks let a bias through that has axes of 1 in front
    return build.emit(
        node, core.Add(y, build.reshape(node, bias, bias.shaped.shape[-len(out) :], "flat_bias"))
    )


def _convolution(build: Builder, node: Node, x: Value) -> Value:
    weight = build.parameter(node, "weight")
    bias = None if node.source.bias is None else build.parameter(node, "bias")
    kernel = tuple(int(k) for k in weight.shaped.shape[2:])
    stride, dilation = (
        integers(build.network, node, name, len(kernel), 1) for name in ("stride", "dilation")
    )
    before, after = pads(build.network, node, kernel, dilation, stride)
    pad = before if before == after else (*before, *after)
    (groups,) = integers(build.network, node, "groups", 1, 1)
    if len(kernel) == 1:
        return build.emit(
            node,
            nn.Conv1d(x, weight, bias, stride=(stride[0],), pad=pad, dilation=(dilation[0],), groups=groups),
        )
    return build.emit(
        node,
        nn.Conv2d(
            x,
            weight,
            bias,
            stride=(stride[0], stride[1]),
            pad=pad,
            dilation=(dilation[0], dilation[1]),
            groups=groups,
        ),
    )


def _pooling(build: Builder, node: Node, x: Value) -> Value:
    kernel, stride = (integers(build.network, node, name, 2, 1) for name in ("kernel_size", "stride"))
    before, after = pads(build.network, node, kernel, (1, 1), stride)
    pad = before if before == after else (*before, *after)
    rows, columns = stride
    if node.kind == "AvgPool2d":
        # the mean of the whole window, padding included, as in PyTorch
        return build.emit(
            node,
            nn.AvgPool2d(x, kernel=(kernel[0], kernel[1]), stride=(rows, columns), pad=pad, count_pad=True),
        )
    # a convolution with ones, since a mean times the window is not exactly the sum of whole numbers
    ones = build.kept(node, "ones")
    channels = int(x.shaped.shape[1])  # type: ignore[arg-type]  # channels of a signal are whole numbers
    return build.emit(node, nn.Conv2d(x, ones, stride=(rows, columns), pad=pad, groups=channels))
