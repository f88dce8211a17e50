"""The analytical predictor: a roofline per kernel, summed along the launch queue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from plait.ir.bind import default_dims
from plait.ir.cost import Cost
from plait.ir.dims import evaluate
from plait.ir.errors import InputError, PredictError, did_you_mean
from plait.ir.graph import Graph
from plait.ir.memory import plan_memory
from plait.ir.op import Op
from plait.ir.types import ShapedType
from plait.predictors.calibration import CALIBRATION
from plait.predictors.devices import Device
from plait.predictors.devices import device as device_named
from plait.predictors.kernels import Block, Branch, Kernel, Loop, group
from plait.predictors.mig import Profile, choose_profile
from plait.predictors.prediction import Interval, OpShare, Prediction, Roofline
from plait.predictors.published import published
from plait.predictors.timing import (
    PRECISIONS,
    KernelCost,
    Resources,
    Span,
    kernel_cost,
    layout_bytes,
    op_costs,
    width_factor,
)

MEBI = 1 << 20
TOP_OPS = 10


@dataclass(frozen=True)
class Footprint:
    """Parts of the peak memory, MiB; the context is counted for the whole GPU."""

    weights_mb: float
    activations_mb: float
    workspace_mb: float
    peak_op: str | None

    def total_mb(self, context_mb: float) -> float:
        return self.weights_mb + self.activations_mb + self.workspace_mb + context_mb


@dataclass
class _Total:
    """Sums over the kernels of a block on given resources."""

    span: Span
    dynamic_j: float = 0.0
    kernels: int = 0
    flops: float = 0.0
    bytes: float = 0.0

    def add(self, other: _Total, count: int = 1) -> None:
        self.span = self.span.then(other.span.times(count))
        self.dynamic_j += other.dynamic_j * count
        self.kernels += other.kernels * count
        self.flops += other.flops * count
        self.bytes += other.bytes * count


class _Simulation:
    """A graph at fixed dims, priced on any resources; costs are computed once."""

    def __init__(self, block: Block, dims: Mapping[str, int], precision: str, fused: bool) -> None:
        self.block, self.dims, self.precision, self.fused = block, dims, precision, fused
        self.costs: dict[Op, Cost] = {}
        for kernel, _ in kernels_of(block):
            self.costs.update(op_costs(kernel, dims))

    def dispatch_us(self, device: Device) -> float:
        """Host time per launch: an eager operator, or a launch alone."""
        return device.launch_floor_us if self.fused else CALIBRATION.eager_dispatch_us

    def cost(self, kernel: Kernel, resources: Resources) -> KernelCost:
        return kernel_cost(kernel, self.costs, self.dims, resources, self.precision, self.fused)

    def run(self, resources: Resources) -> _Total:
        return self._block(self.block, resources)

    def _block(self, block: Block, resources: Resources) -> _Total:
        total = _Total(Span())
        for item in block.items:
            if isinstance(item, Kernel):
                cost = self.cost(item, resources)
                span = cost.span(self.dispatch_us(resources.device))
                total.add(_Total(span, cost.dynamic_j, 1, cost.flops, cost.bytes))
            elif isinstance(item, Loop):
                total.add(self._block(item.body, resources), item.trips)
            else:
                ways = [self._block(way, resources) for way in (item.then, item.otherwise)]
                total.add(max(ways, key=lambda way: way.span.latency_us))
        return total

    def shares(self, resources: Resources) -> tuple[OpShare, ...]:
        """The kernels that take most time, those that wait for the host included."""
        dispatch = self.dispatch_us(resources.device)
        weighed: list[tuple[float, Kernel, KernelCost]] = []
        for kernel, trips in kernels_of(self.block):
            cost = self.cost(kernel, resources)
            weighed.append((max(cost.busy_us, cost.issues * dispatch) * trips, kernel, cost))
        whole = sum(weight for weight, _, _ in weighed) or 1.0
        weighed.sort(key=lambda item: -item[0])
        return tuple(
            self._share(kernel, weight / whole, cost, dispatch) for weight, kernel, cost in weighed[:TOP_OPS]
        )

    def _share(self, kernel: Kernel, share: float, cost: KernelCost, dispatch_us: float) -> OpShare:
        main = max(kernel.ops, key=lambda op: self.costs[op].flops or 0)
        location = main.loc.readable() if main.loc else ""
        return OpShare(main.name, main.opname, share, cost.bound(dispatch_us), location, len(kernel.ops))


def kernels_of(block: Block, trips: int = 1) -> Iterator[tuple[Kernel, int]]:
    """Every kernel of a block with how often it runs; of a branch, both ways."""
    for item in block.items:
        if isinstance(item, Kernel):
            yield item, trips
        elif isinstance(item, Loop):
            yield from kernels_of(item.body, trips * item.trips)
        else:
            yield from kernels_of(item.then, trips)
            yield from kernels_of(item.otherwise, trips)


def predict_roofline(
    graph: Graph,
    device: str | Device = "a100-sxm4-40gb",
    dims: Mapping[str, int] | None = None,
    *,
    precision: str = "fp32",
    kernels: Sequence[Sequence[str]] | None = None,
    latency_target_ms: float | None = None,
    fused: bool = True,
    margin: float = 0.10,
    media_engines: bool = False,
) -> Prediction:
    """Latency, energy, peak memory and MIG profile of one run of a graph.

    Args:
        graph: a verified graph.
        device: a device or its name.
        dims: values of dim symbols; a dim without one takes its upper bound, which a note says.
        precision: arithmetic of f32 ops: "fp32", "tf32", "fp16", "bf16", "int8", or
            "pytorch" (TF32 convolutions, FP32 matrix products: PyTorch's defaults).
        kernels: the kernels of a compiled program, each as names of its ops.
        latency_target_ms: choose the MIG profile for this latency too.
        fused: False prices eager PyTorch: one kernel per op, each issued by the
            interpreter, with layout copies around tensor-core convolutions.
        margin: share of a MIG slice's memory to keep free.
        media_engines: offer only MIG profiles with media engines.

    Raises:
        PredictError: unknown device, precision or dim; a dim out of range, or
            without a value and unbounded.
    """
    chosen = device_named(device)
    if precision not in PRECISIONS:
        raise PredictError(
            f"unknown precision '{precision}'{did_you_mean(precision, PRECISIONS)}",
            why=f"precisions are {', '.join(PRECISIONS)}",
        )
    values, notes = _dim_values(graph, dims)
    block = group(graph, values, fused=fused, kernels=kernels)
    simulation = _Simulation(block, values, precision, fused)
    whole = Resources.of(chosen)
    total = simulation.run(whole)
    memory = footprint(graph, values, precision, fused)
    latency_ms = total.span.latency_us / 1e3
    energy_j = chosen.active_floor_w * latency_ms / 1e3 + total.dynamic_j
    context_mb = CALIBRATION.context_on(chosen.sm_count)
    memory_mb = memory.total_mb(context_mb)

    def latency_on(profile: Profile) -> float:
        return simulation.run(Resources.of(chosen, profile)).span.latency_us / 1e3

    mig = choose_profile(
        chosen,
        lambda profile: memory.total_mb(CALIBRATION.context_on(profile.sm_count)),
        latency_ms_on=latency_on,
        latency_target_ms=latency_target_ms,
        margin=margin,
        media_engines=media_engines,
    )
    exact = sum(cost.exact for cost in simulation.costs.values())
    priced = len(simulation.costs)
    calibrated = precision == "pytorch" and not fused
    latency_band = CALIBRATION.eager_latency_band if calibrated else CALIBRATION.latency_band
    memory_band = CALIBRATION.eager_memory_band if calibrated else CALIBRATION.memory_band
    return Prediction(
        graph_name=graph.name,
        graph_id=graph.id,
        device=chosen.name,
        dims=values,
        precision=precision,
        fused=fused,
        latency_ms=latency_ms,
        latency_interval_ms=_interval(latency_ms, latency_band),
        energy_j=energy_j,
        energy_interval_j=_interval(energy_j, CALIBRATION.energy_band),
        memory_mb=memory_mb,
        memory_interval_mb=_interval(memory_mb, memory_band),
        basis="roofline",
        provenance={
            "latency": "calibrated" if calibrated else "simulated",
            "energy": "simulated",
            "memory": "calibrated" if calibrated else "simulated",
        },
        in_distribution=None,
        roofline=Roofline(
            latency_ms, energy_j, memory_mb, total.span.busy_us / 1e3, total.kernels, total.flops, total.bytes
        ),
        mig=mig,
        top_ops=simulation.shares(whole),
        coverage=exact / priced if priced else 1.0,
        priced_ops=priced,
        weights_mb=memory.weights_mb,
        activations_mb=memory.activations_mb,
        workspace_mb=memory.workspace_mb,
        context_mb=context_mb,
        peak_op=memory.peak_op,
        published=published(graph.name, chosen.name, _batch(graph, values)),
        notes=(*notes, *_control_notes(block)),
    )


def footprint(graph: Graph, dims: Mapping[str, int], precision: str, fused: bool) -> Footprint:
    """Peak memory at fixed dims: constants, inputs and the activation plan, and the largest work space."""
    plan = plan_memory(graph, dims)
    factor = width_factor(precision)
    alive = plan.arena_bytes + plan.input_bytes + plan.output_bytes
    workspace = 0.0 if fused else max((layout_bytes(op, dims, precision) for op in graph.walk()), default=0.0)
    return Footprint(
        plan.constant_bytes * factor / MEBI, alive * factor / MEBI, workspace / MEBI, plan.peak_op
    )


def _dim_values(graph: Graph, dims: Mapping[str, int] | None) -> tuple[dict[str, int], tuple[str, ...]]:
    """A value for every dim, and notes on those that were not given."""
    given = dict(dims or {})
    try:
        values = default_dims(graph, given, upper=True)
    except InputError as error:
        raise PredictError(error.what, where=error.where, why=error.why, remedy=error.remedy) from error
    assumed = [n for n in values if n not in given and graph.dims[n].low != graph.dims[n].high]
    notes = tuple(f"dim {name} was not given: its upper bound {values[name]} is used" for name in assumed)
    return values, notes


def _control_notes(block: Block) -> tuple[str, ...]:
    notes = []
    for item in block.items:
        if isinstance(item, Loop):
            if not item.exact:
                notes.append(f"the trip count of %{item.op.name} is decided at run time: one trip is priced")
            notes += _control_notes(item.body)
        elif isinstance(item, Branch):
            notes.append(f"of the two ways of %{item.op.name} the slower one is priced")
    return tuple(notes)


def _batch(graph: Graph, dims: Mapping[str, int]) -> int | None:
    """First dim of the first input, where there is one."""
    kind = graph.inputs[0].type if graph.inputs else None
    if not isinstance(kind, ShapedType) or not kind.shape:
        return None
    return evaluate(kind.shape[0], dims)


def _interval(value: float, band: tuple[float, float]) -> Interval:
    return Interval(value * band[0], value * band[1])
