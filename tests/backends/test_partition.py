"""Properties of the partition: every op in a group, safe order, names and sharing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plait.backends.tvm.emit import EMISSIONS, Kind
from plait.backends.tvm.partition import Group, partition
from plait.frontends.families import example
from plait.frontends.pytorch import lower_torch
from plait.ir import CompileError, Graph, Loc
from plait.ir.ops import core, nn
from plait.ir.types import TensorType, f32

from .emission import B, weights


def family(name: str) -> Graph:
    found = example(name)
    return lower_torch(found.build(0), found.inputs(2, 0), dynamic=found.dynamic)


@pytest.mark.parametrize("name", ["small_cnn", "small_transformer"])
def test_every_op_is_computed_once_and_after_its_operands(name: str) -> None:
    graph = family(name)
    parts = partition(graph)
    ready = {*graph.inputs, *graph.constants.values()}
    computed = []
    for step in parts.steps:
        ops = step.ops if isinstance(step, Group) else [step]
        for op in ops:
            assert set(op.operands) <= ready, f"{op!r} runs before its operands"
            ready.update(op.results)
            computed += [op] if EMISSIONS[type(op)].kind is not Kind.CREATION else []
    kinds = {op: EMISSIONS[type(op)].kind for op in graph.ops}
    assert sorted(op.name for op in computed) == sorted(
        o.name for o, k in kinds.items() if k is not Kind.CREATION
    )


@pytest.mark.parametrize("name", ["small_cnn", "small_transformer"])
def test_only_the_sink_of_a_group_is_read_outside(name: str) -> None:
    graph = family(name)
    for group in partition(graph).groups:
        inside = set(group.ops)
        for op in group.ops[:-1]:
            if EMISSIONS[type(op)].kind is Kind.CREATION:
                continue
            for value in op.results:
                assert value not in graph.outputs
                assert all(user in inside for user in value.users)


def residual() -> Graph:
    g = Graph("residual")
    g.declare_dim("B", 1, 8)
    x = g.add_input("x", TensorType(f32, (B, 8, 6, 6)))
    for i in (1, 2):
        w = g.add_constant(f"w{i}", weights(8, 8, 3, 3, seed=i))
        y = g.emit(nn.Conv2d(x, w, pad=(1, 1)), name=f"conv{i}", loc=Loc.at(f"layer{i}", "net.py", 10 + i))
        z = g.emit(core.Add(y, x), name=f"sum{i}")
        x = g.emit(nn.Relu(z), name=f"relu{i}")
    g.set_outputs([x])
    return g


def test_epilogues_join_their_convolution_and_equal_groups_share_a_kernel() -> None:
    from plait.backends import compile_graph, resolve_target

    # In one order of memory, so that the second group reads what the first one does.
    exe = compile_graph(residual(), replace(resolve_target("cpu"), layouts=False))
    (kernel,) = exe.kernels
    assert kernel.name == "conv1_add_relu"
    assert kernel.calls == 2
    assert kernel.ops == ("conv1", "sum1", "relu1", "conv2", "sum2", "relu2")
    assert kernel.opnames == ("nn.conv2d", "core.add", "nn.relu")
    assert kernel.locations[0] == "layer1 at net.py:11"
    assert "conv1_add_relu" in exe.kernel_table()


def test_a_value_that_is_read_twice_ends_its_group() -> None:
    g = Graph("fork")
    x = g.add_input("x", TensorType(f32, (4, 4)))
    y = g.emit(core.Exp(x), name="exp")
    g.set_outputs([g.emit(core.Neg(y), name="neg"), g.emit(core.Sin(y), name="sin")])
    assert [[op.name for op in group.ops] for group in partition(g).groups] == [["exp"], ["neg"], ["sin"]]


def test_a_result_that_is_also_an_output_ends_its_group() -> None:
    g = Graph("both")
    x = g.add_input("x", TensorType(f32, (4, 4)))
    y = g.emit(core.Exp(x), name="exp")
    g.set_outputs([y, g.emit(core.Neg(y), name="neg")])
    assert len(partition(g).groups) == 2


def test_views_cost_no_kernel() -> None:
    g = Graph("view")
    x = g.add_input("x", TensorType(f32, (4, 6)))
    y = g.emit(core.Reshape(g.emit(core.Exp(x)), out=TensorType(f32, (2, 12))))
    g.set_outputs([g.emit(core.Transpose(y, permutation=(1, 0)))])
    parts = partition(g)
    assert len(parts.groups) == 2
    assert [op.opname for op in parts.views] == ["core.reshape"]


def test_all_unsupported_ops_are_reported_at_once() -> None:
    g = Graph("unsupported")
    x = g.add_input("x", TensorType(f32, (4, 4)))
    y = g.emit(core.Complex(x, x), name="pair", loc=Loc.at("solver", "net.py", 3))
    z = g.emit(core.Imag(y), name="part", loc=Loc.at("modes", "net.py", 4))
    g.set_outputs([z])
    with pytest.raises(CompileError) as caught:
        partition(g)
    text = str(caught.value)
    assert "2 kinds of ops cannot be compiled: core.complex, core.imag" in text
    assert "%pair at solver at net.py:3" in text
    assert "net.py:4" in text
