"""The roofline: hand-computed kernels, what fusion saves, and what must be monotone."""

from __future__ import annotations

import json
import subprocess
import sys
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.ir import Graph, PredictError, TensorType
from plait.ir import types as t
from plait.ir.ops import nn
from plait.predictors import device, predict, profiles
from plait.predictors.calibration import CALIBRATION
from plait.predictors.contraction import contractions
from plait.predictors.kernels import Kernel, group
from plait.predictors.timing import Resources, Span, contraction_us, kernel_cost, op_costs
from plait.tests.predictors import graphs

DEVICE = device("a100-sxm4-40gb")


def test_elementwise_by_hand() -> None:
    count = 1 << 28
    bytes_moved = 2 * 4 * count
    memory_us = bytes_moved / (1328 * 1e3)
    found = predict(graphs.relu(count), DEVICE)
    # The host issues the kernel within one launch floor; then floor and traffic follow.
    assert found.latency_ms == pytest.approx((2.4 + 2.4 + memory_us) / 1e3)
    dynamic_w = 137e-12 * bytes_moved / ((2.4 + memory_us) * 1e-6)
    assert dynamic_w < 400 - 66.5
    assert found.energy_j == pytest.approx(66.5 * found.latency_ms / 1e3 + 137e-12 * bytes_moved)
    assert found.top_ops[0].bound == "memory"
    assert found.activations_mb == pytest.approx(bytes_moved / 2**20)


