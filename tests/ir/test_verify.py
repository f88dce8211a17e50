"""The verifier: one broken graph for each invariant."""

import numpy as np
import pytest

from plait.ir import Graph, Loc, Op, TensorType, VerifyError, parse
from plait.ir.ops import core, nn
from plait.ir.types import QuantType, f32
from plait.ir.value import Constant, Value
from plait.ir.verify import verify


def chain() -> Graph:
    """x -> exp -> log, with locations."""
    g = Graph()
    batch = g.declare_dim("B", 1, 8)
    x = g.add_input("x", TensorType(f32, (batch, 4)))
    e = g.emit(core.Exp(x), name="e", loc=Loc.at("block.exp", "net.py", 7))
    g.set_outputs([g.emit(core.Log(e), name="l", loc=Loc.at("block.log", "net.py", 8))])
    return g


def op_of(graph: Graph, name: str) -> Op:
    op = graph.value(name).producer
    assert op is not None
    return op


def duplicate_name(g: Graph) -> None:
    g.value("l")._name = "e"


def bad_name(g: Graph) -> None:
    g.value("l")._name = "a b"


def use_before_definition(g: Graph) -> None:
    e, body = op_of(g, "e"), g.body
    body.unlink(e)
    body.insert(e)


def wrong_result_type(g: Graph) -> None:
    g.value("e").type = TensorType(f32, (4, 4))


def wrong_operand(g: Graph) -> None:
    e = op_of(g, "e")
    mask = g.emit(core.Lt(e.x, e.x), name="m", before=e)
    e.set_operands(lambda v: mask)


def bad_attribute(g: Graph) -> None:
    softmax = g.add(nn.Softmax(g.value("l"), axis=1), name="s")
    object.__setattr__(softmax, "axis", "last")


def undeclared_dim(g: Graph) -> None:
    del g.dims["B"]


def missing_scale(g: Graph) -> None:
    g.add_constant("q", np.zeros((4,), np.int8), QuantType(8, True, "gone", (4,), axis=0))


def wrong_constant(g: Graph) -> None:
    constant = g.add_constant("c", np.zeros(3, np.float32))
    g.constants["c"] = Constant("c", TensorType(f32, (4,)), constant.data)


def stale_use_list(g: Graph) -> None:
    g.value("e")._users.clear()


BROKEN = [
    (duplicate_name, 1, "name 'e' is defined twice"),
    (bad_name, 1, "'a b' is no value name"),
    (use_before_definition, 2, "operand %e is not defined before it"),
    (wrong_result_type, 3, "%e has type f32[4,4] but the op computes f32[B,4]"),
    (wrong_operand, 4, "operand x (%m) is bool[B,4]"),
    (bad_attribute, 5, "attribute axis must be a whole number"),
    (undeclared_dim, 6, "dim B of %x : f32[B,4] is not declared"),
    (missing_scale, 7, "refers to constant @gone, which does not exist"),
    (wrong_constant, 8, "data of constant @c is float32[3]"),
    (stale_use_list, 9, "use list of %e holds 0 users but 1 read it"),
]


@pytest.mark.parametrize(("damage", "invariant", "message"), BROKEN, ids=[b[0].__name__ for b in BROKEN])
def test_each_invariant(damage: object, invariant: int, message: str) -> None:
    graph = chain()
    graph.verify()
    damage(graph)
    with pytest.raises(VerifyError) as caught:
        graph.verify()
    assert caught.value.invariant == invariant
    assert message in str(caught.value)


def test_error_shows_surroundings_and_origin() -> None:
    graph = chain()
    wrong_result_type(graph)
    with pytest.raises(VerifyError) as caught:
        graph.verify()
    text = str(caught.value)
    assert "  > %e = core.exp(%x) : f32[4,4]" in text
    assert "    %l = core.log(%e) : f32[B,4]" in text
    assert "note: from block.exp at net.py:7" in text


def test_signature_must_match() -> None:
    text = str(chain()).replace("-> f32[B,4]", "-> f32[B,5]")
    with pytest.raises(VerifyError) as caught:
        parse(text)
    assert caught.value.invariant == 10


@pytest.mark.parametrize(
    ("loc", "broken"),
    [
        (Loc(), True),
        (Loc.at("block.exp"), True),
        (Loc((), ("fuse",)), True),
        (Loc.at("block.exp").via("fuse"), False),
    ],
)
def test_a_rewrite_keeps_locations(loc: Loc, broken: bool) -> None:
    graph = chain()
    before = list(graph.walk())
    exp = op_of(graph, "e")
    new = graph.replace(exp, core.Expm1(exp.x), loc=Loc.at("x"))
    new.loc = loc
    if broken:
        with pytest.raises(VerifyError, match="pass fuse made core.expm1 without a location") as caught:
            verify(graph, made_by="fuse", known=before)
        assert caught.value.invariant == 11
    else:
        verify(graph, made_by="fuse", known=before)


def test_quantised_scale_shapes() -> None:
    g = Graph()
    g.add_constant("s", np.ones(3, np.float32))
    g.add_constant("w", np.zeros((4, 2), np.int8), QuantType(8, True, "s", (4, 2), axis=0))
    with pytest.raises(VerifyError, match=r"@s is f32\[3\] but @w"):
        g.verify()
    g = Graph()
    g.add_constant("s", np.ones((4, 2), np.float32))
    g.add_constant("w", np.zeros((4, 8), np.int8), QuantType(4, True, "s", (4, 8), axis=1, group=4))
    g.verify()


def test_foreign_value_is_found() -> None:
    graph = chain()
    op_of(graph, "l").set_operands(lambda v: Value("stranger", v.type))
    with pytest.raises(VerifyError, match="%stranger is not defined before it"):
        graph.verify()
