"""Half precision: which ops take halves, where casts stand, and that results stay near those of f32."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import plait
from plait.frontends.families.layers import ConvNormAct, TransformerBlock
from plait.frontends.families.resnet import BasicBlock
from plait.frontends.pytorch import lower_torch
from plait.ir import REGISTRY, Graph, Op, TensorType, parse
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import core, linalg, nn
from plait.passes import DEFAULT, PassError, optimize, why
from plait.passes.examples import body_lines, complete
from plait.passes.half_kinds import FOLLOWERS, KEPT, PRODUCTS
from plait.passes.precision import Precision

#: Distance from f32 that rounding to halves may cause, relative to the largest result.
TOLERANCE = {"f16": 4e-3, "bf16": 3e-2}


def halved(graph: Graph, **options: Any) -> Graph:
    """The optimised graph in halves."""
    return optimize(optimize(graph, DEFAULT)[0], [Precision(**options)])[0]


def rewritten(text: str, **options: Any) -> tuple[str, ...]:
    """The body of a compact graph after the pass."""
    graph, _ = optimize(
        complete(tuple(line.strip() for line in text.strip().splitlines())), [Precision(**options)]
    )
    assert parse(str(graph)) == graph
    return body_lines(graph)


def lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


def casts(graph: Graph) -> list[core.Cast]:
    return [op for op in graph.walk() if isinstance(op, core.Cast)]


def check_casts(graph: Graph, half: str) -> None:
    """Fail where a cast undoes another, is made twice, or is read by nobody."""
    seen: set[tuple[Any, Any]] = set()
    for op in casts(graph):
        assert (op.x, op.out) not in seen, f"{op.x} is cast to {op.out} twice"
        seen.add((op.x, op.out))
        assert op.result.users, f"{op.result} is read by nobody"
        inner = op.x.producer
        if isinstance(inner, core.Cast):
            kinds = {inner.x.shaped.dtype.name, op.out.dtype.name}
            assert kinds != {"f32"}
            assert kinds != {half}


# -- models --------------------------------------------------------------------------------
class Residual(torch.nn.Module):
    """The first stages of a small residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, 16, 3)
        self.blocks = torch.nn.Sequential(BasicBlock(16, 16), BasicBlock(16, 32, stride=2))
        self.head = torch.nn.Linear(32, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.blocks(self.stem(image)).mean((2, 3)))
        return found


