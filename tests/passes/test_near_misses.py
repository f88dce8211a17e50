"""Places that look like a rule applies but where it must not, or only with care."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from plait.ir import Graph, Loc, parse
from plait.passes import optimize
from plait.passes.examples import body_lines, complete

#: pass, graph, and the body afterwards; None where nothing may change.
CASES: dict[str, tuple[str, str, str | None]] = {
    "difference of a layer and a constant": (
        "fuse-bias",
        """
        @w : f32[4,3,3,3]
        @b : f32[4]
        @c : f32[4,1,1]
        %x : f32[B,3,8,8]
        %y = nn.conv2d(%x, @w, @b) : f32[B,4,6,6]
        %z = core.sub(%y, @c) : f32[B,4,6,6]
        return %z
        """,
        """
        %z = nn.conv2d(%x, @w, @b.folded) : f32[B,4,6,6]
        return %z
        """,
    ),
    "difference of a constant and a layer": (
        "fuse-bias",
        """
        @w : f32[4,5]
        @c : f32[4]
        %x : f32[B,5]
        %y = nn.linear(%x, @w) : f32[B,4]
        %z = core.sub(@c, %y) : f32[B,4]
        return %z
        """,
        None,
    ),
    "quotient of a layer and a constant": (
        "fuse-bias",
        """
        @w : f32[4,5]
        @c : f32[4]
        %x : f32[B,5]
        %y = nn.linear(%x, @w) : f32[B,4]
        %z = core.div(%y, @c) : f32[B,4]
        return %z
        """,
        """
        %z = nn.linear(%x, @w.folded) : f32[B,4]
        return %z
        """,
    ),
    "constant that varies along rows": (
        "fuse-bias",
        """
        @w : f32[6,3,3,3]
        @c : f32[6]
        %x : f32[B,3,8,8]
        %y = nn.conv2d(%x, @w) : f32[B,6,6,6]
        %z = core.add(%y, @c) : f32[B,6,6,6]
        return %z
        """,
        None,
    ),
    "sum that stretches a layer": (
        "fuse-bias",
        """
        @w : f32[4,5]
        @c : f32[1,4]
        %x : f32[5]
        %y = nn.linear(%x, @w) : f32[4]
        %z = core.add(%y, @c) : f32[1,4]
        return %z
        """,
        None,
    ),
    "matrix that two products share": (
        "fuse-bias",
        """
        @w : f32[4,4]
        %x : f32[B,4]
        %y = linalg.matmul(%x, @w) : f32[B,4]
        %z = linalg.matmul(%y, @w) : f32[B,4]
        return %z
        """,
        None,
    ),
    "weights that two layers share": (
        "fuse-bias",
        """
        @w : f32[4,4]
        @c : f32[4]
        %x : f32[B,4]
        %y = nn.linear(%x, @w) : f32[B,4]
        %s = core.mul(%y, @c) : f32[B,4]
        %z = nn.linear(%s, @w) : f32[B,4]
        return %z
        """,
        None,
    ),
    "operands of a difference in the other order": (
        "common-subexpression",
        """
        %x : f32[B,4]
        %y : f32[B,4]
        %a = core.sub(%x, %y) : f32[B,4]
        %b = core.sub(%y, %x) : f32[B,4]
        return %a, %b
        """,
        None,
    ),
    "operands of a sum in the other order": (
        "common-subexpression",
        """
        %x : f32[B,4]
        %y : f32[B,4]
        %a = core.add(%x, %y) : f32[B,4]
        %b = core.add(%y, %x) : f32[B,4]
        %c = core.sub(%a, %b) : f32[B,4]
        return %c
        """,
        """
        %a = core.add(%x, %y) : f32[B,4]
        %c = core.sub(%a, %a) : f32[B,4]
        return %c
        """,
    ),
    "joins along other axes": (
        "canonicalize",
        """
        %x : f32[3,4]
        %a = core.concat(%x, %x) {axis=0} : f32[6,4]
        %b = core.concat(%a, %a) {axis=1} : f32[6,8]
        %c = core.concat(%x, %x) {axis=1} : f32[3,8]
        %d = core.concat(%c, %b) {axis=0} : f32[9,8]
        return %d
        """,
        None,
    ),
    "slice of a part": (
        "canonicalize",
        """
        %x : f32[B,4]
        %a = core.slice(%x) {axes=[1], starts=[0], stops=[3]} : f32[B,3]
        %b = core.slice(%x) {axes=[1], starts=[0], stops=[4], steps=[2]} : f32[B,2]
        return %a, %b
        """,
        None,
    ),
    "constant left of a difference": (
        "canonicalize",
        """
        @c : f32[4]
        %x : f32[B,4]
        %y = core.sub(@c, %x) : f32[B,4]
        %z = core.lt(@c, %y) : bool[B,4]
        return %z
        """,
        None,
    ),
    "cast that loses the fraction": (
        "canonicalize",
        """
        %x : f32[B,4]
        %a = core.cast(%x) : i32[B,4]
        %b = core.cast(%a) : f32[B,4]
        return %b
        """,
        None,
    ),
    "zero that stretches": (
        "canonicalize",
        """
        %x : f32[4]
        %zero = core.full() {value=0.0} : f32[3,4]
        %y = core.add(%x, %zero) : f32[3,4]
        return %y
        """,
        None,
    ),
    "zero that is rectified": (
        "canonicalize",
        """
        %x : f32[B,4]
        %zero = core.full() {value=0.0} : f32[]
        %y = core.add(%x, %zero) {act="relu"} : f32[B,4]
        return %y
        """,
        None,
    ),
    "limits that do not meet": (
        "canonicalize",
        """
        %x : f32[B,4]
        %a = core.clamp(%x) {low=2.0, high=3.0} : f32[B,4]
        %b = core.clamp(%a) {low=-1.0, high=1.0} : f32[B,4]
        return %b
        """,
        """
        %b = core.clamp(%x) {low=1.0, high=1.0} : f32[B,4]
        return %b
        """,
    ),
    "integer limits": (
        "canonicalize",
        """
        %x : i32[B]
        %a = core.clamp(%x) {low=0.0, high=6.0} : i32[B]
        return %a
        """,
        None,
    ),
    "gate of something else": (
        "canonicalize",
        """
        %x : f32[B,4]
        %y : f32[B,4]
        %g = nn.sigmoid(%y) : f32[B,4]
        %z = core.mul(%x, %g) : f32[B,4]
        return %z
        """,
        None,
    ),
    "activation in front of a normalisation": (
        "fold-batch-norm",
        """
        @w : f32[4,3]
        @mean : f32[4]
        @variance : f32[4]
        %x : f32[B,3]
        %y = nn.linear(%x, @w) {act="relu"} : f32[B,4]
        %z = nn.batch_norm(%y, @mean, @variance) : f32[B,4]
        return %z
        """,
        """
        %y = nn.linear(%x, @w) {act="relu"} : f32[B,4]
        %z.scaled = core.mul(%y, @z.factor) : f32[B,4]
        %z = core.add(%z.scaled, @z.shift) : f32[B,4]
        return %z
        """,
    ),
    "normalised axis that no weight has": (
        "fold-batch-norm{standalone=false}",
        """
        @w : f32[4,3]
        @mean : f32[5]
        @variance : f32[5]
        %x : f32[B,5,3]
        %y = nn.linear(%x, @w) : f32[B,5,4]
        %z = nn.batch_norm(%y, @mean, @variance) : f32[B,5,4]
        return %z
        """,
        None,
    ),
    "layer that is read twice": (
        "fold-batch-norm{standalone=false},fuse-activation",
        """
        @w : f32[4,3]
        @mean : f32[4]
        @variance : f32[4]
        %x : f32[B,3]
        %y = nn.linear(%x, @w) : f32[B,4]
        %z = nn.batch_norm(%y, @mean, @variance) : f32[B,4]
        %r = nn.relu(%y) : f32[B,4]
        return %z, %r
        """,
        None,
    ),
    "two activations": (
        "fuse-activation",
        """
        %x : f32[B,4]
        %y = core.add(%x, %x) : f32[B,4]
        %a = nn.relu(%y) : f32[B,4]
        %b = nn.sigmoid(%a) : f32[B,4]
        return %b
        """,
        """
        %a = core.add(%x, %x) {act="relu"} : f32[B,4]
        %b = nn.sigmoid(%a) : f32[B,4]
        return %b
        """,
    ),
    "hardsigmoid of another slope": (
        "fuse-activation",
        """
        %x : f32[B,4]
        %y = core.add(%x, %x) : f32[B,4]
        %a = nn.hardsigmoid(%y) {alpha=0.2} : f32[B,4]
        return %a
        """,
        None,
    ),
}


def lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


@pytest.mark.parametrize("case", CASES)
def test_near_miss(case: str, assert_same: Callable[[Graph, Graph], None]) -> None:
    pipeline, given, result = CASES[case]
    before = complete(lines(given))
    after, report = optimize(before, pipeline, bundle_dir=None)
    assert body_lines(after) == (lines(result) if result is not None else body_lines(before))
    assert report.changed == (result is not None)
    assert_same(before, after)


def test_op_in_a_region_never_stands_for_one_outside() -> None:
    graph = parse(
        """plait.ir 1.0
dim T in 1..8
func @main(%xs: f32[T,4], %s: f32[4]) -> f32[T,4], f32[4], f32[4] {
  %ys, %last = core.scan(%xs, %s) : f32[T,4], f32[4] do (%x: f32[4], %c: f32[4]) {
    %inner = nn.relu(%s) : f32[4]
    %y = core.add(%x, %inner) : f32[4]
    yield %y, %c
  }
  %outer = nn.relu(%s) : f32[4]
  return %ys, %last, %outer
}
"""
    )
    for op in graph.walk():
        op.loc = Loc.at(op.name)
    after, report = optimize(graph, "common-subexpression", bundle_dir=None)
    assert after == graph
    assert not report.changed
