"""The planned evaluator against the reference interpreter."""

from __future__ import annotations

import pytest
import torch

from plait.frontends.families import example
from plait.frontends.pytorch import lower_torch
from plait.ir import Graph, InputError
from plait.ir.interpret import interpret
from plait.ir.ops import nn
from plait.passes.examples import complete
from plait.passes.quantize.training.evaluate import Evaluator, by_name

SCAN = """
@w : f32[4,4]
%xs : f32[T,B,4]
%h0 : f32[B,4]
%ys, %h = core.scan(%xs, %h0) {carries=1} : f32[T,B,4], f32[B,4] do (%x: f32[B,4], %state: f32[B,4]) {
%wx = nn.linear(%x, @w) : f32[B,4]
%sum = core.add(%wx, %state) : f32[B,4]
%new = nn.tanh(%sum) : f32[B,4]
yield %new, %new
}
return %ys, %h
"""

MESSAGES = """
%g : graph<N, E, coo, i64>
%x : f32[N,3]
%y = message.aggregate(%g, %x) {reduce="sum"} : f32[N,3]
return %y
"""

QUANTISED = """
%x : f32[B,4]
%q = quant.quantize(%x) : qu4<0.1, zp=3>[B,4]
%y = quant.dequantize(%q) : f32[B,4]
return %y
"""

WIDE = """
%x : u16[B]
%y : u16[B]
%z = core.add(%x, %y) : u16[B]
return %z
"""


def graph_of(text: str) -> Graph:
    return complete(tuple(text.strip().splitlines()))


def same(graph: Graph, inputs: list[object]) -> None:
    evaluator = Evaluator(graph)
    for _ in range(2):
        found, wanted = evaluator(inputs), interpret(graph, inputs)
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            assert torch.equal(a, b)


def test_regions_graphs_integers_and_carriers() -> None:
    same(graph_of(SCAN), [torch.randn(5, 2, 4), torch.randn(2, 4)])
    edges = (torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 0]))
    same(graph_of(MESSAGES), [edges, torch.randn(3, 3)])
    same(graph_of(QUANTISED), [torch.randn(3, 4)])
    words = torch.tensor([1, 65535], dtype=torch.uint16)
    same(graph_of(WIDE), [words, words])


@pytest.mark.parametrize("name", ["small_cnn", "small_transformer"])
def test_models_at_several_sizes(name: str) -> None:
    model = example(name)
    graph = lower_torch(model.build(0), model.inputs(2, 0), dynamic=model.dynamic)
    evaluator = Evaluator(graph)
    for batch in (2, 3, 2):
        inputs = list(model.inputs(batch, batch).values())
        for a, b in zip(evaluator(inputs), interpret(graph, inputs), strict=True):
            assert torch.equal(a, b)


def test_gradients_are_those_of_the_interpreter() -> None:
    graph = graph_of(SCAN)
    inputs = [torch.randn(5, 2, 4), torch.randn(2, 4)]
    gradients = []
    for run in (Evaluator(graph), lambda inputs, constants: interpret(graph, inputs, constants=constants)):
        weight = torch.full((4, 4), 0.3, requires_grad=True)
        run(inputs, {"w": weight})[0].square().sum().backward()
        gradients.append(weight.grad)
    assert torch.equal(*gradients)


def test_an_override_replaces_one_op_only() -> None:
    graph = graph_of("%x : f32[B]\n%a = nn.relu(%x) : f32[B]\n%b = nn.relu(%a) : f32[B]\nreturn %b")
    first = next(iter(graph.ops))
    assert isinstance(first, nn.Relu)
    evaluator = Evaluator(graph, {first: lambda op, args, ctx: args[0] + 2})
    assert evaluator([torch.tensor([-1.0, -5.0])])[0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([], "0 inputs"),
        ([torch.zeros(3, 4, dtype=torch.float64)], "float64"),
        ([torch.zeros(3, 5)], "axis 1"),
        ([[1.0]], "list"),
    ],
)
def test_inputs_that_do_not_fit(inputs: list[object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Evaluator(graph_of(QUANTISED))(inputs)


def test_inputs_by_name() -> None:
    graph = graph_of(SCAN)
    assert by_name(graph, (1,), {"h0": 2}) == [1, 2]
    for positional, named, says in [
        ((1,), {}, "missing"),
        ((1, 2), {"xs": 3}, "twice"),
        ((1,), {"h1": 2}, "h0"),
    ]:
        with pytest.raises(InputError, match=says):
            by_name(graph, positional, named)
