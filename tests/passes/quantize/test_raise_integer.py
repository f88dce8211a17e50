"""raise-quantized: QDQ graphs become integer arithmetic, within one quantum of what they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from plait.backends import compile_graph
from plait.ir import Constant, Graph, Op, QuantType, TensorType
from plait.ir.interpret import interpret
from plait.ir.ops import core, linalg, nn, quant
from plait.passes import optimize, why
from plait.passes.examples import body_lines, complete
from plait.passes.quantize.expand_attention import ExpandAttention
from plait.passes.quantize.insert import ABLE, insert_qdq, place
from plait.passes.quantize.integer_operands import LAYERS
from plait.passes.quantize.raise_integer import RaiseQuantized
from plait.passes.quantize.scheme import INT8, Grid, OpScheme, Scheme, grid_from_range
from plait.passes.quantize.select import Rule as Selection
from plait.passes.quantize.select import schemes_of

from .nets import block, images, residual, tokens

Inputs = Mapping[str, torch.Tensor]


def test_every_rule_belongs_to_a_stage() -> None:
    rules = RaiseQuantized().rules()
    assert sorted(made.name for stage in RaiseQuantized().stages() for made in stage) == sorted(
        made.name for made in rules
    )


# -- whole networks -----------------------------------------------------------------------
def minmax(graph: Graph, schemes: Mapping[str, OpScheme], batches: Sequence[Inputs]) -> dict[str, Grid]:
    """Grids from the smallest to the largest element of each quantised value over some batches."""
    measured = place(graph, schemes).measured
    low, high = dict.fromkeys(measured, 0.0), dict.fromkeys(measured, 0.0)

    def see(value: object, tensor: object) -> None:
        name = getattr(value, "name", "")
        if name in measured:
            assert isinstance(tensor, torch.Tensor)
            low[name] = min(low[name], float(tensor.min()))
            high[name] = max(high[name], float(tensor.max()))

    for batch in batches:
        interpret(graph, batch, observe=see)
        for name, tensor in batch.items():
            if name in measured:
                low[name], high[name] = (
                    min(low[name], float(tensor.min())),
                    max(high[name], float(tensor.max())),
                )
    return {name: grid_from_range(scheme, low[name], high[name]) for name, scheme in measured.items()}


def qdq(graph: Graph, batches: Sequence[Inputs], scheme: OpScheme = INT8) -> Graph:
    """A graph in QDQ form, each op that can be quantised by one scheme."""
    schemes = schemes_of(graph, [Selection("op:*", scheme)], ABLE)
    return insert_qdq(graph, schemes, minmax(graph, schemes, batches))


def float_layers(graph: Graph) -> list[Op]:
    """Contractions on dense operands."""
    kinds = (*LAYERS, nn.Attention)
    return [
        op for op in graph.walk() if isinstance(op, kinds) and isinstance(op.operands[0].type, TensorType)
    ]


def same_bits_on_cpu(graph: Graph, batches: Sequence[Inputs]) -> None:
    executable = compile_graph(graph, "cpu")
    for batch in batches:
        results = executable(**batch)
        results = results if isinstance(results, tuple) else (results,)
        for got, want in zip(results, interpret(graph, batch), strict=True):
            got = torch.as_tensor(np.asarray(got))
            if want.is_floating_point():
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
            else:
                assert torch.equal(got, want)


UNSIGNED = OpScheme(activation=Scheme(8, symmetric=False, signed=False))
SYMMETRIC = OpScheme(activation=Scheme(8))
BY_TENSOR = OpScheme(weight=Scheme(8))
NARROW = OpScheme(activation=Scheme(6, symmetric=False), weight=Scheme(4, axis=0))


@pytest.mark.parametrize(
    "scheme",
    [INT8, UNSIGNED, SYMMETRIC, BY_TENSOR, NARROW],
    ids=["affine", "u8", "symmetric", "tensor", "6/4"],
)
def test_residual_net_is_integer_arithmetic(scheme: OpScheme) -> None:
    batches = images()
    rounded = qdq(residual(), batches, scheme)
    raised, report = optimize(rounded, "raise-quantized,dead-code")
    assert report.changed
    assert not float_layers(raised)
    kinds = {type(op) for op in raised.ops}
    assert {quant.Add, quant.Mean, nn.MaxPool2d, nn.Conv2d} <= kinds
    assert not kinds & {core.Add, core.Mean}
    fixed = [op for op in raised.ops if getattr(op, "requantize", "") == "fixed_point"]
    assert len(fixed) == 3
    # What is quantised on the way differs by one quantum at most for each op behind another.
    for batch in batches[:2]:
        seen: dict[str, torch.Tensor] = {}
        interpret(rounded, batch, observe=lambda v, x: seen.__setitem__(v.name, x))  # noqa: B023
        names = {value.name for value in raised.values() if isinstance(value.type, QuantType)} & set(seen)
        assert len(names) >= 5
        found: dict[str, torch.Tensor] = {}
        interpret(raised, batch, observe=lambda v, x: found.__setitem__(v.name, x))  # noqa: B023
        for name in names:
            apart = (found[name].int() - seen[name].int()).abs()
            assert apart.max() <= 2, name
            assert (apart == 0).float().mean() > 0.9, name
    same_bits_on_cpu(raised, batches[:2])


def test_locations_and_names_are_kept() -> None:
    rounded = qdq(residual(), images())
    raised, _ = optimize(rounded, "raise-quantized,dead-code")
    paths = {origin.path for op in raised.ops if isinstance(op, LAYERS) for origin in op.loc.origins}
    assert {"stem", "depthwise", "pointwise", "head"} <= paths
    assert not any(isinstance(value, Constant) and not value.users for value in _plain_constants(raised))


def _plain_constants(graph: Graph) -> list[Constant]:
    """Constants that no quantised type refers to."""
    types = [v.type for v in (*graph.values(), *graph.constants.values())]
    referred = {name for kind in types if isinstance(kind, QuantType) for name in kind.references}
    return [constant for name, constant in graph.constants.items() if name not in referred]


def test_transformer_block_is_integer_products() -> None:
    """Attention is expanded, so that both of its products have quantised operands."""
    batches = tokens()
    graph, _ = optimize(block(), [ExpandAttention()])
    rounded = qdq(graph, batches)
    raised, _ = optimize(rounded, "raise-quantized,dead-code")
    assert not float_layers(raised)
    products = [op for op in raised.ops if isinstance(op, linalg.Matmul)]
    assert len(products) == 2
    whole = interpret(graph, batches[0])[0]
    apart = (interpret(raised, batches[0])[0] - interpret(rounded, batches[0])[0]).abs().max()
    assert apart < 0.05 * whole.abs().max()
    same_bits_on_cpu(raised, batches[:1])


@pytest.mark.parametrize("weight", [Scheme(8, axis=0), Scheme(4, group=8), Scheme(8)], ids=str)
def test_weight_only_layers_read_stored_weights(weight: Scheme) -> None:
    graph = block()
    scheme = OpScheme(activation=None, weight=weight)
    schemes = schemes_of(graph, [Selection("op:nn.linear", scheme)], ABLE)
    rounded = insert_qdq(graph, schemes, {})
    raised, _ = optimize(rounded, "raise-quantized,dead-code")
    assert not any(isinstance(op, quant.Dequantize) for op in raised.ops)
    layers = [op for op in raised.ops if isinstance(op, nn.Linear)]
    assert len(layers) > 3
    assert all(isinstance(op.w.type, QuantType) for op in layers)
    batch = tokens()[0]
    assert torch.equal(interpret(raised, batch)[0], interpret(rounded, batch)[0])


# -- where rules stop ----------------------------------------------------------------------
def raised_lines(text: str) -> tuple[str, ...]:
    graph = complete(tuple(line.strip() for line in text.strip().splitlines()))
    after, _ = optimize(graph, [RaiseQuantized()])
    return body_lines(after)


HEAD = """
    @w : qi8<0.021>[4,8]
    %x : f32[B,8]
    %q = quant.quantize(%x) : qi8<0.053, zp=3>[B,8]
    %r = quant.dequantize(%q) : f32[B,8]
    %v = quant.dequantize(@w) : f32[4,8]
