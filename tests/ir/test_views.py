"""Views of a graph: diff, memory plan, networkx analyses, fixed dims."""

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.ir import Graph, InputError, TensorType, analysis, parse
from plait.ir.bind import bind_dims, default_dims
from plait.ir.diff import diff
from plait.ir.memory import plan_memory
from plait.ir.ops import core
from plait.ir.signature import shape_facts, solve_dims
from plait.ir.types import f32

DIAMOND = """plait.ir 1.0
dim B in 1..8
func @main(%x: f32[B,16]) -> f32[B,16] {
  %a = core.exp(%x) : f32[B,16]
  %left = core.sin(%a) : f32[B,16]
  %right = core.cos(%a) : f32[B,16]
  %deep = core.tan(%right) : f32[B,16]
  %sum = core.add(%left, %deep) : f32[B,16]
  %flat = core.reshape(%sum) : f32[16*B]
  %back = core.reshape(%flat) : f32[B,16]
  %out = core.neg(%back) : f32[B,16]
  return %out
}
"""


def names(ops: list) -> list[str]:
    return [op.name for op in ops]


def test_diff_names_each_change() -> None:
    before = parse(DIAMOND)
    text = DIAMOND.replace("core.cos(%a)", "core.sin(%a)").replace("dim B in 1..8", "dim B in 1..9")
    after = parse(text.replace("core.add(%left, %deep)", 'core.add(%deep, %left) {act="relu"}'))
    found = diff(before, after)
    text = str(found)
    assert "~ dim B: in 1..8 -> in 1..9" in text
    assert "~ %right core.sin: core.cos -> core.sin" in text
    assert '~ %sum core.add: act "none" -> "relu"; operands (%left, %deep) -> (%deep, %left)' in text
    assert found.op_counts == {"core.sin": 1, "core.cos": -1}
    assert not diff(before, parse(DIAMOND))
    assert str(diff(before, before)) == "graphs are equal"


def test_diff_of_added_and_removed_ops() -> None:
    before, after = parse(DIAMOND), parse(DIAMOND)
    neg = after.value("out").producer
    after.set_outputs([after.emit(core.Exp(neg.x), name="e")])
    after.erase(neg)
    found = diff(before, after)
    assert {(c.kind, c.name) for c in found.ops} == {("removed", "out"), ("added", "e")}
    assert found.to_dict()["equal"] is False


def test_topological_order_and_dominators() -> None:
    graph = parse(DIAMOND)
    order = names(analysis.topological_order(graph))
    assert order == ["a", "left", "right", "deep", "sum", "flat", "back", "out"]
    found = analysis.dominators(graph)
    assert found["sum"] == "a"
    assert found["deep"] == "right"
    assert found["a"] == "%x"
    assert found["%x"] == "entry"


def test_networkx_view() -> None:
    view = parse(DIAMOND).to_networkx()
    assert networkx.is_directed_acyclic_graph(view)
    assert view.nodes["sum"]["op"] == "core.add"
    assert [d["value"] for d in view.get_edge_data("left", "sum").values()] == ["left"]


def test_critical_path() -> None:
    path, total = analysis.critical_path(parse(DIAMOND), lambda op: 2.0 if op.name == "left" else 1.0)
    assert total == 7.0
    assert names(path) in (
        ["a", "left", "sum", "flat", "back", "out"],
        ["a", "right", "deep", "sum", "flat", "back", "out"],
    )
    assert analysis.critical_path(Graph(), lambda op: 1.0) == ([], 0.0)


def test_partition_orders_groups_and_rejects_cycles() -> None:
    graph = parse(DIAMOND)
    groups = analysis.partition(graph, lambda op: op.name in ("a", "left", "right", "deep"))
    assert [names(g) for g in groups] == [["a", "left", "right", "deep"], ["sum", "flat", "back", "out"]]
    with pytest.raises(InputError, match="depend on each other"):
        analysis.partition(graph, lambda op: op.name in ("a", "deep"))


