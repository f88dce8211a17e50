"""Recognising cumulative waves of spikes in a graph, and the first-spike times that say the same.

A wave is a tensor of zeros and ones [B, T, ...], or [B * T, ...] with its frames one after the other, in
which a neuron stays 1 from the step on at which it fires.  It begins where times are compared with a clock,
goes through reshapes that keep frames, casts and max pooling, and through convolutions with weights that are
not negative whose potential is compared with a threshold: those never fall, so that the new wave stays, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from plait.ir import Op, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core, nn, spike
from plait.ir.ops.spike import MOST_STEPS
from plait.passes.constants import dense_data, uniform
from plait.passes.rewriter import Rewriter, Skip


@dataclass(frozen=True)
class Wave:
    """What is known of a wave.

    Attributes:
        steps: T.
        times: makes the first-spike times u8 [B, C, H, W], with ops in front of another.
        source: the value of times that it begins with, and the clock: for a wave that no layer computed.
    """

    steps: int
    times: Callable[[Rewriter, Op], Value]
    source: tuple[Value, Value] | None = None


def wave_of(value: Value) -> Wave | Skip:
    """The wave that a value holds, or why it is none."""
    op = value.producer
    if isinstance(op, core.Cast):
        return wave_of(op.x)
    if isinstance(op, core.Reshape):
        found = wave_of(op.x)
        if isinstance(found, Skip) or _keeps_frames(op.x, value, found.steps):
            return found
        return Skip(f"{value} mixes the frames of a wave")
    if isinstance(op, core.Le):
        return _begin(op)
    if isinstance(op, nn.MaxPool2d):
        return _pooled(op)
    if isinstance(op, core.Gt):
        return _fired(op)
    return Skip(f"{value} is no wave of spikes that stay")


def _keeps_frames(before: Value, after: Value, steps: int) -> bool:
    """Whether a reshape only merges or splits the batch and the steps."""
    old, new = before.shaped.shape, after.shaped.shape
    if len(old) == len(new):
        return old == new
    longer, shorter = (old, new) if len(old) > len(new) else (new, old)
    if len(longer) != len(shorter) + 1 or longer[1] != steps:
        return False
    return longer[2:] == shorter[1:] and longer[0] * steps == shorter[0]


def clock_steps(value: Value) -> int | None:
    """T where a value counts 0 to T - 1 along axis 1 of [1, T, 1, ...], else None."""
    if isinstance(value.producer, core.Cast):
        return clock_steps(value.producer.x)
    shape = value.shaped.shape
    if len(shape) < 2 or any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    steps = shape[1]
    if not isinstance(steps, int) or not 1 <= steps <= MOST_STEPS:
        return None
    data = dense_data(value)
    if data is not None:
        return steps if np.array_equal(data.reshape(-1), np.arange(steps)) else None
    op = value.producer
    if isinstance(op, core.Reshape) and isinstance(op.x.producer, core.Iota):
        count = op.x.producer
        return steps if count.out.rank == 1 and (count.start, count.step) == (0, 1) else None
    return None


def _begin(op: core.Le) -> Wave | Skip:
    """times [B, 1, ...] <= clock [1, T, 1, ...]."""
    steps, given = clock_steps(op.right), op.left
    if steps is None:
        return Skip(f"{op.result} does not compare with a clock")
    shape = given.shaped.shape
    if (
        not isinstance(given.type, TensorType)
        or given.shaped.dtype.is_float
        or len(shape) != 5
        or shape[1] != 1
    ):
        return Skip(f"{op.result} is no comparison of integer times [B,1,C,H,W] with a clock")

    def times(rw: Rewriter, before: Op) -> Value:
        return as_bytes(rw, before, given, steps)

    return Wave(steps, times, (given, op.right))


def as_bytes(rw: Rewriter, before: Op, given: Value, steps: int) -> Value:
    """Times [B, 1, C, H, W] of any integer type as u8 [B, C, H, W]; T or more is T, below 0 is 0."""
    shape = given.shaped.shape
    kind = TensorType(t.u8, (shape[0], *shape[2:]))
    narrow = given
    while isinstance(narrow.producer, (core.Reshape, core.Cast)):
        narrow = narrow.producer.x
    made = narrow.producer
    layers = (spike.RankOrderCode, spike.FirstSpikeConv2d, spike.FirstSpikePool2d)
    if isinstance(made, layers) and made.steps == steps and narrow.type == kind:
        return narrow
    if given.shaped.dtype is not t.u8:
        given = rw.insert(core.Clamp(given, low=0.0, high=float(steps)), before=before, name="times.clamp")
        given = rw.insert(core.Cast(given, out=TensorType(t.u8, shape)), before=before, name="times.cast")
    return rw.insert(core.Reshape(given, out=kind), before=before, name="times")


def _pooled(op: nn.MaxPool2d) -> Wave | Skip:
    found = wave_of(op.x)
    if isinstance(found, Skip):
        return found
    if op.dilation != (1, 1) or op.ceil:
        return Skip(f"{op.result} pools windows with gaps, or past the edge")

    def times(rw: Rewriter, before: Op) -> Value:
        pool = spike.FirstSpikePool2d(
            found.times(rw, before), kernel=op.kernel, stride=op.stride, steps=found.steps, pad=op.pad
        )
        pool.loc = op.loc
        return rw.insert(pool, before=before, name=f"{op.result.name}.times")

    return Wave(found.steps, times)


def _fired(op: core.Gt) -> Wave | Skip:
    """A potential over a threshold, or a wave over a number from 0 to below 1."""
    level = uniform(op.right)
    if level is None:
        return Skip(f"{op.result} has a threshold that is no number")
    given = op.left
    while isinstance(given.producer, core.Reshape):
        given = given.producer.x
    layer = given.producer
    if not isinstance(layer, nn.Conv2d):
        found = wave_of(op.left)
        if isinstance(found, Skip):
            return found
        return found if 0 <= level < 1 else Skip(f"{op.result} compares a wave with {level}")
    found = layer_input(layer)
    if isinstance(found, Skip):
        return found
    if not _keeps_frames(given, op.left, found.steps):
        return Skip(f"{op.left} mixes the frames of a wave")
    weights = dense_data(layer.w)
    if weights is None:
        return Skip(f"the weights {layer.w} are not known, and the potential may fall")
    if (weights < 0).any():
        return Skip(f"weights of {layer.w} are negative: the potential may fall, and spikes may not stay")
    if layer.b is not None:
        return Skip(f"{layer.result} has a bias")

    def times(rw: Rewriter, before: Op) -> Value:
        neurons = spike.FirstSpikeConv2d(
            found.times(rw, before),
            layer.w,
            steps=found.steps,
            v_th=float(level),
            stride=layer.stride,
            pad=layer.pad,
        )
        neurons.loc = layer.loc
        return rw.insert(neurons, before=before, name=f"{op.result.name}.times")

    return Wave(found.steps, times)


def layer_input(layer: nn.Conv2d) -> Wave | Skip:
    """The wave that a convolution reads, one frame after the other."""
    if layer.groups != 1 or layer.dilation != (1, 1) or layer.act != "none":
        return Skip(f"{layer.result} has groups, dilation or an activation")
    if layer.w.type != TensorType(t.f32, layer.w.shaped.shape):
        return Skip(f"the weights {layer.w} are {layer.w.type}")
    return wave_of(layer.x)


__all__ = ["Wave", "as_bytes", "clock_steps", "layer_input", "wave_of"]
