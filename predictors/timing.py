"""Time and energy of a kernel on a GPU or a slice of one, and of a sequence of kernels.

A kernel takes the launch floor plus the larger of its compute and memory time
(Williams et al., "Roofline", CACM 2009).  The compute time of a matrix product
follows its tiling: output tiles, split along the depth where they are too few,
are dealt to SMs in waves, so a small grid leaves SMs idle and a partial wave
counts as a whole one; a tile takes the larger of its arithmetic and of its
operands' way through the level-2 cache.  The best of a few tile shapes is taken,
as libraries do.

Kernels queue on one stream: each starts when its predecessor is done and the host
has issued it.  That recursion is linear in (max, +), so a sequence is summed up
by three numbers, and a loop by its body's three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Literal

from plait.ir.cost import Cost, op_cost
from plait.ir.op import Op
from plait.ir.ops import core, nn
from plait.ir.types import QuantType, ShapedType
from plait.predictors.calibration import CALIBRATION
from plait.predictors.contraction import Contraction, contractions
from plait.predictors.devices import Device
from plait.predictors.kernels import Kernel, bytes_of
from plait.predictors.mig import Profile

Bound = Literal["compute", "memory", "launch"]

#: Arithmetic of f32 graphs.  "pytorch" is what PyTorch does unless told otherwise:
#: TF32 convolutions and FP32 matrix products.
PRECISIONS = ("fp32", "pytorch", "tf32", "fp16", "bf16", "int8")

#: Output tiles (rows, columns) of a thread block.
TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (64, 32), (32, 64), (32, 32))
#: Ways to split the depth of a product over thread blocks, each part at least SPLIT_DEPTH deep.
SPLITS = (1, 2, 4, 8)
SPLIT_DEPTH = 256

_ELEMENT_BYTES = {"fp64": 8, "fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1}
_TRANSCENDENTAL = (
    *(core.Exp, core.Expm1, core.Log, core.Log1p, core.Sin, core.Cos, core.Tan, core.Erf, core.Pow),
    *(nn.Sigmoid, nn.Tanh, nn.Gelu, nn.Silu, nn.Mish, nn.Softplus, nn.Elu, nn.Selu),
)
_TRANSCENDENTAL_ACTS = ("sigmoid", "tanh", "gelu", "gelu_tanh", "silu")


@dataclass(frozen=True)
class Resources:
    """What a kernel can use: a GPU, or the share of it that a MIG slice gives."""

    device: Device
    sm_count: int
    bandwidth_gb_s: float

    @staticmethod
    def of(device: Device, profile: Profile | None = None) -> Resources:
        """The whole GPU, or a slice: SMs and DRAM bandwidth scale, the launch floor stays."""
        if profile is None:
            return Resources(device, device.sm_count, device.achieved_bandwidth_gb_s)
        return Resources(
            device, profile.sm_count, device.achieved_bandwidth_gb_s * float(profile.memory_share)
        )

    def rate_per_sm(self, mode: str, *, convolution: bool = False) -> float:
        """FLOP/us that one SM sustains in a large matrix product or convolution."""
        peak = self.device.peak_tflops(mode) * self.device.achieved_fraction[mode] / self.device.sm_count
        return peak * 1e6 * (CALIBRATION.convolution_fraction[mode] if convolution else 1.0)


@dataclass(frozen=True)
class Span:
    """A sequence of kernels as a (max, +) operator on (GPU time, host time).

    gpu' = max(gpu + busy_us, host + delay_us) and host' = host + issue_us.
    """

    busy_us: float = 0.0
    issue_us: float = 0.0
    delay_us: float = 0.0

    def then(self, other: Span) -> Span:
        """This sequence followed by another."""
        return Span(
            self.busy_us + other.busy_us,
            self.issue_us + other.issue_us,
            max(self.delay_us + other.busy_us, self.issue_us + other.delay_us),
        )

    def times(self, count: int) -> Span:
        """This sequence `count` times over."""
        if count <= 0:
            return Span()
        return Span(
            self.busy_us * count,
            self.issue_us * count,
            self.delay_us + (count - 1) * max(self.busy_us, self.issue_us),
        )

    @property
    def latency_us(self) -> float:
        """Time from an idle start until the last kernel is done."""
        return max(self.busy_us, self.delay_us)


@dataclass(frozen=True)
class KernelCost:
    """Time and energy of one kernel; the times in us exclude waiting for the host."""

    compute_us: float
    memory_us: float
    layout_us: float
    floor_us: float
    dynamic_j: float
    flops: float
    bytes: float
    issues: int

    @property
    def busy_us(self) -> float:
        return self.floor_us + max(self.compute_us, self.memory_us) + self.layout_us

    def span(self, dispatch_us: float) -> Span:
        """The kernel in the queue, when the host needs `dispatch_us` per issue."""
        issue = self.issues * dispatch_us
        return Span(self.busy_us, issue, issue + self.busy_us)

    def bound(self, dispatch_us: float) -> Bound:
        """What takes most of its time."""
        work = max(self.compute_us, self.memory_us) + self.layout_us
        if max(self.floor_us, self.issues * dispatch_us - self.busy_us + self.floor_us) > work:
            return "launch"
        return "compute" if self.compute_us > self.memory_us + self.layout_us else "memory"


def mode_of(op: Op, precision: str) -> str:
    """The arithmetic mode of an op: its element type decides, and for f32 the precision asked for."""
    kind = next((v.type for v in op.operands if isinstance(v.type, ShapedType)), None)
    if isinstance(kind, QuantType):
        return "int8"
    name = kind.dtype.name if kind is not None else "f32"
    if name != "f32":
        return {"f16": "fp16", "bf16": "bf16", "f64": "fp64", "c64": "fp64"}.get(name, "fp32")
    if precision == "pytorch":
        return "tf32" if isinstance(op, nn.Convolution) else "fp32"
    return precision


def contraction_us(work: Contraction, mode: str, resources: Resources) -> float:
    """Compute time of a matrix product: waves of output tiles over the SMs, for the best tile and split."""
    if work.flops == 0:
        return 0.0
    if work.depthwise:  # one column per group: no tile to reuse operands in, so the plain cores run it
        plain = "fp64" if mode == "fp64" else "fp32"
        return work.flops / (resources.rate_per_sm(plain, convolution=True) * resources.sm_count)
    rate = resources.rate_per_sm(mode, convolution=work.convolution)
    cache = resources.device.l2_bandwidth_gb_s * 1e3 / resources.device.sm_count  # bytes per us and SM
    element = _ELEMENT_BYTES[mode]
    best = float("inf")
    for rows, columns in TILES:
        tiles = work.batch * ceil(work.rows / rows) * ceil(work.columns / columns)
        for split in SPLITS:
            depth = ceil(work.depth / split)
            if split > 1 and depth < SPLIT_DEPTH:
                break
            waves = ceil(tiles * split / resources.sm_count)
            arithmetic = 2 * rows * columns * depth / rate
            operands = (rows + columns) * depth * element / cache
            best = min(best, waves * max(arithmetic, operands))
    return best


def width_factor(precision: str) -> float:
    """Bytes of an f32 element under a precision, relative to f32."""
    return _ELEMENT_BYTES.get(precision, 4) / 4


def _narrowed(op: Op, precision: str) -> float:
    floats = any(isinstance(v.type, ShapedType) and v.type.dtype.name == "f32" for v in op.results)
    return width_factor(precision) if floats else 1.0


def layout_bytes(op: Op, dims: Mapping[str, int], precision: str) -> float:
    """Bytes of the channels-last copies that an eager tensor-core convolution makes of its input and result.

    cuDNN's tensor-core kernels take channels last; on channels-first tensors it
    converts both ways, in work space.  Zero for other ops and modes.
    """
    if not isinstance(op, nn.Convolution) or mode_of(op, precision) in ("fp32", "fp64"):
        return 0.0
    if any(work.depthwise for work in contractions(op, dims)):
        return 0.0
    return (bytes_of(op.x, dims) + bytes_of(op.result, dims)) * _narrowed(op, precision)


def kernel_cost(
    kernel: Kernel,
    costs: Mapping[Op, Cost],
    dims: Mapping[str, int],
    resources: Resources,
    precision: str,
    fused: bool,
) -> KernelCost:
    """Time and energy of one kernel.

    Args:
        costs: cost of each op of the kernel at these dims, see `op_costs`.
        precision: arithmetic of f32 ops, one of PRECISIONS.
        fused: False adds what eager PyTorch does around convolutions: layout
            copies in tensor-core modes, and a kernel of its own for the bias.
    """
    device = resources.device
    moved = compute = energy = flops = copied = extra = 0.0
    launches = issues = 1
    for op in kernel.ops:
        mode = mode_of(op, precision)
        products = contractions(op, dims)
        moved += sum(kernel.external_bytes(op, costs[op], dims)) * _narrowed(op, precision)
        own_flops = float(costs[op].flops or 0)
        flops += own_flops
        if not products:
            rate = resources.rate_per_sm("fp64" if mode == "fp64" else "fp32") * resources.sm_count
            compute += own_flops / rate
            continue
        compute += sum(contraction_us(work, mode, resources) for work in products)
        energy += sum(
            work.flops * device.pj_per_flop["fp32" if work.depthwise else mode] for work in products
        )
        if not fused:
            copies = 2 * layout_bytes(op, dims, precision)
            copied += copies
            launches += 2 if copies else 0
            if isinstance(op, nn.Convolution) and op.b is not None:
                extra += 2 * bytes_of(op.result, dims) * _narrowed(op, precision)
                launches += 1
                issues += 1
    memory = moved / (resources.bandwidth_gb_s * 1e3)
    layout = (copied + extra) / (resources.bandwidth_gb_s * 1e3)
    floor = launches * device.launch_floor_us
    if energy:
        energy += moved * device.contraction_pj_per_byte
    else:
        energy = max(moved * _pj_per_byte(kernel, device), flops * device.pj_per_flop["fp32"])
    energy += (copied + extra) * device.stream_pj_per_byte
    cost = KernelCost(compute, memory, layout, floor, 0.0, flops, moved + copied + extra, issues)
    # The board's power limit throttles the clock before it is exceeded.
    limit = (device.tdp_w - device.active_floor_w) * cost.busy_us * 1e-6
    joules = min(energy * 1e-12, limit)
    return KernelCost(compute, memory, layout, floor, joules, flops, cost.bytes, issues)


def _pj_per_byte(kernel: Kernel, device: Device) -> float:
    hot = any(
        isinstance(op, _TRANSCENDENTAL) or getattr(op, "act", "none") in _TRANSCENDENTAL_ACTS
        for op in kernel.ops
    )
    return device.transcendental_pj_per_byte if hot else device.stream_pj_per_byte


def op_costs(kernel: Kernel, dims: Mapping[str, int]) -> dict[Op, Cost]:
    """Cost of each op of a kernel; where no rule knows it, the bytes of operands and results alone."""
    found: dict[Op, Cost] = {}
    for op in kernel.ops:
        cost = op_cost(op, dims)
        if None in cost.figures():
            read = sum(bytes_of(value, dims) for value in dict.fromkeys(op.operands))
            cost = Cost(0, 0, read, sum(bytes_of(value, dims) for value in op.results), exact=False)
        found[op] = cost
    return found
