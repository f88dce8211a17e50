"""The kernels as functions of numpy arrays, with every argument checked.

Arrays may have any strides; those that are not contiguous are copied.  Each function takes the kernel's
specification, the number of threads (samples are split between them, results do not depend on it) and
the processor to compile for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from plait.backends.llvm.machine import Processor
from plait.backends.llvm.native import compile_kernel
from plait.backends.llvm.specification import EventConv2d, FirstSpikeConv2d, PopcountConv2d
from plait.ir.errors import CompileError

_HOST = Processor()


def _checked(name: str, array: np.ndarray, shape: tuple[int | None, ...], *dtypes: DTypeLike) -> np.ndarray:
    """The array, contiguous; None in `shape` is the free number of samples."""
    if not isinstance(array, np.ndarray) or array.dtype not in [np.dtype(d) for d in dtypes]:
        wanted = " or ".join(str(np.dtype(d)) for d in dtypes)
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise CompileError(
            f"{name} is {found}, not a numpy array of {wanted}",
            where=name,
            why="the kernel reads memory of one element type",
            remedy=f"convert it to {wanted}",
        )
    sizes = ", ".join("N" if size is None else str(size) for size in shape)
    if array.ndim != len(shape) or any(want not in (None, have) for have, want in zip(array.shape, shape)):
        raise CompileError(
            f"{name} has shape {list(array.shape)}, not [{sizes}]",
            where=name,
            why="the kernel is compiled for the sizes of its specification",
            remedy="pass an array of this shape or compile another specification",
        )
    return np.ascontiguousarray(array)


def first_spike_conv2d(
    spec: FirstSpikeConv2d,
    times: NDArray[np.uint8],
    weights: NDArray[np.float32],
    threshold: float,
    *,
    threads: int = 1,
    processor: Processor = _HOST,
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """A layer of rank-order integrate-and-fire neurons: see `FirstSpikeConv2d`.

    Args:
        times: first-spike steps u8 [N,H,W,C]; `spec.steps` or more is silent.
        weights: f32 [kh,kw,ci,co].
        threshold: a neuron fires where potential > threshold.

    Returns:
        First-spike steps u8 [N,Ho,Wo,Co] after inhibition and pooling, `spec.steps` where silent, and the
        potentials f32 at those spikes, of the same shape (None without `spec.potentials`).

    Raises:
        CompileError: a shape or dtype that is not the specification's, or a threshold that is NaN.
    """
    shape = (None, spec.height, spec.width, spec.in_channels)
    times = _checked("times", times, shape, np.uint8)
    weights = _checked("weights", weights, spec.weight_shape, np.float32)
    if np.isnan(threshold):
        raise CompileError(
            "threshold is NaN", where="threshold", why="no potential exceeds it", remedy="pass a number"
        )
    samples = len(times)
    result = (samples, spec.result_height, spec.result_width, spec.out_channels)
    first = np.empty(result, np.uint8)
    potentials = np.empty(result, np.float32) if spec.potentials else None
    level = np.array([threshold], np.float32)
    kernel = compile_kernel(spec, processor=processor)
    kernel.run([times, weights, level, first, potentials], samples, threads=threads)
    return first, potentials


def event_conv2d(
    spec: EventConv2d,
    spikes: NDArray[np.uint8] | NDArray[np.bool_],
    weights: NDArray[np.float32],
    *,
    threads: int = 1,
    processor: Processor = _HOST,
) -> NDArray[np.float32]:
    """The currents of frames of spikes: spikes u8 or bool [F,H,W,C] -> f32 [F,Ho,Wo,Co].

    Args:
        weights: f32 [kh,kw,ci,co].

    Raises:
        CompileError: a shape or dtype that is not the specification's.
    """
    shape = (None, spec.height, spec.width, spec.in_channels)
    spikes = _checked("spikes", spikes, shape, np.uint8, np.bool_)
    weights = _checked("weights", weights, spec.weight_shape, np.float32)
    out = np.empty((len(spikes), spec.out_height, spec.out_width, spec.out_channels), np.float32)
    compile_kernel(spec, processor=processor).run([spikes, weights, out], len(spikes), threads=threads)
    return out


def event_linear(
    spec: EventConv2d,
    spikes: NDArray[np.uint8] | NDArray[np.bool_],
    weights: NDArray[np.float32],
    *,
    threads: int = 1,
    processor: Processor = _HOST,
) -> NDArray[np.float32]:
    """The sum of the weight rows of the inputs that spike: spikes [F,inputs] -> f32 [F,outputs].

    Args:
        spec: of `gather_rows`.
        weights: f32 [inputs,outputs].

    Raises:
        CompileError: a shape or dtype that is not the specification's, or one that is no linear layer.
    """
    if (spec.height, spec.width, spec.kernel, spec.padding) != (1, 1, (1, 1), (0, 0)):
        raise CompileError(
            "the specification is no linear layer",
            where="event_linear.spec",
            why="it has more than one pixel",
            remedy="make it with gather_rows, or call event_conv2d",
        )
    spikes = _checked("spikes", spikes, (None, spec.in_channels), np.uint8, np.bool_)
    weights = _checked("weights", weights, (spec.in_channels, spec.out_channels), np.float32)
    out = np.empty((len(spikes), spec.out_channels), np.float32)
    compile_kernel(spec, processor=processor).run([spikes, weights, out], len(spikes), threads=threads)
    return out


def popcount_conv2d(
    spec: PopcountConv2d,
    words: NDArray[np.uint32],
    weights: NDArray[np.uint32],
    *,
    levels: tuple[float, float] | None = None,
    threads: int = 1,
    processor: Processor = _HOST,
) -> NDArray[np.float32] | NDArray[np.int32]:
    """Convolution of packed spikes with packed weights of two levels: see `PopcountConv2d`.

    Args:
        words: spikes of `pack_spike_bits`, u32 [F,H,W,ceil(ci/32)].
        weights: of `pack_weight_bits`, u32 [kh,kw,ceil(ci/32),co].
        levels: (low, high) of a two-level specification, integers for an i32 result.

    Returns:
        f32 or i32 [F,Ho,Wo,Co].

    Raises:
        CompileError: a shape or dtype that is not the specification's; levels missing, superfluous or not
            integers where the result is.
    """
    words = _checked("words", words, (None, spec.height, spec.width, spec.words), np.uint32)
    weights = _checked("weights", weights, spec.weight_shape, np.uint32)
    dtype: DTypeLike = np.float32 if spec.result == "f32" else np.int32
    if (levels is not None) != spec.two_level:
        raise CompileError(
            f"levels are {levels}",
            where="levels",
            why=f"the specification has two_level={spec.two_level}",
            remedy="pass (low, high) exactly where two_level is set",
        )
    if levels is not None and spec.result == "i32" and any(level != int(level) for level in levels):
        raise CompileError(
            f"levels are {levels}",
            where="levels",
            why="the result is i32",
            remedy="pass integers or ask for an f32 result",
        )
    out = np.empty((len(words), spec.out_height, spec.out_width, spec.out_channels), dtype)
    pair = None if levels is None else np.array(levels, dtype)
    compile_kernel(spec, processor=processor).run([words, weights, pair, out], len(words), threads=threads)
    return out