"""


def test_a_result_that_is_read_in_floating_point_too_keeps_its_scale() -> None:
    lines = raised_lines(
        HEAD
        + """
        %y = nn.linear(%r, %v) {act="relu"} : f32[B,4]
        %z = quant.quantize(%y) : qu8<0.1>[B,4]
        return %y, %z
        """
    )
    assert '%y = core.mul(%y.real, %y.scale) {act="relu"} : f32[B,4]' in lines
    assert "%z = quant.quantize(%y) : qu8<0.1>[B,4]" in lines


def test_a_bias_beyond_32_bits_is_added_in_floating_point() -> None:
    graph = complete(
        tuple(
            line.strip()
            for line in (
                HEAD.replace("0.021", "1e-09")
                + """
                @b : f32[4]
                %y = nn.linear(%r, %v, @b) {act="gelu"} : f32[B,4]
                return %y
                """
            )
            .strip()
            .splitlines()
        )
    )
    before = interpret(graph, [torch.ones(2, 8)])[0]
    after, _ = optimize(graph, [RaiseQuantized()])
    lines = body_lines(after)
    assert lines[-2] == '%y = core.add(%y.scaled, @b.apart) {act="gelu"} : f32[B,4]'
    assert "%y.sum = nn.linear(%q, @w) : i32[B,4]" in lines
    torch.testing.assert_close(interpret(after, [torch.ones(2, 8)])[0], before, rtol=1e-5, atol=1e-6)


def test_a_bias_that_is_computed_is_added_in_floating_point() -> None:
    lines = raised_lines(
        HEAD
        + """
        %b : f32[4]
        %y = nn.linear(%r, %v, %b) : f32[B,4]
        return %y
        """
    )
    assert lines[-2] == "%y = core.add(%y.scaled, %b.apart) : f32[B,4]"


def test_an_activation_with_several_scales_stays_real() -> None:
    text = """
        @s : f32[8]
        @w : qi8<0.021>[4,8]
        %x : f32[B,8]
        %q = quant.quantize(%x) : qi8<@s, axis=1>[B,8]
        %r = quant.dequantize(%q) : f32[B,8]
        %v = quant.dequantize(@w) : f32[4,8]
        %y = nn.linear(%r, %v) : f32[B,4]
        return %y
    """
    lines = raised_lines(text)
    assert "%r = quant.dequantize(%q) : f32[B,8]" in lines
    assert "%y = nn.linear(%r, @w) : f32[B,4]" in lines


def test_an_average_whose_border_counts_less_stays_real() -> None:
    text = """
        %x : f32[B,4,8,8]
        %p = quant.quantize(%x) : qi8<0.053>[B,4,8,8]
        %r = quant.dequantize(%p) : f32[B,4,8,8]
        %m = nn.avg_pool2d(%r) {kernel=[3,3], pad=[1,1]} : f32[B,4,8,8]
        %z = quant.quantize(%m) : qi8<0.053>[B,4,8,8]
        return %z
    """
    assert raised_lines(text)[-3:-1] == (
        "%m = nn.avg_pool2d(%r) {kernel=[3,3], pad=[1,1]} : f32[B,4,8,8]",
        "%z = quant.quantize(%m) : qi8<0.053>[B,4,8,8]",
    )


def test_grids_too_far_apart_stay_real() -> None:
    text = """
        %x : f32[B,8]
        %q = quant.quantize(%x) : qi8<1000.0>[B,8]
        %r = quant.dequantize(%q) : f32[B,8]
        %z = quant.quantize(%r) : qi8<1e-09>[B,8]
        return %z
    """
    assert raised_lines(text)[-2] == "%z = quant.quantize(%r) : qi8<1e-09>[B,8]"


def test_heads_split_from_one_layer_are_quantised_before_they_move() -> None:
    """linear -> reshape -> transpose -> quantize: the layer writes integers."""
    lines = raised_lines(
        HEAD.replace("[B,8]", "[B,5,8]")
        + """
        %y = nn.linear(%r, %v) : f32[B,5,4]
        %h = core.reshape(%y) : f32[B,5,2,2]
        %t = core.transpose(%h) {permutation=[0,2,1,3]} : f32[B,2,5,2]
        %z = quant.quantize(%t) : qi8<0.1>[B,2,5,2]
        return %z
        """
    )
    assert lines[1:] == (
        '%y.stored = nn.linear(%q, @w) {requantize="fixed_point"} : qi8<0.1>[B,5,4]',
        "%h.stored = core.reshape(%y.stored) : qi8<0.1>[B,5,2,2]",
        "%z = core.transpose(%h.stored) {permutation=[0,2,1,3]} : qi8<0.1>[B,2,5,2]",
        "return %z",
    )


def test_weights_in_groups_along_the_rows_of_a_product_are_turned() -> None:
    """Stored weights [depth, outputs] with a scale for each block of the depth, as ONNX writes them."""
    graph = complete(
        (
            "@s : f32[2,6]",
            "@w : qi4<@s, axis=0, group=4>[8,6]",
            "%x : f32[B,5,8]",
            "%v = quant.dequantize(@w) : f32[8,6]",
            "%y = linalg.matmul(%x, %v) : f32[B,5,6]",
            "return %y",
        )
    )
    x = torch.randn(2, 5, 8)
    before = interpret(graph, [x])[0]
    after, _ = optimize(graph, [RaiseQuantized()])
    assert body_lines(after)[0] == "%y = nn.linear(%x, @w.transposed) : f32[B,5,6]"
    assert str(after.constants["w.transposed"].type) == "qi4<@s.transposed, axis=1, group=4>[6,8]"
    torch.testing.assert_close(interpret(after, [x])[0], before)


def test_a_join_of_layers_writes_integers_at_once() -> None:
    """What is joined in floating point is quantised by the layers in front."""
    lines = raised_lines(
        HEAD
        + """
        %y = nn.linear(%r, %v) {act="relu6"} : f32[B,4]
        %j = core.concat(%y, %r) {axis=1} : f32[B,12]
        %z = quant.quantize(%j) : qi8<0.07, zp=-90>[B,12]
        return %z
        """
    )
    assert lines[1:] == (
        '%y.stored = nn.linear(%q, @w) {act="relu6", requantize="fixed_point"} : qi8<0.07, zp=-90>[B,4]',
        '%r.stored = quant.requantize(%q) {requantize="fixed_point"} : qi8<0.07, zp=-90>[B,8]',
        "%z = core.concat(%y.stored, %r.stored) {axis=1} : qi8<0.07, zp=-90>[B,12]",
        "return %z",
    )


def test_a_depth_that_32_bits_cannot_sum_stays_real() -> None:
    graph = complete(
        (
            "%x : f32[1,70000]",
            "%u : f32[4,70000]",
            "%q = quant.quantize(%x) : qu8<0.05>[1,70000]",
            "%p = quant.quantize(%u) : qu8<0.05>[4,70000]",
            "%r = quant.dequantize(%q) : f32[1,70000]",
            "%v = quant.dequantize(%p) : f32[4,70000]",
            "%y = nn.linear(%r, %v) : f32[1,4]",
            "return %y",
        )
    )
    after, report = optimize(graph, [RaiseQuantized()])
    assert not report.changed
    assert "more than 32 bits hold" in why(graph, "integer_sums", "y")
    assert after == graph
