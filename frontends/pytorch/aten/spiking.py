"""Rules: plait's own operators on first-spike times, see `plait.frontends.families.spiking.events`."""

from __future__ import annotations

from collections.abc import Sequence

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import register
from plait.ir.ops import spike
from plait.ir.value import Value


@register("plait.rank_order_times.default")
def rank_order_times(build: Builder, image: Value, steps: int) -> Value:
    """One op."""
    return build.emit(spike.RankOrderCode(image, steps=steps))


@register("plait.first_spike_conv2d.default")
def first_spike_conv2d(
    build: Builder, times: Value, weight: Value, steps: int, threshold: float, padding: int, inhibit: bool
) -> Value:
    """One op; the weight is [O, C, kh, kw] on both sides."""
    return build.emit(
        spike.FirstSpikeConv2d(
            times, weight, steps=steps, v_th=float(threshold), pad=(padding, padding), inhibit=inhibit
        )
    )


@register("plait.first_spike_pool2d.default")
def first_spike_pool2d(
    build: Builder,
    times: Value,
    steps: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> Value:
    """One op."""
    return build.emit(
        spike.FirstSpikePool2d(
            times,
            kernel=(kernel[0], kernel[1]),
            stride=(stride[0], stride[1]),
            steps=steps,
            pad=tuple(padding),
        )
    )


@register("plait.first_spike_potentials.default")
def first_spike_potentials(
    build: Builder, times: Value, weight: Value, steps: int, threshold: float, padding: int, inhibit: bool
) -> tuple[Value, ...]:
    """One op of two results."""
    layer = spike.FirstSpikeConv2d(
        times,
        weight,
        steps=steps,
        v_th=float(threshold),
        pad=(padding, padding),
        inhibit=inhibit,
        potential=True,
    )
    return build.emit_all(layer)


@register("plait.first_spike_winners.default")
def first_spike_winners(
    build: Builder, times: Value, potential: Value, steps: int, radius: int, count: int
) -> Value:
    """One op."""
    return build.emit(spike.Winners(times, potential, steps=steps, radius=radius, count=count))


@register("plait.first_spike_stdp.default")
def first_spike_stdp(
    build: Builder,
    weight: Value,
    times: Value,
    winners: Value,
    rates: Value,
    steps: int,
    padding: int,
    stabilize: bool,
    lower: float,
    upper: float,
) -> Value:
    """One op."""
    return build.emit(
        spike.Stdp(
            weight,
            times,
            winners,
            rates,
            steps=steps,
            pad=(padding, padding),
            stabilize=stabilize,
            lower=float(lower),
            upper=float(upper),
        )
    )
