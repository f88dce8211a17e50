"""When weighted sums of spikes are faster by events than dense: models of their time.

On a CPU a form takes a fixed time and so much for each unit of a few kinds of work (bytes looked at,
events, additions, ...); the seconds a unit are fitted to measured layers by `bench/spike_density.py --fit`,
and FITTED says where and when.  For an A100 the times are those of a roofline, from figures of the device
and counts of instructions: modelled, not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log2, prod
from typing import Literal

from plait.ir.dims import IntLike
from plait.ir.ops import spike
from plait.ir.ops.common import pads_of

Form = Literal["dense", "gather_rows", "popcount"]
Work = Mapping[str, float]

#: f32 in a vector.
_LANES = 16
#: Inputs that are looked at together for events, and how many of them make a short row.
_WORD, _SHORT = 64, 8
#: Weights of so many bytes stay in the cache of a core.
_CACHED_BYTES, _PAGE_BYTES = 2 << 20, 4096
#: Images in a batch of unknown size, and threads that are taken to share them.
IMAGES, THREADS = 16, 2


@dataclass(frozen=True)
class Fitted:
    """Seconds for each unit of work of a thread, by form.

    Attributes:
        machine: the processor.
        date: of the measurement.
    """

    machine: str
    date: str
    seconds: Mapping[Form, Work]


# begin of what bench/spike_density.py --fit writes
FITTED = Fitted(
    machine="Intel(R) Xeon(R) Processor",
    date="2026-12-01",
    seconds={
        "dense": {
            "call": 4.688e-05,
            "narrow_window_mac": 9.411e-12,
            "vector": 2.132e-09,
            "input": 4.571e-10,
            "output": 1.089e-09,
            "far_mac": 1.11e-12,
            "window_mac": 1.278e-11,
            "aliased_output": 2.478e-09,
            "transformed_mac": 6.396e-12,
            "narrow_transformed_mac": 1.017e-11,
            "row_mac": 1.553e-11,
            "narrow_row_mac": 6.111e-11,
        },
        "gather_rows": {
            "call": 4.688e-05,
            "input": 2.876e-10,
            "scan": 8.64e-09,
            "event": 4.05e-09,
            "spiking_window": 1.484e-08,
            "output": 7.351e-10,
            "addition": 7.012e-10,
            "far_addition": 1.01e-09,
            "short_scan": 6.298e-09,
            "row_scan": 3.301e-08,
            "row_event": 8.575e-09,
            "row_output": 4.552e-09,
        },
        "popcount": {
            "call": 4.688e-05,
            "input": 6.667e-10,
            "word": 1.807e-10,
            "vector": 7.786e-10,
            "output": 7.216e-10,
        },
    },
)
# end of what bench/spike_density.py --fit writes


@dataclass(frozen=True)
class SpikeLayer:
    """Sizes of a layer that sums spikes; a row of a dense layer is an image of one pixel.

    Attributes:
        images: rows of a dense layer.
        channels, outputs: of an image.
        size: height and width of an image.
        result: height and width of the result.
        kernel, stride: of the window.
        pad: columns on the left.
    """

    images: int
    channels: int
    outputs: int
    size: tuple[int, int] = (1, 1)
    result: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pad: int = 0

    @property
    def pixels(self) -> int:
        """Of all results of one channel."""
        return self.images * prod(self.result)

    @property
    def window(self) -> int:
        """Inputs that one result sees."""
        return self.channels * prod(self.kernel)

    @property
    def inputs(self) -> int:
        """Of all images."""
        return self.images * self.channels * prod(self.size)

    @property
    def vectors(self) -> int:
        """Vectors that the outputs of a pixel fill."""
        return ceil(self.outputs / _LANES)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in f32."""
        return 4 * self.window * self.outputs

    @property
    def distance(self) -> float:
        """How far away the weights lie: powers of two by which they exceed the cache of a core."""
        return max(0.0, log2(self.weight_bytes / _CACHED_BYTES))

    @property
    def is_image(self) -> bool:
        """Whether it is a convolution."""
        return prod(self.size) > 1


