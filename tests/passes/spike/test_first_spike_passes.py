"""Pooling inside the layer, early exit, silent rows: equal results, and reasons where they do not apply."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from plait.ir import Graph, TensorType
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import core, spike
from plait.ir.types import SpikeType
from plait.passes import optimize

STEPS = 6


def layer(behind: dict[str, Any] | None = None, **options: Any) -> Graph:
    """A layer of both signs, and a pool behind it."""
    random = np.random.default_rng(0)
    g = Graph("layer")
    x = g.add_input("x", TensorType(t.u8, (3, 2, 9, 8)))
    w = g.add_constant("w", (random.integers(-3, 6, (5, 2, 3, 3)) / 8).astype(np.float32))
    op = spike.FirstSpikeConv2d(x, w, steps=STEPS, v_th=0.75, **options)
    g.add(op)
    out = [*op.results]
    if behind is not None:
        fields = {"steps": STEPS, "stride": behind["kernel"], **behind}
        out[0] = g.emit(spike.FirstSpikePool2d(out[0], **fields))
    g.set_outputs(out)
    g.verify()
    return g


def times(silent: float = 0.7) -> np.ndarray:
    random = np.random.default_rng(1)
    found = random.integers(0, STEPS, (3, 2, 9, 8))
    return np.where(random.random(found.shape) < silent, STEPS, found).astype(np.uint8)


@pytest.mark.parametrize(
    ("pool", "options"),
    [
        ({"kernel": (2, 2)}, {}),
        ({"kernel": (3, 2), "pad": (1, 1)}, {"inhibit": True}),
        ({"kernel": (2, 2), "pad": (1, 1, 1, 1)}, {"pad": (1, 1), "stride": (2, 1)}),
    ],
)
def test_pool_is_fused_and_equal(pool: dict[str, Any], options: dict[str, Any]) -> None:
    g = layer(pool, **options)
    after, report = optimize(g, "fuse-first-spike-pool")
    assert [op.opname for op in after.ops] == ["spike.first_spike_conv2d"]
    assert report.rows[0].rewrites == 1
    before, found = (interpret(graph, [times()])[0] for graph in (g, after))
    assert torch.equal(before, found)
    assert before.min() < STEPS


@pytest.mark.parametrize(
    ("pool", "options", "reason"),
    [
        ({"kernel": (2, 2), "stride": (1, 1)}, {}, "overlap or leave gaps"),
        ({"kernel": (2, 2), "pad": (1, 1, 0, 0)}, {}, "differ between the two sides"),
        ({"kernel": (2, 2), "steps": 5}, {}, "counts 6 steps and the pool 5"),
        ({"kernel": (2, 2)}, {"pool": (2, 2)}, "is pooled already"),
        ({"kernel": (2, 2)}, {"earliest": True}, "earliest step alone"),
        ({"kernel": (2, 2)}, {"potential": True}, "before pooling"),
    ],
)
def test_pool_is_left_with_a_reason(pool: dict[str, Any], options: dict[str, Any], reason: str) -> None:
    g = layer(pool, **options)
    after, report = optimize(g, "fuse-first-spike-pool")
    assert after == g
    assert any(reason in remark for remark in report.rows[0].remarks), report.rows[0].remarks


def decided(count: int, **options: Any) -> Graph:
    g = layer(potential=True, **options)
    table = g.emit(spike.Winners(*g.outputs, steps=STEPS, radius=1, count=count))
    g.set_outputs([table])
    return g


def test_one_winner_needs_no_later_step() -> None:
    g = decided(1, inhibit=True)
    after, _ = optimize(g, "early-exit")
    conv = next(op for op in after.ops if isinstance(op, spike.FirstSpikeConv2d))
    assert conv.earliest
    assert torch.equal(interpret(g, [times()])[0], interpret(after, [times()])[0])
    kept, report = optimize(decided(2), "early-exit")
    assert not next(op for op in kept.ops if isinstance(op, spike.FirstSpikeConv2d)).earliest
    assert "reads more of" in report.rows[0].remarks[0]


def test_the_smallest_time_needs_no_later_step() -> None:
    g = layer()
    g.set_outputs([g.emit(core.Min(g.outputs[0], axes=(1, 2, 3)))])
    after, _ = optimize(g, "early-exit")
    assert next(op for op in after.ops if isinstance(op, spike.FirstSpikeConv2d)).earliest
    assert torch.equal(interpret(g, [times()])[0], interpret(after, [times()])[0])
    by_channel = layer()
    by_channel.set_outputs([by_channel.emit(core.Min(by_channel.outputs[0], axes=(2, 3)))])
    assert optimize(by_channel, "early-exit")[0] == by_channel
    _, report = optimize(layer(), "early-exit")
    assert "leaves the graph" in report.rows[0].remarks[0]


def product(kernel: str, density: float | None, inputs: int = 16) -> Graph:
    g = Graph("product")
    x = g.add_input("x", SpikeType((8, inputs), density))
    w = g.add_constant("w", np.ones((4, inputs), np.float32))
    g.set_outputs([g.emit(spike.SpikeLinear(x, w, kernel=kernel))])
    return g


@pytest.mark.parametrize(
    ("kernel", "density", "options", "reason"),
    [
        ("dense", 0.01, "", ""),
        ("auto", 0.5, "{measured=0.4}", ""),
        ("dense", 0.5, "", "less than 10%"),
        ("dense", None, "", "run annotate_density"),
        ("gather_rows", 0.01, "", "costs nothing"),
    ],
)
def test_silent_rows(kernel: str, density: float | None, options: str, reason: str) -> None:
    after, report = optimize(product(kernel, density), f"skip-silent-rows{options}")
    op = next(iter(after.ops))
    assert isinstance(op, spike.SpikeLinear)
    assert op.skip_silent == (not reason)
    if reason:
        assert any(reason in remark for remark in report.rows[0].remarks)
