"""What an event-driven kernel is asked to compute: sizes, checked once, and the C symbol that follows.

Every specification is a frozen dataclass, so that it can name a cache entry.  Layouts are channels
last: maps [N, H, W, C], weights [kernel height][kernel width][input channel][output channel].
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from plait.ir.errors import CompileError

#: First-spike times are u8, `steps` means silent, and 255 is left free.
MOST_STEPS = 254
_MOST_INDEX = 2**31 - 1
Pair = tuple[int, int]


def _reject(what: str, where: str, why: str, remedy: str) -> CompileError:
    return CompileError(what, where=where, why=why, remedy=remedy)


def _check_sizes(where: str, least: int, sizes: Mapping[str, object]) -> None:
    """Raises CompileError unless every size is an int (or a pair of them) of at least `least`."""
    for name, value in sizes.items():
        for size in value if isinstance(value, tuple) else (value,):
            if not isinstance(size, int) or isinstance(size, bool) or size < least:
                raise _reject(
                    f"{name} is {value!r}",
                    f"{where}.{name}",
                    f"sizes are integers of at least {least}",
                    f"give {name} such a value",
                )
        if isinstance(value, tuple) and len(value) != 2:
            raise _reject(
                f"{name} has {len(value)} entries",
                f"{where}.{name}",
                "it is (rows, columns)",
                "give two integers",
            )


def _windows(size: int, kernel: int, stride: int, padding: int, where: str, axis: str) -> int:
    """How many windows fit: floor((size + 2*padding - kernel) / stride) + 1."""
    room = size + 2 * padding - kernel
    if room < 0:
        raise _reject(
            f"a window of {kernel} does not fit in {size} {axis} with padding {padding}",
            where,
            "the output would be empty",
            "take a smaller kernel or more padding",
        )
    return room // stride + 1


@dataclass(frozen=True)
class Specification:
    """Base of all specifications: `name` is the kernel family."""

    name: ClassVar[str] = ""

    @property
    def symbol(self) -> str:
        """The C symbol: `plait_<name>_` and twelve hexadecimal digits of the specification's hash."""
        return f"plait_{self.name}_{hashlib.sha256(repr(self).encode()).hexdigest()[:12]}"


@dataclass(frozen=True, kw_only=True)
class Window(Specification):
    """Geometry of a 2-D convolution with zero padding.

    Attributes:
        height, width: of the input map, in pixels.
        in_channels, out_channels: channels.
        kernel, stride, padding: (rows, columns).

    Raises:
        CompileError: a size that is not positive, a window that does not fit, or an index beyond 31 bits.
    """

    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)

    def __post_init__(self) -> None:
        where = type(self).__name__
        named = ("height", "width", "in_channels", "out_channels", "kernel", "stride")
        _check_sizes(where, 1, {name: getattr(self, name) for name in named})
        _check_sizes(where, 0, {"padding": self.padding})
        self._check_index("weights", (self.kernel[0] * self.kernel[1] + self.padded_width) * self._row)
        self._check_index("input map", self.kernel[0] * self.height * self.width * self.in_channels)
        _ = self.out_height, self.out_width

    def _check_index(self, what: str, size: int) -> None:
        if size > _MOST_INDEX:
            raise _reject(
                f"the {what} spans {size} elements",
                type(self).__name__,
                "event lists hold 32-bit indices",
                "split the channels into several kernels",
            )

    @property
    def _row(self) -> int:
        return self.in_channels * self.out_channels

    @property
    def padded_width(self) -> int:
        return self.width + 2 * self.padding[1]

    @property
    def out_height(self) -> int:
        where = f"{type(self).__name__}.kernel"
        return _windows(self.height, self.kernel[0], self.stride[0], self.padding[0], where, "rows")

    @property
    def out_width(self) -> int:
        where = f"{type(self).__name__}.kernel"
        return _windows(self.width, self.kernel[1], self.stride[1], self.padding[1], where, "columns")

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (*self.kernel, self.in_channels, self.out_channels)


@dataclass(frozen=True, kw_only=True)
class EventConv2d(Window):
    """Convolution of single frames of binary spikes: spikes u8 [F,H,W,C] -> f32 [F,Ho,Wo,Co].

    A non-zero byte is a spike.  Sums run over the spikes of a window by column, then row, then channel.
    C: void symbol(const uint8_t *spikes, const float *weights, float *out, void *workspace,
                   int64_t begin, int64_t end)
    """

    name: ClassVar[str] = "event_conv2d"