def layer_of(op: spike.SpikeLinear | spike.SpikeConv2d) -> SpikeLayer | None:
    """The sizes of an op, with a batch of `IMAGES` where it is a symbol; None where another size is one."""
    shape, weights = op.x.shaped.shape, op.w.shaped.shape
    if not all(isinstance(size, int) for size in weights):
        return None
    outputs, channels, *kernel = map(int, weights)
    if isinstance(op, spike.SpikeLinear):
        return SpikeLayer(_count(shape[:-1]), channels, outputs)
    if not all(isinstance(size, int) for size in shape[2:]):
        return None
    result = op.result.shaped.shape
    return SpikeLayer(
        _count(shape[:1]),
        channels,
        outputs,
        (int(shape[2]), int(shape[3])),
        (int(result[2]), int(result[3])),
        (kernel[0], kernel[1]),
        op.stride,
        pads_of(op, op.pad, 2)[1][0],
    )


def _count(dims: tuple[IntLike, ...]) -> int:
    return prod(dim if isinstance(dim, int) else IMAGES for dim in dims)


# -- work on a CPU ------------------------------------------------------------------------------
def work(form: Form, layer: SpikeLayer, density: float, threads: int = THREADS) -> dict[str, float]:
    """The units of work of a form on a CPU, as many as one thread does.

    Args:
        density: share of the inputs that spike.
        threads: that share the work; by events, an image is the work of one.
    """
    if form == "dense":
        found, share = _dense_work(layer), 1 / threads
    else:
        found = _gather_work(layer, density) if form == "gather_rows" else _popcount_work(layer)
        share = ceil(layer.images / threads) / layer.images
    return {name: count * (1.0 if name == "call" else share) for name, count in found.items()}


def _dense_work(layer: SpikeLayer) -> dict[str, float]:
    macs = layer.pixels * layer.window * layer.vectors * _LANES
    transformed = layer.kernel == (3, 3) and layer.stride == (1, 1) and layer.channels % _LANES == 0
    wide = layer.vectors > 1
    kind = "window_mac" if wide else "narrow_window_mac"
    if not layer.is_image:
        kind = "row_mac" if wide else "narrow_row_mac"
    elif transformed:
        kind = "transformed_mac" if wide else "narrow_transformed_mac"
    # Planes whose bytes are a multiple of a page send all channels of a pixel to the same lines of a cache.
    aliased = layer.is_image and 4 * prod(layer.result) % _PAGE_BYTES == 0
    return {
        "call": 1,
        kind: macs,
        "vector": layer.pixels * layer.vectors,
        "input": layer.inputs,
        "aliased_output" if aliased else "output": layer.pixels * layer.outputs,
        "weight_byte": layer.weight_bytes,
        "far_mac": 0.0 if layer.is_image else macs * layer.distance,
    }


def _gather_work(layer: SpikeLayer, density: float) -> dict[str, float]:
    events = layer.inputs * density
    additions = layer.pixels * layer.window * density * layer.vectors
    outputs = layer.pixels * layer.outputs
    shared = {"addition": additions, "far_addition": additions * layer.distance}
    if not layer.is_image:
        scanned = layer.images * ceil(layer.channels / _WORD)
        row = {"call": 1, "row": layer.images, "row_scan": scanned}
        return {**row, "row_event": events, "row_output": outputs, **shared}
    scanned = layer.images * layer.channels * layer.size[0] * ceil(layer.size[1] / _WORD)
    return {
        "call": 1,
        "image": layer.images,
        "input": layer.inputs,
        "short_scan" if layer.size[1] <= _SHORT else "scan": scanned,
        "event": events,
        "sorted_event": events * layer.kernel[0] * layer.result[0] / layer.size[0],
        "band_column": layer.images * layer.result[0] * (layer.size[1] + 2 * layer.pad),
        "spiking_window": layer.pixels * (1.0 - (1.0 - density) ** layer.window),
        "output": outputs,
        **shared,
    }


