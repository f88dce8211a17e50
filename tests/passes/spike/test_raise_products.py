"""raise-spike-products: the same numbers from events, and near misses left alone with a reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plait.ir import Graph, parse
from plait.ir.interpret import interpret
from plait.ir.verify import verify
from plait.passes import apply_rules, optimize, parse_pipeline, why
from plait.passes.examples import body_lines, complete, examples_of
from plait.passes.rewriter import RULES
from plait.passes.spike.raise_products import RaiseSpikeProducts

#: Numbers 0 and 1 that are spikes, in front of the product of a case.
SPIKES = "%v : f32[B,6]\n%s = spike.threshold(%v) {level=0.2} : spike[B,6]\n"
IMAGE = "%v : f32[B,2,6,6]\n%s = spike.threshold(%v) {level=0.2} : spike[B,2,6,6]\n"
CAST, CAST_IMAGE = SPIKES + "%x = core.cast(%s) : f32[B,6]\n", IMAGE + "%x = core.cast(%s) : f32[B,2,6,6]\n"


def graph_of(text: str) -> Graph:
    return complete(tuple(line.strip() for line in text.strip().splitlines()))


def run(graph: Graph) -> list[np.ndarray]:
    """The results on random inputs, symbolic dims at 3."""
    generator = torch.Generator().manual_seed(0)
    given = []
    for value in graph.inputs:
        shape = [dim if isinstance(dim, int) else 3 for dim in value.shaped.shape]
        drawn = torch.randn(shape, generator=generator)
        given.append(drawn > 0.2 if value.shaped.dtype.name == "bool" else drawn)
    return [tensor.numpy() for tensor in interpret(graph, given)]


def raised(graph: Graph, options: str = "") -> Graph:
    after, _ = optimize(graph, f"raise-spike-products{options},dead-code", bundle_dir=None)
    for old, new in zip(run(graph), run(after), strict=True):
        np.testing.assert_array_equal(old, new)
    return after


def names(graph: Graph) -> list[str]:
    return [op.opname for op in graph.walk()]


@pytest.mark.parametrize("made", RULES[RaiseSpikeProducts], ids=lambda made: made.name)
def test_examples_of_rules(made: object) -> None:
    (example,) = examples_of(made.function)  # type: ignore[attr-defined]
    before, after = example.graph(), example.graph()
    known = tuple(after.walk())
    assert apply_rules(after, [made], "raise-spike-products", RaiseSpikeProducts()).rewrites == 1  # type: ignore[list-item]
    assert body_lines(after) == example.result
    verify(after, made_by="raise-spike-products", known=known)
    assert parse(str(after)) == after
    for old, new in zip(run(before), run(after), strict=True):
        np.testing.assert_array_equal(old, new)


def test_example_of_the_pass() -> None:
    (example,) = examples_of(RaiseSpikeProducts)
    after, report = optimize(example.graph(), [RaiseSpikeProducts()], bundle_dir=None)
    assert report.changed
    assert body_lines(after) == example.result


PRODUCTS = {
    "moves of many kinds": (
        IMAGE
        + """
        @w : f32[4,36]
        %x = core.cast(%s) : f32[B,2,6,6]
        %t = core.transpose(%x) {permutation=[0,2,1,3]} : f32[B,6,2,6]
        %f = core.reshape(%t) : f32[B,2,36]
        %y = nn.linear(%f, @w) : f32[B,2,4]
        return %y""",
        ["spike.threshold", "core.transpose", "core.reshape", "spike.linear"],
    ),
    "a choice of 1 and 0": (
        """@w : f32[4,6]
        %m : bool[B,6]
        %one = core.full() {value=1.0} : f32[]
        %zero = core.full() {value=0.0} : f32[6]
        %x = core.where(%m, %one, %zero) : f32[B,6]
        %y = nn.linear(%x, @w) : f32[B,4]
        return %y""",
        ["core.full", "core.full", "core.where", "spike.threshold", "spike.linear"],
    ),
    "numbers that are read elsewhere too": (
        CAST
        + """
        @w : f32[4,6]
        %y = nn.linear(%x, @w) : f32[B,4]
        return %y, %x""",
        ["spike.threshold", "core.cast", "spike.linear"],
    ),
    "strides, uneven pads and a bias": (
        CAST_IMAGE
        + """
        @w : f32[4,2,3,3]
        @b : f32[4]
        %y = nn.conv2d(%x, @w, @b) {stride=[2,1], pad=[0,1,1,2]} : f32[B,4,3,7]
        return %y""",
        ["spike.threshold", "spike.conv2d"],
    ),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_products(case: str) -> None:
    text, wanted = PRODUCTS[case]
    assert names(raised(graph_of(text))) == wanted


def test_products_of_the_spikes_of_a_loop() -> None:
    """A loop stacks spikes; the layer behind it and, on the way, a carry that is read as numbers."""
    graph = graph_of(
        """
        @w : f32[4,6]
        %i : f32[T,B,6]
        %v : f32[B,6]
        %p : f32[B,6]
        %s, %l, %o = core.scan(%i, %v, %p) {carries=2} : f32[T,B,6], f32[B,6], f32[B,6] do (%a: f32[B,6], %b: f32[B,6], %q: f32[B,6]) {
        %u = core.sub(%a, %q) : f32[B,6]
        %f, %n = spike.integrate_and_fire(%u, %b) {v_th=1.0, reset="zero"} : spike[B,6], f32[B,6]
        %c = core.cast(%f) : f32[B,6]
        yield %c, %n, %c
        }
        %y = nn.linear(%s, @w) : f32[T,B,4]
        return %y, %l, %o"""
    )
    after = raised(graph)
    assert names(after) == ["core.scan", "core.sub", "spike.integrate_and_fire", "core.cast", "spike.linear"]
    assert "%s.spikes, %l, %o = core.scan" in str(after)
    assert "yield %f, %n, %c" in str(after)


NEAR_MISSES = {
    "an activation": (
        CAST + '@w : f32[4,6]\n%y = nn.linear(%x, @w) {act="relu"} : f32[B,4]\nreturn %y',
        "%y applies relu, and spike.linear applies nothing",
    ),
    "groups": (
        CAST_IMAGE + "@w : f32[4,1,3,3]\n%y = nn.conv2d(%x, @w) {groups=2} : f32[B,4,4,4]\nreturn %y",
        "groups=2, and spike.conv2d has one group",
    ),
    "dilation": (
        CAST_IMAGE + "@w : f32[4,2,3,3]\n%y = nn.conv2d(%x, @w) {dilation=[2,2]} : f32[B,4,2,2]\nreturn %y",
        "dilation=[2, 2], and spike.conv2d has none",
    ),
    "a cast of whole numbers": (
        "@w : f32[4,6]\n%i : i32[B,6]\n%x = core.cast(%i) : f32[B,6]\n%y = nn.linear(%x, @w) : f32[B,4]\nreturn %y",
        "%x is a cast of i32[B,6]; the rule wants one of spikes or truth values",
    ),
    "a choice of 1 and 2": (
        """@w : f32[4,6]
        %m : bool[B,6]
        %one = core.full() {value=1.0} : f32[]
        %two = core.full() {value=2.0} : f32[]
        %x = core.where(%m, %one, %two) : f32[B,6]
        %y = nn.linear(%x, @w) : f32[B,4]
        return %y""",
        "%x does not choose 1 and 0; the rule wants spikes or truth values as numbers",
    ),
    "scaled spikes": (
        CAST
        + "@w : f32[4,6]\n%z = core.add(%x, %x) : f32[B,6]\n%y = nn.linear(%z, @w) : f32[B,4]\nreturn %y",
        "%z is the result of core.add; the rule wants a core.cast of spikes or truth values",
    ),
    "an input": (
        "@w : f32[4,6]\n%x : f32[B,6]\n%y = nn.linear(%x, @w) : f32[B,4]\nreturn %y",
        "%x is no result of an op; the rule wants a core.cast of spikes or truth values",
    ),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_miss(case: str) -> None:
    text, reason = NEAR_MISSES[case]
    graph = graph_of(text)
    after, report = optimize(graph, "raise-spike-products", bundle_dir=None)
    assert not report.changed
    assert body_lines(after) == body_lines(graph)
    assert reason in why(graph, "raise-spike-products", "%y")


def test_truth_values_are_left_alone_on_demand() -> None:
    graph = graph_of(
        "@w : f32[4,6]\n%m : bool[B,6]\n%x = core.cast(%m) : f32[B,6]\n"
        "%y = nn.linear(%x, @w) : f32[B,4]\nreturn %y"
    )
    assert "spike.linear" in names(raised(graph))
    assert names(raised(graph, "{bools=false}")) == ["core.cast", "nn.linear"]
    (options,) = parse_pipeline("raise-spike-products{bools=false}")
    assert "truth values, and bools=false" in why(graph, options, "%y")


def test_quantised_weights_are_left_alone() -> None:
    graph = graph_of(CAST + "@w : qi8<0.1, zp=0>[4,6]\n%y = nn.linear(%x, @w) : f32[B,4]\nreturn %y")
    _, report = optimize(graph, "raise-spike-products", bundle_dir=None)
    assert not report.changed
    assert "spike.linear wants dense weights" in why(graph, "raise-spike-products", "%y")


def test_a_loop_without_spikes_is_left_alone() -> None:
    graph = graph_of(
        """
        %i : f32[T,B]
        %v : f32[B]
        %s, %l = core.scan(%i, %v) : f32[T,B], f32[B] do (%a: f32[B], %b: f32[B]) {
        %c = core.add(%a, %b) : f32[B]
        yield %c, %b
        }
        return %s, %l"""
    )
    _, report = optimize(graph, "raise-spike-products", bundle_dir=None)
    assert not report.changed
    assert "%s stacks no cast of spikes that is read" in why(graph, "raise-spike-products", "%s")
