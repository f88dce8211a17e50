"""Sizes that depend on data: who may bind a dim, where it may be used, and what it means."""

from collections.abc import Callable

import pytest
import torch

from plait.ir import Graph, InputError, TensorType, VerifyError, parse
from plait.ir import types as t
from plait.ir.bind import bind_dims, bound_dims, default_dims
from plait.ir.cost import graph_cost
from plait.ir.interpret import interpret
from plait.ir.memory import plan_memory
from plait.ir.ops import core, nn
from plait.ir.reference.philox import normal, philox, uniform

HEAD = "plait.ir 1.0\ndim B in 1..64\ndim K in 0..*\ndim R in 0..*\n"
COUNTED = """func @main(%x: f32[B,4]) -> i64[K,2], f32[R,2], i64[] {
  %k = core.nonzero(%x) {count=K} : i64[K,2]
  %n = core.dim_value() {dim=K} : i64[]
  %zero = core.full() {value=0} : i64[]
  %start = core.full() {value=1.0} : f32[2]
  %steps, %i, %last = core.while(%zero, %start) {count=R} : f32[R,2], i64[], f32[2] condition (%c: i64[], %cf: f32[2]) {
    %more = core.lt(%c, %n) : bool[]
    yield %more
  } do (%d: i64[], %df: f32[2]) {
    %one = core.full() {value=1} : i64[]
    %next = core.add(%d, %one) : i64[]
    %twice = core.add(%df, %df) : f32[2]
    yield %df, %next, %twice
  }
  return %k, %steps, %i
}
"""
LOCAL = """func @main(%x: f32[B,4]) -> i64[B] {
  %counts = core.scan(%x) {carries=0} : i64[B] do (%row: f32[4]) {
    %inside = core.nonzero(%row) {count=R} : i64[R,1]
    %found = core.dim_value() {dim=R} : i64[]
    yield %found
  }
  return %counts
}
"""


def test_the_interpreter_binds_and_the_text_keeps() -> None:
    graph = parse(HEAD + COUNTED)
    assert str(graph) == HEAD + COUNTED
    assert parse(str(graph.clone())) == graph
    assert {name: op.opname for name, op in bound_dims(graph).items()} == {
        "K": "core.nonzero",
        "R": "core.while",
    }
    x = torch.tensor([[0.0, 1, 0, 2], [3, 0, 0, 0]])
    places, steps, rounds = interpret(graph, [x])
    assert places.tolist() == [[0, 1], [0, 3], [1, 0]]
    assert steps.tolist() == [[1, 1], [2, 2], [4, 4]]
    assert rounds == 3
    places, steps, rounds = interpret(graph, [torch.zeros(2, 4)])
    assert places.shape == (0, 2)
    assert steps.shape == (0, 2)
    assert rounds == 0


def test_a_dim_inside_a_loop_is_bound_anew_each_round() -> None:
    x = torch.tensor([[0.0, 1, 0, 2], [0, 0, 0, 0], [1, 1, 1, 1]])
    assert interpret(parse(HEAD + LOCAL), [x])[0].tolist() == [2, 0, 4]


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (COUNTED, "{dim=K}", "{dim=R}", "dim R of core.dim_value of n has no value here"),
        (COUNTED, "R", "K", "dim K is bound by core.while %steps and by core.nonzero %k"),
        (COUNTED, "K", "B", "dim B of %x : f32[B,4] has no value here"),
        (COUNTED, "K", "3", "count=3 is no dim symbol"),
        (COUNTED, "K", "R*K", "count=K*R is no dim symbol"),
        (COUNTED, "K", "L", "dim L"),
        (
            LOCAL,
            "  return",
            "  %late = core.dim_value() {dim=R} : i64[]\n  return",
            "dim R of core.dim_value of late has no value here",
        ),
        (
            LOCAL.replace("-> i64[B]", "-> i64[B,R,1]"),
            ": i64[B] do (%row: f32[4]) {",
            ": i64[B,R,1] do (%row: f32[4]) {",
            "has no value here",
        ),
    ],
)
def test_a_wrong_use_is_refused(text: str, old: str, new: str, message: str) -> None:
    wrong = text.replace(old, new)
    if "B,R,1" in wrong:
        wrong = wrong.replace("yield %found", "yield %inside")
    with pytest.raises(VerifyError) as caught:
        parse(HEAD + wrong)
    assert message in str(caught.value)


def test_a_use_before_the_op_is_refused() -> None:
    graph = parse(HEAD + COUNTED)
    first = next(graph.ops)
    graph.add(core.DimValue(dim=bound_count(graph)), before=first)
    with pytest.raises(VerifyError, match=r"I12.*dim K of core.dim_value .* has no value here"):
        graph.verify()


def bound_count(graph: Graph) -> object:
    (op,) = [op for op in graph.ops if isinstance(op, core.Nonzero)]
    return op.count