def _popcount_work(layer: SpikeLayer) -> dict[str, float]:
    words = prod(layer.kernel) * ceil(layer.channels / 32)
    return {
        "call": 1,
        "input": layer.inputs,
        "window": layer.pixels,
        "word": layer.pixels * words,
        "vector": layer.pixels * words * layer.vectors,
        "output": layer.pixels * layer.outputs,
    }


# -- time ---------------------------------------------------------------------------------------
def cpu_seconds(form: Form, layer: SpikeLayer, density: float) -> float:
    """The time of a form on the CPU that FITTED names."""
    each = FITTED.seconds[form]
    return sum(count * each.get(name, 0.0) for name, count in work(form, layer, density).items())


#: A100-SXM4-40GB: f32 rate, bandwidths and launch time as `plait predict` has them; 108 multiprocessors
#: at 1.41 GHz that issue four instructions of a warp in a cycle.
_A100_FLOPS, _A100_DRAM, _A100_L2, _A100_LAUNCH = 18.1e12, 1.4e12, 5.4e12, 3e-6
_A100_ISSUES = 108 * 1.41e9 * 4
#: Instructions of a warp for a chunk of inputs and for an event of its list, and the warps of a block.
_CHUNK_INSTRUCTIONS, _EVENT_INSTRUCTIONS, _WARPS = 60, 3, 4
_THREADS = 32 * _WARPS
#: Columns of the tile of a dense product, which are computed whether they exist or not.
_A100_TILE = 64


def a100_seconds(form: Form, layer: SpikeLayer, density: float) -> float:
    """The time of a form on an A100 by its roofline.  Counts of bits are computed by events there."""
    moved = layer.inputs + layer.weight_bytes + 4 * layer.pixels * layer.outputs
    if form == "dense":
        columns = ceil(layer.outputs / _A100_TILE) * _A100_TILE
        return _A100_LAUNCH + max(2 * layer.pixels * layer.window * columns / _A100_FLOPS, moved / _A100_DRAM)
    vector = 4 if layer.outputs % 4 == 0 and layer.outputs >= 4 * _THREADS else 1
    blocks = layer.pixels * ceil(layer.outputs / (_THREADS * vector))
    chunk, event = _CHUNK_INSTRUCTIONS * _WARPS, _EVENT_INSTRUCTIONS * _WARPS * vector
    issued = blocks * (ceil(layer.window / _THREADS) * chunk + layer.window * density * event)
    gathered = layer.pixels * layer.window * density * layer.outputs * 4
    return _A100_LAUNCH + max(issued / _A100_ISSUES, gathered / _A100_L2, moved / _A100_DRAM)


def seconds(target: Literal["cpu", "a100"], form: Form, layer: SpikeLayer, density: float) -> float:
    """The time of a form on a target."""
    return (cpu_seconds if target == "cpu" else a100_seconds)(form, layer, density)


def crossover(target: Literal["cpu", "a100"], layer: SpikeLayer) -> float:
    """The density at which events take as long as the dense form; 1 where they are always faster.

    Both grow with the density or stay the same, so that halving an interval finds it, to 0.0005.
    """
    low, high = 0.0, 1.0

    def gains(density: float) -> bool:
        return seconds(target, "gather_rows", layer, density) < seconds(target, "dense", layer, density)

    if gains(1.0):
        return 1.0
    while high - low > 0.0005:
        middle = (low + high) / 2
        low, high = (middle, high) if gains(middle) else (low, middle)
    return low


__all__ = [
    "FITTED",
    "Fitted",
    "Form",
    "SpikeLayer",
    "a100_seconds",
    "cpu_seconds",
    "crossover",
    "layer_of",
    "seconds",
    "work",
]