def test_matrix_product_by_hand() -> None:
    # 4096^3 in FP32: 16 x 32 tiles of 256 x 128 are 512, five waves of 108 SMs; smaller
    # tiles can do better only by filling the last wave.
    size = 4096
    per_sm = 19.5e6 * DEVICE.achieved_fraction["fp32"] / 108
    waves_us = {
        (rows, columns): ceil((size // rows) * (size // columns) / 108) * 2 * rows * columns * size / per_sm
        for rows, columns in ((256, 128), (128, 128), (128, 64), (64, 64))
    }
    assert waves_us[256, 128] == 5 * 2 * 256 * 128 * size / per_sm
    found = predict(graphs.matmul(size, size, size), DEVICE)
    compute_us = found.latency_ms * 1e3 - 2 * 2.4
    ideal_us = 2 * size**3 / (per_sm * 108)
    assert ideal_us <= compute_us <= min(waves_us.values()) * (1 + 1e-9)
    assert found.top_ops[0].bound == "compute"
    assert found.roofline.flops == 2 * size**3


def test_one_tile_occupies_one_sm() -> None:
    product = graphs.matmul(32, 128, 32)
    (work,) = contractions(next(product.ops), {})
    per_sm = 19.5e6 * DEVICE.achieved_fraction["fp32"] / 108
    arithmetic_us = 2 * 32 * 32 * 128 / per_sm
    operands_us = (32 + 32) * 128 * 4 / (5400e3 / 108)
    assert contraction_us(work, "fp32", Resources.of(DEVICE)) == pytest.approx(
        max(arithmetic_us, operands_us)
    )


def test_partial_wave_counts_whole() -> None:
    def us(rows: int) -> float:
        (work,) = contractions(next(graphs.matmul(rows, 64, 32).ops), {})
        return contraction_us(work, "fp32", Resources.of(DEVICE))

    assert us(108 * 32) == us(107 * 32 + 1)
    assert us(108 * 256 + 1) > us(108 * 32)


def test_implicit_gemm_of_a_grouped_convolution() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(t.f32, (4, 8, 10, 12)))
    weight = graphs.constant(graph, "w", 16, 4, 3, 3)
    graph.set_outputs([graph.emit(nn.Conv2d(x, weight, groups=2))])
    (work,) = contractions(next(graph.ops), {})
    assert (work.batch, work.rows, work.columns, work.depth) == (2, 4 * 8 * 10, 8, 4 * 9)
    assert work.convolution
    assert not work.depthwise


def test_fusion_launches_fewer_kernels_and_moves_less() -> None:
    graph = graphs.residual_net()
    fused = predict(graph, DEVICE, {"B": 64})
    alone = predict(graph, DEVICE, {"B": 64}, fused=False)
    # conv1+norm+relu, conv2+norm+relu, conv3+norm+add+relu, pool, dense
    assert fused.roofline.kernels == 5
    assert alone.roofline.kernels == 12
    assert fused.roofline.bytes < alone.roofline.bytes
    assert fused.latency_ms < alone.latency_ms


def test_a_shared_value_is_written_once_and_never_fused_away() -> None:
    block = group(graphs.residual_net(), {"B": 1})
    kernels = [item for item in block.items if isinstance(item, Kernel)]
    assert [[op.name for op in kernel.ops] for kernel in kernels] == [
        ["conv1", "norm1", "relu1"],
        ["conv2", "norm2", "relu2"],
        ["conv3", "norm3", "sum", "relu3"],
        ["pool"],
        ["logits"],
    ]
    costs = op_costs(kernels[0], {"B": 1})
    priced = kernel_cost(kernels[0], costs, {"B": 1}, Resources.of(DEVICE), "fp32", True)
    image, weight, statistics, result = 3 * 32 * 32 * 4, 32 * 27 * 4, 4 * 32 * 4, 32 * 32 * 32 * 4
    assert priced.bytes == image + weight + statistics + result


def test_given_kernels_replace_the_fusion_rules() -> None:
    graph = graphs.residual_net()
    found = predict(graph, DEVICE, {"B": 8}, kernels=[["conv1", "norm1"], ["%relu1"]])
    assert found.roofline.kernels == 11
    with pytest.raises(
        PredictError, match=r"kernel 0 names %conv9, which graph @residual lacks; did you mean"
    ):
        predict(graph, DEVICE, {"B": 8}, kernels=[["conv9"]])
    with pytest.raises(PredictError, match="kernels 0 and 1 both name %conv1"):
        predict(graph, DEVICE, {"B": 8}, kernels=[["conv1"], ["conv1"]])


def test_tensor_cores_are_faster_and_eager_precision_uses_them_for_convolutions_only() -> None:
    graph = graphs.residual_net(size=128)
    times = {p: predict(graph, DEVICE, {"B": 64}, precision=p).latency_ms for p in ("fp32", "tf32", "fp16")}
    assert times["fp16"] < times["tf32"] < times["fp32"]
    product = graphs.matmul(2048, 2048, 2048)
    assert (
        predict(product, DEVICE, precision="pytorch").latency_ms
        == predict(product, DEVICE, precision="fp32").latency_ms
        > predict(product, DEVICE, precision="tf32").latency_ms
    )


def test_half_precision_halves_the_storage() -> None:
    graph = graphs.residual_net()
    full, half = (predict(graph, DEVICE, {"B": 64}, precision=p) for p in ("fp32", "fp16"))
    assert half.weights_mb == full.weights_mb / 2
    assert half.activations_mb == full.activations_mb / 2


def test_eager_launch_rate_bounds_small_batches() -> None:
    found = predict(graphs.residual_net(), DEVICE, {"B": 1}, fused=False, precision="pytorch")
    assert found.latency_ms * 1e3 >= 12 * CALIBRATION.eager_dispatch_us
    assert {share.bound for share in found.top_ops} == {"launch"}


def test_a_loop_costs_its_trips() -> None:
    one, many = predict(graphs.recurrent(1), DEVICE), predict(graphs.recurrent(100), DEVICE)
    assert many.roofline.kernels == 100
    assert many.roofline.busy_ms == pytest.approx(100 * one.roofline.busy_ms)
    assert many.latency_ms > 50 * one.roofline.busy_ms


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=12), st.integers(1, 20))
def test_spans_add_up_to_the_queue_they_stand_for(queue: list[tuple[float, float]], trips: int) -> None:
    gpu = host = 0.0
    span = Span()
    for issue, busy in queue:
        span = span.then(Span(busy, issue, issue + busy))
    for _ in range(trips):
        for issue, busy in queue:
            host += issue
            gpu = max(gpu, host) + busy
    assert span.times(trips).latency_us == pytest.approx(gpu)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 511),
    more=st.integers(1, 256),
    precision=st.sampled_from(["fp32", "pytorch", "fp16"]),
    fused=st.booleans(),
)
def test_a_larger_batch_never_takes_less(batch: int, more: int, precision: str, fused: bool) -> None:
    graph = graphs.residual_net()
    a = predict(graph, DEVICE, {"B": batch}, precision=precision, fused=fused)
    b = predict(graph, DEVICE, {"B": min(batch + more, 512)}, precision=precision, fused=fused)
    assert a.latency_ms <= b.latency_ms
    assert a.memory_mb <= b.memory_mb
    assert a.energy_j <= b.energy_j


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 512), name=st.sampled_from(["a100-sxm4-40gb", "a100-pcie-80gb"]), fused=st.booleans()
)
def test_a_smaller_slice_is_never_faster(batch: int, name: str, fused: bool) -> None:
    found = predict(graphs.residual_net(), name, {"B": batch}, fused=fused)
    by_profile = {c.profile.name: c.latency_ms for c in found.mig.alternatives}
    table = profiles(name)
    for small in table:
        for large in table:
            if small.sm_count <= large.sm_count and small.memory_share <= large.memory_share:
                assert by_profile[small.name] >= by_profile[large.name]  # type: ignore[operator]
    assert found.latency_ms <= min(by_profile.values())  # type: ignore[type-var]


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 4096),
    name=st.sampled_from(["a100-sxm4-40gb", "a100-pcie-40gb"]),
    precision=st.sampled_from(["fp32", "tf32", "bf16", "int8"]),
)
def test_power_never_exceeds_the_limit(size: int, name: str, precision: str) -> None:
    for graph in (graphs.matmul(size, size, size), graphs.relu(size * size)):
        found = predict(graph, name, precision=precision)
        assert 66.5 * found.latency_ms / 1e3 < found.energy_j <= device(name).tdp_w * found.latency_ms / 1e3