@pytest.mark.parametrize(
    "give",
    [
        lambda graph: bind_dims(graph, {"K": 3}),
        lambda graph: interpret(graph, [torch.ones(2, 4)], dims={"K": 8}),
    ],
)
def test_a_bound_dim_is_not_given(give: Callable[[Graph], object]) -> None:
    with pytest.raises(InputError, match=r"dim K .* cannot be set"):
        give(parse(HEAD + COUNTED))


def test_a_size_out_of_the_declared_range_is_refused() -> None:
    graph = parse((HEAD + COUNTED).replace("K in 0..*", "K in 0..2"))
    with pytest.raises(InputError, match=r"core.nonzero gives dim K the value 8"):
        interpret(graph, [torch.ones(2, 4)])


def test_figures_take_the_bound_of_a_size() -> None:
    graph = parse(HEAD + COUNTED)
    with pytest.raises(InputError, match=r"dim R of graph @main has no value"):
        plan_memory(graph)  # nothing limits the rounds of a loop
    assert default_dims(graph, {"B": 2, "R": 5}) == {"B": 2, "R": 5, "K": 8}
    assert plan_memory(graph, {"R": 5}).dims["K"] == 256
    rows = {row.name: row.cost for row in graph_cost(graph, {"B": 2, "R": 5}).rows}
    assert rows["k"].bytes_written == 8 * 2 * 8
    assert not rows["k"].exact
    assert rows["steps"].flops == 5 * 3 + 6  # an add and two elements a round, one test more
    graph.add(core.Cast(graph.outputs[0], out=TensorType(t.i32, graph.outputs[0].shaped.shape)), name="cast")
    for given, exact in (({"R": 5}, False), ({"R": 5, "K": 3}, True)):
        assert (
            next(row for row in graph_cost(graph, {"B": 2, **given}).rows if row.name == "cast").cost.exact
            is exact
        )
    tight = parse((HEAD + COUNTED).replace("K in 0..*", "K in 0..6").replace("R in 0..*", "R in 0..9"))
    assert default_dims(tight, {"B": 2}) == {"B": 2, "K": 6, "R": 9}


def test_unique_finds_what_numpy_finds() -> None:
    graph = Graph("main")
    count = graph.declare_dim("K", 0)
    x = graph.add_input("x", TensorType(t.i64, (7,)))
    op = graph.add(core.Unique(x, count=count, sorted=False))
    graph.set_outputs(op.results)
    values, first, place, counts = interpret(graph, [torch.tensor([5, 2, 5, 9, 2, 2, 0])])
    assert values.tolist() == [5, 2, 9, 0]
    assert first.tolist() == [0, 1, 3, 6]
    assert place.tolist() == [0, 1, 0, 2, 1, 1, 3]
    assert counts.tolist() == [2, 3, 1, 1]


def test_overlapping_boxes_are_dropped() -> None:
    graph = Graph("main")
    count = graph.declare_dim("K", 0)
    boxes = graph.add_input("boxes", TensorType(t.f32, (1, 3, 4)))
    scores = graph.add_input("scores", TensorType(t.f32, (1, 1, 3)))
    options = {"max_output_boxes_per_class": 3, "iou_threshold": 0.5}
    op = graph.add(nn.NonMaxSuppression(boxes, scores, count=count, **options))  # type: ignore[arg-type]
    graph.set_outputs(op.results)
    corners = torch.tensor([[[0.0, 0, 1, 1], [0, 0, 0.9, 1], [1, 1, 0, 0.7]]])  # the last from other corners
    points = torch.tensor([[[0.5, 0.9, 0.4]]])
    # 0 shares 0.9 of 1.0 with 1; 2 shares 0.9 * 0.3 of its 0.3 and of 0.93 in all
    assert interpret(graph, [corners, points])[0].tolist() == [[0, 0, 1], [0, 0, 2]]


def test_philox_gives_the_published_words() -> None:
    """Vectors of the authors' Random123 library."""
    for word, expected in (
        (0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (0xFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ):
        counter = (torch.tensor(word, dtype=torch.int64),) * 4
        assert tuple(map(int, philox(counter, (word, word)))) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_random_numbers_have_their_moments(dtype: torch.dtype) -> None:
    even, bell = (draw((40_000,), 11, dtype).double() for draw in (uniform, normal))
    assert even.min() >= 0
    assert even.max() < 1
    assert abs(even.mean() - 0.5) < 0.01
    assert abs(even.var() - 1 / 12) < 0.002
    assert abs(bell.mean()) < 0.02
    assert abs(bell.var() - 1) < 0.03
    assert abs(bell.pow(4).mean() - 3) < 0.2
    assert not torch.equal(uniform((8,), 11, dtype), uniform((8,), 12, dtype))
