"""The rewriter, its driver, `why`, and the comparator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from plait.ir import Graph, InputError, Loc, TensorType, Value, VerifyError, parse
from plait.ir import types as t
from plait.ir.ops import core, nn
from plait.passes import (
    Pass,
    PassError,
    Replace,
    RewritePass,
    Rewriter,
    Skip,
    first_divergence,
    optimize,
    rule,
    why,
)
from plait.passes.examples import body_lines, complete


@dataclass(frozen=True)
class Endless(RewritePass):
    """Swaps operands for ever."""

    name: ClassVar[str] = "endless"


@rule(Endless, "x + y => y + x")
def swap(op: core.Add, rw: Rewriter) -> Replace | Skip:
    return rw.replace(op, with_=op.evolve(left=op.right, right=op.left))


def test_rules_that_undo_each_other_are_stopped() -> None:
    graph = complete(("%x : f32[B]", "%y : f32[B]", "%z = core.add(%x, %y) : f32[B]", "return %z"))
    with pytest.raises(PassError, match=r"(?s)did not come to an end within 250 rewrites.*x \+ y => y \+ x"):
        optimize(graph, [Endless()], bundle_dir=None)


def test_replace_fuses_locations_of_all_that_goes() -> None:
    lines = (
        "%x : f32[B,2,3]",
        "%a = core.transpose(%x) {permutation=[1,0,2]} : f32[2,B,3]",
        "%b = core.transpose(%a) {permutation=[0,2,1]} : f32[2,3,B]",
        "return %b",
    )
    graph = complete(lines)
    after, _ = optimize(graph, "canonicalize")
    (op,) = after.ops
    assert [origin.path for origin in op.loc.origins] == ["b", "a"]
    assert op.loc.passes == ("canonicalize",)


def test_inner_op_with_other_readers_stays() -> None:
    graph = complete(
        (
            "%x : f32[B,4]",
            "%a = core.reshape(%x) : f32[2*B,2]",
            "%b = core.reshape(%a) : f32[4*B]",
            "return %a, %b",
        )
    )
    after, _ = optimize(graph, "canonicalize")
    assert body_lines(after) == (
        "%a = core.reshape(%x) : f32[2*B,2]",
        "%b = core.reshape(%x) : f32[4*B]",
        "return %a, %b",
    )


def test_constants_get_free_names() -> None:
    graph = complete(("@w : f32[2]", "%x : f32[2]", "%y = core.add(%x, @w) : f32[2]", "return %y"))
    rewriter = Rewriter(graph, "test")
    names = [rewriter.constant("w", np.zeros(1, np.float32)).name for _ in range(3)]
    assert names == ["w_1", "w_2", "w_3"]


def test_matched_ops_must_be_in_the_graph() -> None:
    graph = complete(("%x : f32[2]", "%y = nn.relu(%x) : f32[2]", "return %y"))
    (op,) = graph.ops
    with pytest.raises(VerifyError, match="is in no graph"):
        Rewriter(graph, "test").replace(op, with_=nn.Relu6(op.x), matched=(op.evolve(),))


def test_rules_work_inside_regions_and_stay_there() -> None:
    text = """plait.ir 1.0
