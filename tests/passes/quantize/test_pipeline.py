"""Post-training quantisation from end to end, its report, and the errors of bad calibration data."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import plait
from plait.ir import Graph, InputError, QuantType, TensorType
from plait.ir.interpret import interpret
from plait.ir.ops import core, linalg, nn
from plait.passes.quantize.pipeline import Budget, quantize
from plait.passes.quantize.scheme import INT4_WEIGHT_ONLY, OpScheme, Scheme
from plait.passes.quantize.select import Rule

from .nets import block, images, residual, tokens

CONTRACTIONS = (nn.Conv2d, nn.Linear, linalg.Matmul)


def noise(graph: Graph, changed: Graph, batch: Any) -> float:
    """Relative root mean square error of the first output."""
    (expected,), (actual,) = interpret(graph, batch), interpret(changed, batch)
    return float((actual - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def test_a_convnet_becomes_integers() -> None:
    graph = residual()
    found = quantize(graph, images())
    for op in found.graph.ops:
        if isinstance(op, CONTRACTIONS):
            assert all(isinstance(v.type, QuantType) for v in op.operands[:2]), op
            assert not isinstance(op.result.type, TensorType) or op.result.type.dtype.name == "i32"
        assert not isinstance(op, core.Add) or isinstance(op.result.type, TensorType)
    assert noise(graph, found.graph, images(1, seed=9)[0]) < 0.05
    # Integer arithmetic and rounded floating point differ by rare steps only.
    assert noise(found.qdq, found.graph, images(1, seed=9)[0]) < 0.02


def test_the_interpreter_and_the_cpu_agree_bit_for_bit_on_integers() -> None:
    found = quantize(residual(), images())
    stored = [v for op in found.graph.ops for v in op.results if isinstance(v.type, QuantType)]
    probe = found.graph.clone()
    probe.set_outputs([*probe.outputs, *(probe.value(f"%{v.name}") for v in stored)])
    batch = images(1, size=3, seed=5)[0]
    expected = interpret(probe, batch)
    actual = plait.compile(probe, target="cpu", pipeline="")(**batch)
    assert len(stored) > 5
    for value, left, right in zip(stored, expected[1:], actual[1:], strict=True):
        assert torch.equal(left, right), value


def test_a_transformer_block_becomes_integers() -> None:
    graph = block()
    found = quantize(graph, tokens())
    products = [op for op in found.graph.ops if isinstance(op, CONTRACTIONS)]
    assert sum(isinstance(op, linalg.Matmul) for op in products) >= 2, "attention is written out"
    for op in products:
        assert all(isinstance(v.type, QuantType) for v in op.operands[:2]), op
    assert noise(graph, found.graph, tokens(1, seed=9)[0]) < 0.05


@pytest.mark.parametrize(
    "options",
    [
        {"observer": "min-max"},
        {"observer": "entropy"},
        {"equalize": True},
        {"rounding": "gptq"},
        {"rounding": "adaround"},
        {"correct_biases": True},
        {"observer": "percentile", "equalize": True, "rounding": "gptq", "correct_biases": True},
    ],
    ids=lambda options: "+".join(f"{k}={v}" for k, v in options.items()),
)
def test_options(options: dict[str, Any]) -> None:
    graph = residual()
    found = quantize(graph, images(2), **options)
    assert noise(graph, found.graph, images(1, seed=9)[0]) < 0.1


def test_smoothing_a_transformer() -> None:
    graph = block()
    found = quantize(graph, tokens(), smooth=0.5)
    assert any("smoothed" in remark for remark in found.remarks)
    assert noise(graph, found.float_graph, tokens(1)[0]) < 1e-4
    assert noise(graph, found.graph, tokens(1, seed=9)[0]) < 0.05


def test_four_bit_weights_only() -> None:
    graph = block()
    found = quantize(graph, tokens(), scheme=OpScheme(None, Scheme(4, group=8)))
    linears = [op for op in found.graph.ops if isinstance(op, nn.Linear)]
    assert linears
    for op in linears:
        assert isinstance(op.w.type, QuantType)
        assert op.w.type.bits == 4
        assert isinstance(op.x.type, TensorType)
    batch = tokens(1, seed=9)[0]
    (expected,) = interpret(found.graph, batch)
    actual = plait.compile(found.graph, target="cpu")(**batch)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_budget_chooses_widths() -> None:
    graph = residual()
    whole = quantize(graph, images(2)).report(images(1)).bytes_after
    found = quantize(graph, images(2), budget=Budget(limit=350.0, candidates=(2, 4, 8)))
    assert found.choice is not None
    assert found.choice.cost <= 350.0
    assert len({row.bits for row in found.choice.rows}) > 1
    assert found.report(images(1)).bytes_after < whole


def test_rules_leave_ops_in_float_and_the_report_says_so() -> None:
    graph = residual()
    batches = images()
    found = quantize(graph, batches, rules=[Rule("head", None), Rule("stem", OpScheme().with_bits(4))])
    report = found.report(batches)
    rows = {row.path: row for row in report.rows if row.op in ("nn.conv2d", "nn.linear")}
    assert rows["head"].requested == "float"
    assert rows["head"].effective == "f32"
    assert rows["stem"].requested == "int4 x int4"
    assert report.bytes_after < report.bytes_before
    assert all(np.isfinite(ratio) for ratio in report.output_snr_db)
    text = str(report)
    assert "first op below 10 dB" in text
    assert json.loads(json.dumps(report.to_dict()))["bytes_before"] == report.bytes_before


def test_the_report_names_the_first_op_that_diverges() -> None:
    batches = images()
    found = quantize(residual(), batches, rules=[Rule("depthwise", OpScheme().with_bits(2))])
    report = found.report(batches)
    low = [row.name for row in report.rows if row.snr_db is not None and row.snr_db < 10.0]
    assert low
    assert report.first_divergence == low[0]


def test_the_public_function_and_compile_take_the_result() -> None:
    batches = images()
    found = plait.quantize(residual(), batches)
    executable = plait.compile(found)
    actual = executable(**batches[0])
    (expected,) = interpret(found.graph, batches[0])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert plait.parse(str(found.graph)) == found.graph


def test_bad_options() -> None:
    graph = residual()
    with pytest.raises(InputError, match="did you mean 'gptq'"):
        quantize(graph, images(), rounding="gptk")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"exponent lies in 0\.\.1"):
        quantize(graph, images(), smooth=1.5)
    with pytest.raises(InputError, match="entropy"):
        quantize(graph, images(), observer="entropi")
    with pytest.raises(InputError, match="no op has a module path"):
        quantize(graph, images(), rules=[Rule("layer9.*", INT4_WEIGHT_ONLY)])


def test_a_graph_with_nothing_to_quantise() -> None:
    from plait.ir import types as t

    graph = Graph()
    x = graph.add_input("x", TensorType(t.f32, (2,)))
    graph.set_outputs([graph.emit(nn.Relu(x))])
    with pytest.raises(InputError, match="nothing to quantise"):
        quantize(graph, [{"x": torch.ones(2)}])


def _with(batch: int, value: float) -> list[dict[str, torch.Tensor]]:
    found = images()
    found[batch]["image"][0, 0, 0, 0] = value
    return found


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "empty|no batch"),
        (iter(()), "empty|no batch"),
        (_with(2, float("nan")), "batch 2"),
        (_with(1, float("inf")), "batch 1"),
        ([{"image": torch.randn(2, 3, 9, 8)}], "image"),
        ([{"image": torch.randn(2, 4, 8, 8)}], "image"),
        ([{"picture": torch.randn(2, 3, 8, 8)}], "image"),
        ([{"image": torch.randn(2, 3, 8, 8, dtype=torch.float64)}], "image"),
    ],
    ids=["empty list", "spent iterator", "nan", "infinite", "rows", "channels", "name", "dtype"],
)
def test_bad_calibration_data(data: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        quantize(residual(), data)
