"""Where quantise-dequantise pairs go, and what they compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plait.ir import Graph, InputError, QuantType
from plait.ir.interpret import interpret
from plait.ir.ops import core, linalg, nn, quant
from plait.passes.quantize.insert import ABLE, insert_qdq, place, weight_of
from plait.passes.quantize.scheme import INT4_WEIGHT_ONLY, INT8, Grid, OpScheme, Scheme, grid_from_range
from plait.passes.quantize.select import Rule, schemes_of

from .nets import images, residual

EVERYTHING = [Rule(f"op:{kind}", INT8) for kind in ("nn.conv2d", "nn.linear", "core.add", "core.mean")]


def ranges(graph: Graph, schemes: dict[str, OpScheme]) -> dict[str, Grid]:
    """Grids from the extremes of the test images."""
    low: dict[str, float] = {}
    high: dict[str, float] = {}

    def see(name: str, tensor: torch.Tensor) -> None:
        if tensor.dtype == torch.float32:
            low[name] = min(low.get(name, 0.0), float(tensor.min()))
            high[name] = max(high.get(name, 0.0), float(tensor.max()))

    for batch in images():
        see("image", batch["image"])
        interpret(graph, batch, observe=lambda value, tensor: see(value.name, tensor))
    wanted = place(graph, schemes).measured
    return {name: grid_from_range(scheme, low[name], high[name]) for name, scheme in wanted.items()}


@pytest.fixture(scope="module")
def graph() -> Graph:
    return residual()


def test_every_quantised_op_reads_rounded_numbers(graph: Graph) -> None:
    schemes = schemes_of(graph, EVERYTHING, ABLE)
    found = insert_qdq(graph, schemes, ranges(graph, schemes))
    assert not any(isinstance(op, quant.Quantize) for op in graph.ops), "the given graph stays as it is"
    for op in found.ops:
        if isinstance(op, (nn.Conv2d, nn.Linear, core.Add, core.Mean, nn.MaxPool2d)):
            assert isinstance(op.operands[0].producer, quant.Dequantize), op
        if isinstance(op, (nn.Conv2d, nn.Linear)):
            below = op.w.producer
            assert isinstance(below, quant.Dequantize)
            assert isinstance(below.x.type, QuantType)
            assert below.x.type.axis == 0
            assert op.b is None or op.b.shaped.dtype.is_float
    names = [value.name for value in found.values()]
    assert "image.quantized" in names
    assert all(op.loc for op in found.ops)


def test_moves_share_the_grid_of_their_operand(graph: Graph) -> None:
    schemes = schemes_of(graph, EVERYTHING, ABLE)
    found = insert_qdq(graph, schemes, ranges(graph, schemes))
    (pool,) = (op for op in found.ops if isinstance(op, nn.MaxPool2d))
    before = pool.x.producer
    assert isinstance(before, quant.Dequantize)
    after = next(u for u in pool.result.users if isinstance(u, quant.Quantize))
    assert isinstance(before.x.type, QuantType)
    assert after.out == before.x.type.with_shape(after.out.shape)


def test_rounding_to_eight_bits_changes_little(graph: Graph) -> None:
    schemes = schemes_of(graph, EVERYTHING, ABLE)
    found = insert_qdq(graph, schemes, ranges(graph, schemes))
    batch = images(1)[0]
    (expected,), (actual,) = interpret(graph, batch), interpret(found, batch)
    noise = (actual - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert 0 < float(noise) < 0.05


def test_a_sum_that_no_quantised_op_reads_stays(graph: Graph) -> None:
    schemes = schemes_of(graph, [*EVERYTHING, Rule("op:nn.linear", None)], ABLE)
    placement = place(graph, schemes)
    (add,) = (op for op in graph.ops if isinstance(op, core.Add))
    assert add.name not in placement.readers
    assert add.name not in placement.schemes


def test_weights_only(graph: Graph) -> None:
    scheme = OpScheme(None, Scheme(4, group=8))
    schemes = schemes_of(graph, [Rule("head", scheme)], ABLE)
    found = insert_qdq(graph, schemes, {})
    (linear,) = (op for op in found.ops if isinstance(op, nn.Linear))
    assert linear.x.producer is not None
    assert not isinstance(linear.x.producer, quant.Dequantize)
    below = linear.w.producer
    assert isinstance(below, quant.Dequantize)
    assert str(below.x.type) == "qi4<@head.weight.scale, axis=1, group=8>[5,8]"
    assert INT4_WEIGHT_ONLY.weight_only


def test_given_integers_are_what_is_stored(graph: Graph) -> None:
    schemes = schemes_of(graph, [Rule("head", OpScheme(None, Scheme(8)))], ABLE)
    (linear,) = (op for op in graph.ops if isinstance(op, nn.Linear))
    weight = weight_of(linear)
    assert weight is not None
    stored = np.arange(40, dtype=np.int8).reshape(5, 8)
    found = insert_qdq(graph, schemes, {}, stored={linear.name: stored})
    np.testing.assert_array_equal(found.constants["head.weight.quantized"].data, stored)


def test_a_missing_and_an_unknown_grid(graph: Graph) -> None:
    schemes = schemes_of(graph, EVERYTHING, ABLE)
    grids = ranges(graph, schemes)
    with pytest.raises(InputError, match="there is no grid for %"):
        insert_qdq(graph, schemes, {"image": grids["image"]})
    with pytest.raises(InputError, match="no value %imago; did you mean 'image'"):
        insert_qdq(graph, schemes, {**grids, "imago": grids["image"]})


def test_products_of_two_activations_are_symmetric() -> None:
    from plait.ir import TensorType
    from plait.ir import types as t

    graph = Graph()
    left = graph.add_input("left", TensorType(t.f32, (2, 4, 8)))
    right = graph.add_input("right", TensorType(t.f32, (2, 8, 4)))
    graph.set_outputs([graph.emit(linalg.Matmul(left, right))])
    unsigned = OpScheme(Scheme(8, symmetric=False, signed=False), Scheme(8, axis=0))
    for scheme in (INT8, unsigned):
        placement = place(graph, schemes_of(graph, [Rule("op:linalg.matmul", scheme)], ABLE))
        assert set(placement.schemes) == {"left", "right"}
        assert all(found.symmetric and found.signed for found in placement.schemes.values())