def test_memory_plan_by_hand() -> None:
    plan = plan_memory(parse(DIAMOND), {"B": 1})
    # a, left, right, deep and sum take 64 bytes each; flat and back share sum; out is returned
    assert plan.peak_bytes == 3 * 64
    assert plan.arena_bytes == 3 * 64
    assert plan.peak_op in ("right", "deep", "sum")
    assert (plan.input_bytes, plan.output_bytes, plan.constant_bytes) == (64, 64, 0)
    shared = next(a for a in plan.allocations if "sum" in a.values)
    assert shared.values == ("sum", "flat", "back")
    assert plan_memory(parse(DIAMOND)).peak_bytes == 8 * 3 * 64


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 200)), min_size=1, max_size=25)
)
def test_memory_plan_never_overlaps(plan_of: list[tuple[int, int, int]]) -> None:
    g = Graph()
    x = g.add_input("x", TensorType(f32, (1,)))
    values = [x]
    for left, right, size in plan_of:
        a, b = values[left % len(values)], values[right % len(values)]
        joined = g.emit(core.Concat((a, b), axis=0))
        total = joined.shaped.shape[0]
        values.append(g.emit(core.Slice(joined, axes=(0,), starts=(0,), stops=(min(size, total),))))
    g.set_outputs([values[-1]])
    plan = plan_memory(g)
    assert plan.peak_bytes <= plan.arena_bytes
    for i, one in enumerate(plan.allocations):
        assert one.offset_bytes + one.size_bytes <= plan.arena_bytes
        for other in plan.allocations[i + 1 :]:
            alive_together = one.start <= other.end and other.start <= one.end
            apart = (
                one.offset_bytes + one.size_bytes <= other.offset_bytes
                or other.offset_bytes + other.size_bytes <= one.offset_bytes
            )
            assert apart or not alive_together


def test_memory_plan_needs_sizes() -> None:
    graph = parse(DIAMOND.replace("1..8", "1..*"))
    with pytest.raises(InputError, match="dim B of graph @main has no value"):
        plan_memory(graph)


def test_bind_dims() -> None:
    graph = bind_dims(parse(DIAMOND), {"B": 4})
    graph.verify()
    assert "B" not in graph.dims
    assert str(graph.value("flat").type) == "f32[64]"
    assert parse(str(graph)) == graph
    for values, message in (({"B": 9}, "dim B=9 is out of range"), ({"C": 1}, "has no dim C")):
        with pytest.raises(InputError, match=message):
            bind_dims(parse(DIAMOND), values)


def test_default_dims() -> None:
    graph = parse(DIAMOND)
    assert default_dims(graph, {"B": 2}) == {"B": 2}
    assert default_dims(graph, upper=True) == {"B": 8}
    with pytest.raises(InputError, match="give dims="):
        default_dims(graph)


def test_input_shapes_settle_dims() -> None:
    text = "plait.ir 1.0\ndim B in 1..8\nfunc @f(%x: f32[2*B+1,3], %y: f32[B]) -> f32[B] {\n  return %y\n}\n"
    graph = parse(text)

    def solve(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
        facts = [shape_facts(name, graph.value(name).shaped, shape) for name, shape in shapes.items()]
        return solve_dims(graph, [fact for found in facts for fact in found])

    assert solve({"x": (7, 3), "y": (3,)}) == {"B": 3}
    for shapes, message in (
        ({"x": (7, 3), "y": (4,)}, "input y: axis 0 is 4"),
        ({"x": (6, 3)}, "no whole B makes 6"),
        ({"x": (7, 3, 1)}, "has 3 axes"),
        ({"x": (19, 3)}, "dim B is 9 from axis 0 of input x"),
    ):
        with pytest.raises(InputError, match=message):
            solve(shapes)


def test_constants_count_in_memory() -> None:
    g = Graph()
    g.add_constant("w", np.zeros(100, np.float32))
    assert plan_memory(g).constant_bytes == 448  # 400 rounded up to a multiple of 64