@dataclass(frozen=True)
class Pool:
    """Max pooling of binary spikes over time: the earliest spike of a window.

    Attributes:
        kernel, stride, padding: (rows, columns); padding is silent.

    Raises:
        CompileError: sizes that are not positive, or a padding as large as the kernel.
    """

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)

    def __post_init__(self) -> None:
        _check_sizes("Pool", 1, {"kernel": self.kernel, "stride": self.stride})
        _check_sizes("Pool", 0, {"padding": self.padding})
        if any(pad >= kernel for pad, kernel in zip(self.padding, self.kernel)):
            raise _reject(
                f"padding {self.padding} with kernel {self.kernel}",
                "Pool.padding",
                "a window would hold padding alone",
                "take a padding below the kernel",
            )


@dataclass(frozen=True, kw_only=True)
class FirstSpikeConv2d(Window):
    """A convolutional layer of rank-order integrate-and-fire neurons, each of which fires at most once.

    The potential of a neuron at step t is the sum of the weights of all inputs whose first spike is at
    step t or before; it is accumulated step by step and, within a step, by column, row and channel of
    the window.  The neuron fires at the first step where potential > threshold.

    Attributes:
        steps: number of time steps, 1 to 254; the time `steps` means silent.
        inhibit: keep at each pixel the spike of one channel alone: the earliest; of several, the one
            with the largest potential at that step; of equals, the lowest channel.
        pool: max pooling of the spikes that are left; the potential of a window is the largest among
            those of its earliest spikes.
        potentials: also return the potential at the first spike, 0 where silent.
        earliest: keep the spikes at the earliest step of a sample alone; later steps are not computed.

    C: void symbol(const uint8_t *times, const float *weights, const float *threshold,
                   uint8_t *first, float *potential, void *workspace, int64_t begin, int64_t end)
    where `potential` may be NULL without `potentials`.

    Raises:
        CompileError: see `Window`; also steps out of range or a pool that does not fit.
    """

    name: ClassVar[str] = "first_spike_conv2d"
    steps: int
    inhibit: bool = False
    pool: Pool | None = None
    potentials: bool = False
    earliest: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sizes("FirstSpikeConv2d", 1, {"steps": self.steps})
        if self.steps > MOST_STEPS:
            raise _reject(
                f"{self.steps} steps",
                "FirstSpikeConv2d.steps",
                f"first-spike times are bytes, so that at most {MOST_STEPS} steps can be told apart",
                "encode the input in fewer steps",
            )
        self._check_index("table of bins", self.steps * self.padded_width + 2)
        _ = self.result_height, self.result_width

    @property
    def result_height(self) -> int:
        """Rows of the result, after pooling."""
        return self._pooled(0, self.out_height, "rows")

    @property
    def result_width(self) -> int:
        """Columns of the result, after pooling."""
        return self._pooled(1, self.out_width, "columns")

    def _pooled(self, axis: int, size: int, axis_name: str) -> int:
        if self.pool is None:
            return size
        pool = self.pool
        where = "FirstSpikeConv2d.pool"
        return _windows(size, pool.kernel[axis], pool.stride[axis], pool.padding[axis], where, axis_name)


@dataclass(frozen=True, kw_only=True)
class PopcountConv2d(Window):
    """Convolution of binary spikes with weights of two levels, by AND and population count.

    Inputs are words [F,H,W,ceil(C/32)] and weights words [kh][kw][ceil(ci/32)][co] of 32 channels, the
    lowest channel in the lowest bit.  The count of a window is n, that of its ones in the weights p;
    the result is low*n + (high - low)*p, rounded after each operation, or p itself for 0/1 weights.

    Attributes:
        two_level: take `levels`, (low, high) of the result's type; without it, 0 and 1.
        result: "f32" or "i32".

    C: void symbol(const uint32_t *words, const uint32_t *weights, const float_or_int32_t *levels,
                   float_or_int32_t *out, int64_t begin, int64_t end)
    where `levels` may be NULL without `two_level`.  It needs no workspace.
    """

    name: ClassVar[str] = "popcount_conv2d"
    two_level: bool = False
    result: str = "f32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.result not in ("f32", "i32"):
            raise _reject(
                f"result {self.result!r}",
                "PopcountConv2d.result",
                "results are f32 or i32",
                "choose one of the two",
            )

    @property
    def words(self) -> int:
        """Words of 32 channels."""
        return -(-self.in_channels // 32)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (*self.kernel, self.words, self.out_channels)


def gather_rows(inputs: int, outputs: int) -> EventConv2d:
    """A linear layer as a convolution of one pixel: spikes u8 [F,inputs], weights f32 [inputs][outputs]."""
    return EventConv2d(height=1, width=1, in_channels=inputs, out_channels=outputs, kernel=(1, 1))
