"""Building and changing graphs."""

import numpy as np
import pytest

from plait.ir import Graph, InputError, Loc, TensorType, VerifyError
from plait.ir.ops import core, nn
from plait.ir.types import f32, i8


@pytest.fixture
def graph() -> Graph:
    """image -> conv1 -> relu -> flat, batch symbolic."""
    g = Graph()
    batch = g.declare_dim("B", 1, 64)
    image = g.add_input("image", TensorType(f32, (batch, 3, 8, 8)))
    weight = g.add_constant("conv1.weight", np.ones((4, 3, 3, 3), np.float32))
    conv = g.emit(nn.Conv2d(image, weight, pad=(1, 1)), name="conv1", loc=Loc.at("conv1", "net.py", 3))
    relu = g.emit(nn.Relu(conv), name="relu", loc=Loc.at("relu", "net.py", 4))
    flat = g.emit(core.Reshape(relu, out=TensorType(f32, (batch, 256))), name="flat")
    g.set_outputs([flat])
    return g


def op_named(graph: Graph, name: str) -> object:
    return graph.value(name).producer


def test_use_lists_follow_building(graph: Graph) -> None:
    conv = graph.value("conv1")
    assert conv.users == (op_named(graph, "relu"),)
    assert graph.value("flat").users == (graph.body,)
    assert graph.constants["conv1.weight"].use_count == 1


def test_replace_keeps_names_uses_and_order(graph: Graph) -> None:
    old = op_named(graph, "conv1")
    new = graph.replace(old, old.evolve(act="relu"))
    assert [op.name for op in graph.ops] == ["conv1", "relu", "flat"]
    assert new.act == "relu"
    assert new.loc == Loc.at("conv1", "net.py", 3)
    assert op_named(graph, "relu").x is new.result
    graph.verify()


def test_erase_refuses_while_used(graph: Graph) -> None:
    with pytest.raises(VerifyError, match=r"cannot erase .*: %conv1 is read by"):
        graph.erase(op_named(graph, "conv1"))


def test_replace_uses_then_erase(graph: Graph) -> None:
    relu = op_named(graph, "relu")
    graph.replace_uses(relu.result, relu.x)
    graph.erase(relu)
    assert [op.name for op in graph.ops] == ["conv1", "flat"]
    graph.verify()


def test_replace_uses_checks_types(graph: Graph) -> None:
    with pytest.raises(VerifyError, match="cannot replace %flat"):
        graph.replace_uses(graph.value("flat"), graph.value("conv1"))


def test_fields_are_read_only(graph: Graph) -> None:
    with pytest.raises(AttributeError, match="read only: use op.evolve"):
        op_named(graph, "conv1").act = "relu"


def test_iteration_survives_erasing_and_inserting(graph: Graph) -> None:
    seen = []
    for op in graph.ops:
        seen.append(op.name)
        if op.opname == "nn.relu":
            graph.replace_uses(op.result, op.x)
            graph.erase(op)
        if op.opname == "nn.conv2d":
            graph.add(nn.Sigmoid(op.x), name="early", before=op)
    assert seen == ["conv1", "relu", "flat"]
    assert [op.name for op in graph.ops] == ["early", "conv1", "flat"]
    assert [op.name for op in reversed(graph.body)] == ["flat", "conv1", "early"]


def test_clone_is_independent(graph: Graph) -> None:
    copy = graph.clone()
    assert copy == graph
    assert copy.id == graph.id
    copy.erase_target = None
    relu = op_named(copy, "relu")
    copy.replace(relu, nn.Sigmoid(relu.x))
    assert copy != graph
    graph.verify()
    copy.verify()


def test_fresh_names_never_clash(graph: Graph) -> None:
    names = [graph.fresh_name("conv1") for _ in range(3)]
    assert names == ["conv1_1", "conv1_2", "conv1_3"]
    assert graph.fresh_name("a b") == "a_b"


def test_rename_follows_quantised_references() -> None:
    from plait.ir.types import QuantType

    g = Graph()
    g.add_constant("w.scale", np.ones(4, np.float32))
    weight = g.add_constant("w", np.zeros((4, 2), np.int8), QuantType(8, True, "w.scale", (4, 2), axis=0))
    g.rename(g.constants["w.scale"], "s")
    assert str(weight.type) == "qi8<@s, axis=0>[4,2]"
    g.verify()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda g: g.add_input("conv1", TensorType(f32, ())), "defined twice"),
        (
            lambda g: g.add_constant("w", np.zeros(3, np.float32), TensorType(f32, (4,))),
            r"data of constant @w is float32\[3\]",
        ),
        (lambda g: g.add_constant("w", np.zeros(3, np.float32), TensorType(i8, (3,))), "wants int8"),
        (lambda g: g.declare_dim("Q", 5, 2), "empty or negative"),
        (lambda g: g.value("conv2"), "no value conv2.*did you mean 'conv1'"),
        (lambda g: nn.Conv2d(g.value("image"), g.value("@conv1.weight"), stride=2), r"attribute stride is 2"),
        (lambda g: nn.Conv2d(g.value("image"), None), "operand w is None"),
    ],
)
def test_wrong_use_says_what(graph: Graph, build: object, message: str) -> None:
    with pytest.raises((VerifyError, InputError), match=message):
        build(graph)


def test_constants_are_read_only(graph: Graph) -> None:
    with pytest.raises(ValueError, match="read-only"):
        graph.constants["conv1.weight"].data[0] = 1.0