def test_peak_memory_is_the_sum_of_its_parts() -> None:
    found = predict(graphs.residual_net(), DEVICE, {"B": 16}, fused=False, precision="pytorch")
    parts = found.weights_mb + found.activations_mb + found.workspace_mb + found.context_mb
    assert found.memory_mb == pytest.approx(parts)
    # The largest layout copy is that of a convolution of 32 into 32 channels.
    assert found.workspace_mb == pytest.approx(2 * 16 * 32 * 32 * 32 * 4 / 2**20)
    assert found.context_mb == CALIBRATION.context_on(108)


def test_dims_must_be_known_and_in_range() -> None:
    graph = graphs.residual_net(high=None)
    with pytest.raises(PredictError, match=r"dims=\{'B': 8\}"):
        predict(graph, DEVICE)
    with pytest.raises(PredictError, match="no dim b; did you mean 'B'|no dim b"):
        predict(graph, DEVICE, {"b": 8})
    with pytest.raises(PredictError, match="dim B=0 is out of range"):
        predict(graph, DEVICE, {"B": 0})


def test_a_bounded_dim_takes_its_upper_bound_and_says_so() -> None:
    found = predict(graphs.residual_net(high=32), DEVICE)
    assert found.dims == {"B": 32}
    assert found.notes == ("dim B was not given: its upper bound 32 is used",)
    assert found.latency_ms == predict(graphs.residual_net(high=32), DEVICE, {"B": 32}).latency_ms


def test_unknown_precision_and_device() -> None:
    with pytest.raises(PredictError, match="unknown precision 'fp23'; did you mean 'fp32'"):
        predict(graphs.relu(8), DEVICE, precision="fp23")
    with pytest.raises(PredictError, match="unknown device 'h100'"):
        predict(graphs.relu(8), "h100")


def test_latency_target_reaches_the_slice_choice() -> None:
    graph = graphs.residual_net(size=128)
    free = predict(graph, DEVICE, {"B": 64})
    assert free.mig.profile is not None
    assert free.mig.profile == "1g.5gb"
    on_small = free.mig.latency_ms
    assert on_small is not None
    pressed = predict(graph, DEVICE, {"B": 64}, latency_target_ms=on_small / 3)
    assert pressed.mig.slice is not None
    assert pressed.mig.slice.sm_count > 14
    assert pressed.mig.latency_ms is not None
    assert pressed.mig.latency_ms <= on_small / 3


def test_the_published_label_stands_beside_its_model_only() -> None:
    same = predict(graphs.residual_net(name="EfficientNet-B0"), DEVICE, {"B": 32})
    assert same.published is not None
    assert (same.published.latency_ms, same.published.memory_mb) == (80.49, 4772)
    assert "80.49 ms, 4,772 MB" in str(same)
    assert predict(graphs.residual_net(name="efficientnet_b0"), DEVICE, {"B": 16}).published is None
    assert predict(graphs.residual_net(name="efficientnet_b1"), DEVICE, {"B": 32}).published is None


def test_dict_is_json_and_text_shows_every_figure() -> None:
    found = predict(graphs.residual_net(), DEVICE, {"B": 8})
    again = json.loads(json.dumps(found.to_dict()))
    assert again == found.to_dict()
    assert again["mig"]["profile"] == "1g.5gb"
    assert again["latency_interval_ms"]["low"] < again["latency_ms"] < again["latency_interval_ms"]["high"]
    text = str(found)
    for label in ("latency_ms", "energy_j", "memory_mb", "mig", "basis", "top ops", "coverage"):
        assert f"\n{label}" in text
    assert sum(share.share for share in found.top_ops) == pytest.approx(1.0)


def test_importing_the_predictors_pulls_in_no_framework() -> None:
    script = (
        "import sys, plait.predictors, plait.predictors.roofline\n"
        "print([m for m in ('torch', 'tvm', 'xgboost') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