class Encoder(torch.nn.Module):
    """A pre-norm transformer block with a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.block = TransformerBlock(32, 4)
        self.head = torch.nn.Linear(32, 10)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.head(self.block(tokens).mean(1)), -1)


MODELS: dict[str, tuple[type[torch.nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, (2, 3, 16, 16)),
    "transformer": (Encoder, (2, 9, 32)),
}


def lowered(name: str) -> tuple[Graph, torch.Tensor, np.ndarray]:
    """The graph of a model, one input, and the result of eager torch."""
    kind, shape = MODELS[name]
    torch.manual_seed(0)
    model = kind().eval()
    x = torch.randn(shape)
    with torch.no_grad():
        expected = model(x).numpy()
    return lower_torch(model, (x,), name=name), x, expected


def distance(found: Any, expected: np.ndarray) -> float:
    """Largest difference relative to the largest expected number."""
    return float(np.max(np.abs(np.asarray(found, np.float32) - expected)) / np.max(np.abs(expected)))


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_model(name: str, dtype: str) -> None:
    graph, x, expected = lowered(name)
    half = halved(graph, dtype=dtype)
    products = [op for op in half.walk() if isinstance(op, PRODUCTS)]
    assert products
    assert {op.result.shaped.dtype.name for op in products} == {dtype}
    assert all(c.shaped.dtype.name == dtype for c in half.constants.values() if c.users and c.shaped.rank > 1)
    assert [value.type for value in half.inputs] == [value.type for value in graph.inputs]
    assert [value.type for value in half.outputs] == [value.type for value in graph.outputs]
    assert all(op.loc.origins for op in half.walk())
    check_casts(half, dtype)
    assert distance(interpret(half, [x])[0], expected) < TOLERANCE[dtype]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"), [("residual", "f16"), ("residual", "bf16"), ("transformer", "f16")]
)
def test_compiled_for_the_cpu(name: str, dtype: str) -> None:
    graph, x, expected = lowered(name)
    executable = plait.compile(halved(graph, dtype=dtype), target="cpu", cache=False, isolate=False)
    assert distance(executable(x.numpy()), expected) < TOLERANCE[dtype]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_compiled_for_the_a100(name: str) -> None:
    graph, x, expected = lowered(name)
    executable = plait.compile(halved(graph), target="a100", cache=False, isolate=False)
    (argument,) = (value.name for value in graph.inputs)
    assert distance(executable.emulate(**{argument: x.numpy()}), expected) < TOLERANCE["f16"]
    assert not any(kernel.spills for kernel in executable.kernels)
    assert any(
        "plait_multiply_f16" in kernel.source.partition("__global__")[2] for kernel in executable.kernels
    )


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_graphs(graph_strategy: Any, data: st.DataObject) -> None:
    drawn = data.draw(graph_strategy)
    keep_io = data.draw(st.booleans())
    after, report = optimize(drawn.graph, [Precision(keep_io=keep_io)])
    changed = report.row("precision").status == "changed"
    assert changed == (str(after) != str(drawn.graph))
    assert parse(str(after)) == after
    check_new_casts(after, drawn.graph)
    inputs = dict(drawn.inputs)
    for value in after.inputs:
        inputs[value.name] = inputs[value.name].to(
            torch.float16 if value.shaped.dtype is t.f16 else inputs[value.name].dtype
        )
    for found, before in zip(interpret(after, inputs), drawn.graph.outputs, strict=True):
        wanted = "float16" if not keep_io and before.shaped.dtype is t.f32 else str(before.shaped.dtype.numpy)
        assert str(found.dtype) == f"torch.{wanted}"


def check_new_casts(after: Graph, before: Graph) -> None:
    """`check_casts` where the graph has no casts of its own."""
    if not casts(before):
        check_casts(after, "f16")


# -- kinds -----------------------------------------------------------------------------------
def test_an_op_is_in_one_table() -> None:
    counts = Counter([*PRODUCTS, *FOLLOWERS, *KEPT])
    assert set(counts.values()) == {1}
    assert all(REGISTRY[kind.opname] is kind for kind in counts)


def test_ops_between_halves_follow_and_others_stay() -> None:
    found = rewritten(
        """
        @w : f32[8,8]
        %x : f32[B,8]
        %r = nn.relu(%x) : f32[B,8]
        %y = nn.linear(%r, @w) : f32[B,8]
        %g = nn.gelu(%y) : f32[B,8]
        %p = nn.softmax(%g) {axis=1} : f32[B,8]
        %e = core.exp(%p) : f32[B,8]
        %s = core.add(%e, %p) : f32[B,8]
        return %s
        """
    )
    assert found == lines(
        """
        %r = nn.relu(%x) : f32[B,8]
        %r.f16 = core.cast(%r) : f16[B,8]
        %y = nn.linear(%r.f16, @w.f16) : f16[B,8]
        %g = nn.gelu(%y) : f16[B,8]
        %p = nn.softmax(%g) {axis=1} : f16[B,8]
        %p.f32 = core.cast(%p) : f32[B,8]
        %e = core.exp(%p.f32) : f32[B,8]
        %s = core.add(%e, %p.f32) : f32[B,8]
        return %s
        """
    )


def test_one_cast_serves_all_readers() -> None:
    found = rewritten(
        """
        @w : f32[8,8]
        @v : f32[8,8]
        %x : f32[B,8]
        %a = nn.linear(%x, @w) : f32[B,8]
        %b = nn.linear(%x, @v) : f32[B,8]
        %c = core.exp(%a) : f32[B,8]
        %d = core.log(%a) : f32[B,8]
        return %c, %d, %b
        """
    )
    assert found == lines(
        """
        %x.f16 = core.cast(%x) : f16[B,8]
        %a = nn.linear(%x.f16, @w.f16) : f16[B,8]
        %a.f32 = core.cast(%a) : f32[B,8]
        %b.f16 = nn.linear(%x.f16, @v.f16) : f16[B,8]
        %b = core.cast(%b.f16) : f32[B,8]
        %c = core.exp(%a.f32) : f32[B,8]
        %d = core.log(%a.f32) : f32[B,8]
        return %c, %d, %b
        """
    )


def test_fills_and_truth_values_come_in_the_type_that_is_wanted() -> None:
    found = rewritten(
        """
        @w : f32[8,8]
        %x : f32[B,8]
        %m : bool[B,8]
        %half = core.full() {value=0.5} : f32[]
        %f = core.cast(%m) : f32[B,8]
        %y = nn.linear(%x, @w) : f32[B,8]
        %z = core.mul(%y, %half) : f32[B,8]
        %s = core.mul(%z, %f) : f32[B,8]
        %k = core.argmax(%s) {axis=1} : i64[B]
        return %k
        """
    )
    assert found == lines(
        """
        %x.f16 = core.cast(%x) : f16[B,8]
        %half.f16 = core.full() {value=0.5} : f16[]
        %f.f16 = core.cast(%m) : f16[B,8]
        %y = nn.linear(%x.f16, @w.f16) : f16[B,8]
        %z = core.mul(%y, %half.f16) : f16[B,8]
        %s = core.mul(%z, %f.f16) : f16[B,8]
        %k = core.argmax(%s) {axis=1} : i64[B]
        return %k
        """
    )


def test_casts_of_the_graph_are_not_doubled() -> None:
    found = rewritten(
        """
        @w : f32[8,8]
        %x : f32[B,8]
        %h = core.cast(%x) : f16[B,8]
        %r = nn.relu(%h) : f16[B,8]
        %f = core.cast(%r) : f32[B,8]
        %y = nn.linear(%f, @w) : f32[B,8]
        %z = core.cast(%y) : f16[B,8]
        %q = nn.linear(%x, @w) : f32[B,8]
        %e = core.exp(%f) : f32[B,8]
        return %z, %q, %e
        """
    )
    assert found == lines(
        """
        %h = core.cast(%x) : f16[B,8]
        %r = nn.relu(%h) : f16[B,8]
        %f = core.cast(%r) : f32[B,8]
        %y = nn.linear(%r, @w.f16) : f16[B,8]
        %q.f16 = nn.linear(%h, @w.f16) : f16[B,8]
        %q = core.cast(%q.f16) : f32[B,8]
        %e = core.exp(%f) : f32[B,8]
        return %y, %q, %e
        """
    )


def test_short_sums_follow_and_long_ones_stay() -> None:
    text = """
        @w : f32[{n},8]
        %x : f32[B,8]
        %y = nn.linear(%x, @w) : f32[B,{n}]
        %s = core.sum(%y) {{axes=[1]}} : f32[B]
        return %s
        """
    assert "%s.f16 = core.sum(%y) {axes=[1]} : f16[B]" in rewritten(text.format(n=16))
    assert "%s = core.sum(%y.f32) {axes=[1]} : f32[B]" in rewritten(text.format(n=17))


# -- constants that halves cannot hold -----------------------------------------------------------
def with_constant(number: float, kind: type[Op]) -> Graph:
    """linear, and an op with a constant of one number behind it."""
    g = Graph()
    x = g.add_input("x", TensorType(t.f32, (4, 8)))
    w = g.add_constant("w", np.full((8, 8), 0.25, np.float32))
    c = g.add_constant("c", np.full((8,), number, np.float32))
    y = g.emit(nn.Linear(x, w), name="y", loc=plait.ir.Loc.at("y"))
    z = g.emit(kind(y, c), name="z", loc=plait.ir.Loc.at("z"))
    g.set_outputs([z])
    return g


@pytest.mark.parametrize(
    ("number", "dtype", "fits"),
    [
        (-1e9, "f16", False),
        (-1e9, "bf16", True),
        (65504.0, "f16", True),
        (65519.0, "f16", True),  # rounds to 65504
        (65520.0, "f16", False),
        (-np.inf, "f16", True),
        (3.4e38, "bf16", False),  # rounds to infinity
        (1e-12, "f16", False),
        (1e-12, "bf16", True),
        (0.0, "f16", True),
    ],
)
def test_constants(number: float, dtype: str, fits: bool) -> None:
    after, report = optimize(with_constant(number, core.Add), [Precision(dtype=dtype)])
    op = next(op for op in after.ops if isinstance(op, core.Add))
    assert (op.result.shaped.dtype.name == dtype) == fits
    remarks = [text for text in report.row("precision").remarks if "%z stays in f32: @c holds" in text]
    assert bool(remarks) != fits


def test_attributes_beyond_the_range() -> None:
    text = """
        @w : f32[8,8]
        %x : f32[B,8]
        %y = nn.linear(%x, @w) : f32[B,8]
        %p = core.pad(%y) {before=[0,0], after=[0,1], value=-1000000000.0} : f32[B,9]
        %c = core.clamp(%y) {low=-1000000000.0} : f32[B,8]
        return %p, %c
        """
    found = rewritten(text)
    assert any(line.startswith("%p = core.pad(%y.f32)") for line in found)
    assert any(line.startswith("%c.f16 = core.clamp(%y)") for line in found)


# -- options --------------------------------------------------------------------------------------
@pytest.mark.parametrize("pattern", ["op:linalg.*", "%p", "from:%p to:%p", "p"])
def test_patterns_keep_ops(pattern: str) -> None:
    text = """
        %x : f32[B,4,8]
        %y : f32[B,8,4]
        %p = linalg.matmul(%x, %y) : f32[B,4,4]
        %q = nn.attention(%x, %x, %x) : f32[B,4,8]
        return %p, %q
        """
    found = rewritten(text, keep=(pattern,))
    assert "%p = linalg.matmul(%x, %y) : f32[B,4,4]" in found
    assert "%q.f16 = nn.attention(%x.f16, %x.f16, %x.f16) : f16[B,4,8]" in found


def test_a_pattern_of_a_module_path() -> None:
    graph, _, _ = lowered("transformer")
    after = halved(graph, keep=("head",))
    kinds = {
        op.loc.origins[0].path: op.result.shaped.dtype.name
        for op in after.walk()
        if isinstance(op, nn.Linear)
    }
    assert kinds.pop("head") == "f32"
    assert set(kinds.values()) == {"f16"}


def test_a_pattern_that_matches_nothing() -> None:
    graph, _, _ = lowered("residual")
    with pytest.raises(PassError, match=r"no op has a module path like 'haed'; did you mean 'head'"):
        optimize(graph, 'precision{keep=["haed"]}', bundle_dir=None)
    with pytest.raises(PassError, match=r"no op is a nn.conv2; did you mean 'nn.conv2d'"):
        optimize(graph, "precision{keep=[op:nn.conv2]}", bundle_dir=None)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("precision", Precision()),
        ("precision{dtype=bf16,keep_io=false}", Precision("bf16", keep_io=False)),
        (
            'precision{keep=["op:nn.linear","from:%a to:%b"]}',
            Precision(keep=("op:nn.linear", "from:%a to:%b")),
        ),
    ],
)
def test_options_as_text(text: str, options: Precision) -> None:
    (parsed,) = plait.passes.parse_pipeline(text)
    assert parsed == options
    assert plait.passes.parse_pipeline(str(options)) == (options,)


def test_inputs_and_outputs_in_halves() -> None:
    found = rewritten(
        """
        @w : f32[8,8]
        %x : f32[B,8]
        %i : i64[B]
        %y = nn.linear(%x, @w) : f32[B,8]
        %e = core.exp(%x) : f32[B,8]
        return %y, %e, %x, %i
        """,
        keep_io=False,
    )
    assert found == lines(
        """
        %x.f32 = core.cast(%x) : f32[B,8]
        %y = nn.linear(%x, @w.f16) : f16[B,8]
        %e = core.exp(%x.f32) : f32[B,8]
        %e.f16 = core.cast(%e) : f16[B,8]
        return %y, %e.f16, %x, %i
        """
    )


# -- the rest -------------------------------------------------------------------------------------
def test_regions_stay_in_f32() -> None:
    text = """
        @w : f32[8,8]
        @v : f32[8,8]
        %x : f32[5,4,8]
        %s : f32[4,8]
        %y = nn.linear(%x, @w) : f32[5,4,8]
        %u = nn.linear(%s, @w) : f32[4,8]
        %o, %n = core.scan(%y, %s) : f32[5,4,8], f32[4,8] do (%a: f32[4,8], %b: f32[4,8]) {
          %m = nn.linear(%a, @v) : f32[4,8]
          %c = core.add(%m, %u) : f32[4,8]
          %d = core.add(%c, %b) : f32[4,8]
          yield %d, %c
        }
        %z = nn.linear(%o, @w) : f32[5,4,8]
        return %z, %n
        """
    graph = complete(tuple(line[8:] for line in text.strip("\n").splitlines() if line.strip()))
    after, report = optimize(graph, [Precision()])
    (scan,) = (op for op in after.ops if isinstance(op, core.Scan))
    assert {v.shaped.dtype.name for op in scan.body for v in (*op.operands, *op.results)} == {"f32"}
    assert "%u.f32" in {str(value) for value in scan.body.captured()}
    assert any("1 core.scan in f32" in remark for remark in report.row("precision").remarks)
    random = np.random.default_rng(0)
    inputs = [random.normal(size=(5, 4, 8)).astype(np.float32), random.normal(size=(4, 8)).astype(np.float32)]
    for found, expected in zip(interpret(after, inputs), interpret(graph, inputs), strict=True):
        assert distance(found, expected.numpy()) < TOLERANCE["f16"]


def test_an_op_that_takes_no_halves_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plait.passes.precision.reason_to_keep", lambda op: None)
    g = Graph()
    x = g.add_input("x", TensorType(t.f32, (4,)))
    g.set_outputs([g.emit(core.Complex(x, x), name="c", loc=plait.ir.Loc.at("c"))])
    after, report = optimize(g, [Precision()])
    assert not report.changed
    assert str(after) == str(g)


def test_remarks_and_reasons() -> None:
    graph, _, _ = lowered("transformer")
    graph = optimize(graph, DEFAULT)[0]
    _, report = optimize(graph, [Precision()])
    row = report.row("precision")
    assert any(remark.startswith("2 nn.layer_norm in f32: its sums of squares") for remark in row.remarks)
    assert row.rules["ops in f16"] == row.rewrites > 0
    head = next(op for op in graph.walk() if isinstance(op, nn.Linear))
    norm = next(op for op in graph.walk() if isinstance(op, nn.LayerNorm))
    assert "computes" in why(graph, Precision(), head.name)
    assert "sums of squares" in why(graph, Precision(), norm.name)


def test_a_graph_in_other_types_stays() -> None:
    g = Graph()
    x = g.add_input("x", TensorType(t.f64, (4, 4)))
    g.set_outputs([g.emit(linalg.Matmul(x, x), name="y", loc=plait.ir.Loc.at("y"))])
    after, report = optimize(g, [Precision()])
    assert not report.changed
    assert after == g


def test_weights_take_half_the_bytes() -> None:
    graph, _, _ = lowered("residual")
    before, after = optimize(graph, DEFAULT)[0], halved(graph)
    sizes = [sum(c.shaped.bytes_at({}) for c in g.constants.values()) for g in (before, after)]
    assert sizes[1] * 2 == sizes[0]
    assert {str(c.data.dtype) for c in after.constants.values()} == {"float16"}
    assert {c.data.dtype for c in halved(graph, dtype="bf16").constants.values()} == {
        np.dtype(ml_dtypes.bfloat16)
    }