dim T in 1..8
const @w : f32[4,4] = blob("0000000000000000")
func @main(%xs: f32[T,4], %s: f32[4], %k: f32[4]) -> f32[T,4], f32[4] {
  %p = nn.linear(%k, @w) : f32[4]
  %ys, %last = core.scan(%xs, %s) : f32[T,4], f32[4] do (%x: f32[4], %c: f32[4]) {
    %sum = core.add(%x, %c) : f32[4]
    %r = nn.relu(%sum) : f32[4]
    %q = nn.relu(%p) : f32[4]
    %same = core.reshape(%r) : f32[4]
    %y = core.add(%same, %q) : f32[4]
    yield %y, %r
  }
  return %ys, %last
}
"""
    graph = parse(text)
    for op in graph.walk():
        op.loc = Loc.at(op.name)
    after, _ = optimize(graph)
    assert [op.opname for op in after.walk()] == ["nn.linear", "core.scan", "core.add", "nn.relu", "core.add"]
    assert parse(str(after)) == after


def test_folding_respects_growth() -> None:
    lines = (
        "%x : f32[64]",
        "%i = core.iota() : f32[64]",
        "%wide = core.broadcast(%i) : f32[8,64]",
        "%y = core.add(%wide, %x) : f32[8,64]",
        "return %y",
    )
    kept, _ = optimize(complete(lines), "fold-constants{max_growth_bytes=2047}")
    assert len(kept) == 3
    folded, _ = optimize(complete(lines), "fold-constants{max_growth_bytes=2048}")
    assert body_lines(folded) == ("%y = core.add(@wide, %x) : f32[8,64]", "return %y")
    np.testing.assert_array_equal(
        folded.constants["wide"].data, np.broadcast_to(np.arange(64, dtype=np.float32), (8, 64))
    )


def test_folding_keeps_bfloat16_bits() -> None:
    graph = Graph()
    x = graph.add_constant("x", np.array([1.0, -2.5, 3.140625], dtype=t.bf16.numpy))
    graph.set_outputs([graph.emit(core.Neg(x), name="y")])
    after, _ = optimize(graph, "fold-constants")
    assert after.constants["y"].type == TensorType(t.bf16, (3,))
    assert after.constants["y"].data.astype(np.float32).tolist() == [-1.0, 2.5, -3.140625]


def test_signed_zeros_are_not_merged() -> None:
    lines = (
        "%x : f32[B]",
        "%p = core.full() {value=0.0} : f32[]",
        "%n = core.full() {value=-0.0} : f32[]",
        "%a = core.div(%x, %p) : f32[B]",
        "%b = core.div(%x, %n) : f32[B]",
        "return %a, %b",
    )
    after, report = optimize(complete(lines), "common-subexpression")
    assert len(after) == 4
    assert not report.changed


def test_equal_constants_are_merged_and_referenced_ones_kept() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(t.f32, (2, 4)))
    data = np.ones((3, 4), np.float32)
    a = graph.add_constant("a", data)
    b = graph.add_constant("b", data.copy())
    graph.add_constant("scale", np.ones(2, np.float32))
    graph.add_constant("unused", np.ones(2, np.float32))
    first = graph.emit(nn.Linear(x, a), name="first", loc=Loc.at("first"))
    second = graph.emit(nn.Linear(x, b), name="second", loc=Loc.at("second"))
    kind = t.QuantType(8, True, "scale", (2, 3), axis=0)
    from plait.ir.ops import quant

    q = graph.emit(quant.Quantize(second, out=kind), name="q", loc=Loc.at("q"))
    graph.set_outputs([first, q])
    after, _ = optimize(graph, "common-subexpression,dead-code")
    assert list(after.constants) == ["a", "scale"]
    assert [op.name for op in after.ops] == ["first", "q"]
    merged = after.value("%first").producer
    assert merged is not None
    assert [origin.path for origin in merged.loc.origins] == ["first", "second"]


# -- why -----------------------------------------------------------------------------
def chain() -> Graph:
    return complete(
        (
            "@w : f32[4,3,3,3]",
            "%x : f32[B,3,8,8]",
            "%conv = nn.conv2d(%x, @w) : f32[B,4,6,6]",
            "%pool = nn.max_pool2d(%conv) {kernel=[2,2], stride=[2,2]} : f32[B,4,3,3]",
            "%pooled = nn.relu(%pool) : f32[B,4,3,3]",
            "%direct = nn.relu(%conv) : f32[B,4,6,6]",
            "%first = nn.sigmoid(%x) : f32[B,3,8,8]",
            "%sum = core.add(%pooled, %pooled) : f32[B,4,3,3]",
            "%end = nn.relu(%sum) : f32[B,4,3,3]",
            "%softened = nn.hardsigmoid(%end) {alpha=0.2} : f32[B,4,3,3]",
            "return %direct, %first, %softened",
        )
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "%pool",
            'did not apply at %pool ("pool" example.py:1): %pool is nn.max_pool2d, the pass starts at nn.gelu',
        ),
        ("%pooled", "%pool is the result of nn.max_pool2d, the rule wants one of nn.conv1d"),
        ("%direct", "%conv is read elsewhere too: %pool"),
        ("%first", "%x is a parameter"),
        ("end", "fuse-activation applies at %end"),
        ("%sum", 'fuse-activation applies at %end ("end" example.py:1), a reader of %sum'),
        ("%softened", "alpha=0.2 and beta=0.5 are not those of act=hardsigmoid"),
    ],
)
def test_why_names_the_reason(name: str, expected: str) -> None:
    graph = chain()
    text = str(graph)
    assert expected in why(graph, "fuse-activation", name)
    assert str(graph) == text


def test_why_takes_options_rules_and_other_passes() -> None:
    graph = chain()
    assert "relu is not among kinds=[silu]" in why(graph, "fuse-activation{kinds=[silu]}", "%end")
    assert "applies at %end" in why(graph, "fuse", "%end")
    assert "applies at %end" in why(graph, "act(producer(x)) => producer(x, act)", "%end")
    assert "%sum is read by %end" in why(graph, "dead-code", "%sum")
    assert "no other op computes %sum" in why(graph, "common-subexpression", "%sum")
    assert "%x : f32[B,3,8,8] is no dense constant" in why(graph, "fold-constants", "%first")
    with pytest.raises(InputError, match="did you mean 'fuse-bias'"):
        why(graph, "fuse-bia", "%end")
    with pytest.raises(InputError, match="is computed by no op"):
        why(graph, "fuse-bias", "%x")
    with pytest.raises(InputError, match="did you mean"):
        why(graph, "fuse-bias", "%poole")


# -- comparator ------------------------------------------------------------------------
@dataclass(frozen=True)
class Wrong(Pass):
    """Replaces leaky_relu by relu, which is wrong for negative elements."""

    name: ClassVar[str] = "wrong"

    def run(self, graph: Graph) -> bool:
        rewriter = Rewriter(graph, self.name)
        for op in graph.ops:
            if isinstance(op, nn.LeakyRelu):
                rewriter.replace(op, with_=nn.Relu(op.x))
        return True


def leaky() -> Graph:
    return complete(
        (
            "%x : f32[B,4]",
            "%a = core.add(%x, %x) : f32[B,4]",
            "%b = nn.leaky_relu(%a) : f32[B,4]",
            "%c = nn.tanh(%b) : f32[B,4]",
            "return %c",
        )
    )


def test_comparator_names_the_first_diverging_op() -> None:
    before = leaky()
    after, _ = optimize(before, [Wrong()])
    x = torch.tensor([[1.0, 2.0, -4.0, 3.0]])
    found = first_divergence(before, after, [x])
    assert found is not None
    assert (found.value, found.op, found.op_before, found.passes) == (
        "%b",
        "nn.relu",
        "nn.leaky_relu",
        ("wrong",),
    )
    assert found.max_abs == pytest.approx(0.08)
    assert found.max_rel == pytest.approx(1.0)
    assert found.mismatched == 0.25
    assert "%b diverges at nn.relu (b at example.py:1, made by wrong)" in str(found)
    assert found.to_dict()["mismatched"] == 0.25
    assert first_divergence(before, after, [x.abs()]) is None
    assert first_divergence(before, before.clone(), {"x": x}) is None


def test_comparator_sees_nan_and_outputs_without_a_common_name() -> None:
    before, after = leaky(), leaky()
    last = after.value("%c")
    after.rename(last, "other")
    assert first_divergence(before, after, [torch.randn(2, 4)]) is None
    op = last.producer
    assert op is not None
    rewriter = Rewriter(after, "wrong")
    rewriter.replace(op, with_=core.Log(op.operands[0]))
    found = first_divergence(before, after, [-torch.ones(1, 4)])
    assert found is not None
    assert found.value == "output 0 (%other)"
    assert found.max_abs == float("inf")


def test_comparator_refuses_other_signatures() -> None:
    other = complete(("%y : f32[B,4]", "%z = nn.relu(%y) : f32[B,4]", "return %z"))
    with pytest.raises(InputError, match="different signatures"):
        first_divergence(leaky(), other, [torch.ones(1, 4)])


def test_dead_producers_go_with_their_reader() -> None:
    graph = Graph()
    x: Value = graph.add_input("x", TensorType(t.f32, (4,)))
    zero = graph.emit(core.Full(value=0.0, out=TensorType(t.f32, ())), loc=Loc.at("zero"))
    wide = graph.emit(core.Broadcast(zero, out=TensorType(t.f32, (4,))), loc=Loc.at("wide"))
    graph.set_outputs([graph.emit(core.Add(x, wide), loc=Loc.at("sum"))])
    after, _ = optimize(graph, "canonicalize")
    assert len(after) == 0
    assert after.outputs == (after.inputs[0],)
