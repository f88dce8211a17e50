"""The interpreter: control flow, graphs, quantised numbers, gradients, dims, errors and memory."""

import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from plait.ir import Graph, InputError, QuantType, TensorType, Value, parse, parse_type
from plait.ir.interpret import interpret
from plait.ir.ops import core, message, nn, quant
from plait.ir.reference import EdgeList
from plait.ir.types import f32


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(7)


# -- control flow -------------------------------------------------------------------------
LEAKY = """plait.ir 1.0
dim T in 0..64
dim B in 1..64
const @w : f32[6,4] = blob("00")
func @main(%events: spike<0.2>[T,B,4], %v0: f32[B,6]) -> spike[T,B,6], f32[B,6] {
  %s1, %v1 = core.scan(%events, %v0) : spike[T,B,6], f32[B,6] do (%e: spike<0.2>[B,4], %v: f32[B,6]) {
    %i = spike.linear(%e, @w) : f32[B,6]
    %s, %vn = spike.lif(%i, %v) {tau=0.02, dt=0.005, v_th=0.5, reset="subtract"} : spike[B,6], f32[B,6]
    yield %s, %vn
  }
  return %s1, %v1
}
"""


def test_scan_equals_a_python_loop() -> None:
    w = np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)
    g = parse(LEAKY, constants={"w": w})
    events, v = torch.rand(9, 2, 4) < 0.5, torch.zeros(2, 6)
    spikes, last = interpret(g, [events, v])
    expected = []
    for step in range(9):
        v = v + 0.25 * (events[step].float() @ torch.from_numpy(w).T - v)
        fired = v >= 0.5
        v = torch.where(fired, v - 0.5, v)
        expected.append(fired)
    assert spikes.dtype == torch.bool
    assert 0 < int(spikes.sum()) < spikes.numel()
    assert torch.equal(spikes, torch.stack(expected))
    torch.testing.assert_close(last, v)


def test_scan_of_no_steps() -> None:
    g = parse(LEAKY, constants={"w": np.ones((6, 4), np.float32)})
    v = torch.randn(2, 6)
    spikes, last = interpret(g, [torch.zeros(0, 2, 4, dtype=torch.bool), v])
    assert spikes.shape == (0, 2, 6)
    assert torch.equal(last, v)


COLLATZ = """plait.ir 1.0
func @main(%n: i64[]) -> i64[], i64[] {
  %zero = core.full() {value=0} : i64[]
  %last, %steps = core.while(%n, %zero) : i64[], i64[] condition (%a: i64[], %b: i64[]) {
    %one = core.full() {value=1} : i64[]
    %more = core.ne(%a, %one) : bool[]
    yield %more
  } do (%c: i64[], %d: i64[]) {
    %two = core.full() {value=2} : i64[]
    %unit = core.full() {value=1} : i64[]
    %bit = core.remainder(%c, %two) : i64[]
    %odd = core.eq(%bit, %unit) : bool[]
    %next = core.cond(%odd, %c) : i64[] then (%p: i64[]) {
      %three = core.full() {value=3} : i64[]
      %p3 = core.mul(%p, %three) : i64[]
      %up = core.add(%p3, %unit) : i64[]
      yield %up
    } otherwise (%q: i64[]) {
      %half = core.div(%q, %two) : i64[]
      yield %half
    }
    %count = core.add(%d, %unit) : i64[]
    yield %next, %count
  }
  return %last, %steps
}
"""


def test_while_and_cond_run_their_regions() -> None:
    last, steps = interpret(parse(COLLATZ), [torch.tensor(27)])
    assert (int(last), int(steps)) == (1, 111)


# -- message passing -------------------------------------------------------------------------
@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min"])
def test_aggregate_equals_a_loop_over_edges(reduce: str) -> None:
    src, dst = (
        torch.tensor([0, 1, 2, 0, 3], dtype=torch.int32),
        torch.tensor([1, 1, 0, 3, 3], dtype=torch.int32),
    )
    x, weight = torch.randn(4, 3, 2), torch.randn(5, 3)
    g = Graph()
    topology = g.add_input("g", parse_type("graph<4, 5, csr, i32>"))
    values = [g.add_input("x", TensorType(f32, (4, 3, 2))), g.add_input("w", TensorType(f32, (5, 3)))]
    g.set_outputs([g.emit(message.Aggregate(topology, *values, reduce=reduce))])  # type: ignore[arg-type]
    (actual,) = interpret(g, {"g": (src, dst), "x": x, "w": weight})
    functions: dict[str, Any] = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax, "min": torch.amin}
    for node in range(4):
        rows = [x[src[e]] * weight[e][:, None] for e in range(5) if dst[e] == node]
        expected = functions[reduce](torch.stack(rows), dim=0) if rows else torch.zeros(3, 2)
        torch.testing.assert_close(actual[node], expected)


def test_edge_softmax_sums_to_one_at_each_node() -> None:
    g = Graph()
    topology = g.add_input("g", parse_type("graph<3, 4, coo, i64>"))
    score = g.add_input("s", TensorType(f32, (4, 2)))
    g.set_outputs([g.emit(message.EdgeSoftmax(topology, score, group="dst"))])
    edges = EdgeList(torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 1, 2]))
    s = torch.randn(4, 2) * 50
    (alpha,) = interpret(g, [edges, s])
    torch.testing.assert_close(alpha[:3], s[:3].softmax(0))
    torch.testing.assert_close(alpha[3], torch.ones(2))


def test_edges_outside_the_nodes_are_refused() -> None:
    g = Graph()
    topology = g.add_input("g", parse_type("graph<3, 2, coo, i64>"))
    g.set_outputs([g.emit(message.Degree(topology, side="dst"))])
    with pytest.raises(InputError, match=r"input g: an edge names node 3\n.*nodes 0..2"):
        interpret(g, [(torch.tensor([0, 3]), torch.tensor([0, 1]))])


# -- quantisation -------------------------------------------------------------------------------
def quantised_conv(per_axis: bool, out: QuantType | None) -> tuple[Graph, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    w = generator.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8)
    b = generator.integers(-1000, 1000, 4).astype(np.int32)
    scale = generator.uniform(0.01, 0.05, 4).astype(np.float32) if per_axis else np.full(4, 0.02, np.float32)
    g = Graph()
    x = g.add_input("x", parse_type("qu8<0.05, zp=120>[2,3,6,6]"))
    g.add_constant("s", scale)
    kind = parse_type("qi8<@s, axis=0>[4,3,3,3]" if per_axis else "qi8<0.02>[4,3,3,3]")
    wv, bv = g.add_constant("w", w, kind), g.add_constant("b", b)
    g.set_outputs([g.emit(nn.Conv2d(x, wv, bv, pad=(1, 1), act="relu" if out else "none", out=out))])
    g.verify()
    return g, w, b, scale


def test_quantised_conv_accumulates_exactly() -> None:
    g, w, b, _ = quantised_conv(False, None)
    stored = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (2, 3, 6, 6)).astype(np.uint8))
    (actual,) = interpret(g, [stored])
    padded = np.pad(stored.numpy().astype(np.int64) - 120, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    expected = np.einsum("nchwij,ocij->nohw", windows, w.astype(np.int64)) + b[None, :, None, None]
    assert actual.dtype == torch.int32
    assert np.array_equal(actual.numpy(), expected)


@pytest.mark.parametrize("per_axis", [False, True])
def test_quantised_conv_requantises(per_axis: bool) -> None:
    out = parse_type("qi8<0.4, zp=-100>[2,4,6,6]")
    assert isinstance(out, QuantType)
    g, w, b, scale = quantised_conv(per_axis, out)
    stored = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (2, 3, 6, 6)).astype(np.uint8))
    (actual,) = interpret(g, [stored])
    scales = (
        torch.from_numpy(scale.astype(np.float64))
        if per_axis
        else torch.full((4,), 0.02, dtype=torch.float64)
    )
    total = F.conv2d(
        stored.double() - 120, torch.from_numpy(w).double(), torch.from_numpy(b).double(), padding=1
    )
    real = (total * (0.05 * scales)[:, None, None]).relu()
    expected = ((real / 0.4).round() - 100).clamp(-128, 127).to(torch.int8)
    assert torch.equal(actual, expected)
    assert len(expected.unique()) > 20


def test_linear_with_groups_of_scales() -> None:
    generator = np.random.default_rng(6)
    w = generator.integers(-8, 8, (5, 8)).astype(np.int8)
    scale = generator.uniform(0.1, 0.5, (5, 2)).astype(np.float32)
    g = Graph()
    x = g.add_input("x", parse_type("qi8<0.5>[3,8]"))
    g.add_constant("s", scale)
    wv = g.add_constant("w", w, parse_type("qi4<@s, axis=1, group=4>[5,8]"))
    g.set_outputs([g.emit(nn.Linear(x, wv, out=parse_type("qi8<1.0>[3,5]")))])
    g.verify()
    stored = generator.integers(-20, 20, (3, 8)).astype(np.int8)
    (actual,) = interpret(g, [stored])
    real = (0.5 * stored) @ (w * np.repeat(scale.astype(np.float64), 4, axis=1)).T
    assert np.array_equal(actual.numpy(), np.clip(np.round(real), -128, 127).astype(np.int8))


def test_quantize_rounds_halves_to_even_and_saturates() -> None:
    x = torch.tensor([0.25, 0.75, 1.25, -0.25, 99.0, -99.0])
    g = Graph()
    value = g.add_input("x", TensorType(f32, (6,)))
    g.set_outputs([g.emit(quant.Quantize(value, out=QuantType(8, True, 0.5, (6,), 3)))])
    (stored,) = interpret(g, [x])
    assert stored.tolist() == [3, 5, 5, 3, 127, -128]


def test_quantising_back_and_forth_is_fake_quant() -> None:
    x = torch.randn(100) * 3
    g = Graph()
    value = g.add_input("x", TensorType(f32, (100,)))
    stored = g.emit(quant.Quantize(value, out=QuantType(4, False, 0.3, (100,), 7)))
    fake = g.emit(quant.FakeQuant(value, scale=0.3, zero_point=7, bits=4, signed=False))
    g.set_outputs([g.emit(quant.Dequantize(stored)), fake])
    back, faked = interpret(g, [x])
    torch.testing.assert_close(back, faked)
    assert len(faked.unique()) == 16


# -- gradients ----------------------------------------------------------------------------------
def test_gradient_through_conv_and_fake_quant() -> None:
    g = Graph()
    x = g.add_input("x", TensorType(f32, (2, 3, 6, 6)))
    w = g.add_constant("w", np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32))
    faked = g.emit(quant.FakeQuant(w, scale=0.01))
    g.set_outputs([g.emit(nn.Conv2d(x, faked, act="relu"))])
    image = torch.randn(2, 3, 6, 6, requires_grad=True)
    weight = torch.from_numpy(w.data.copy()).requires_grad_()
    (y,) = interpret(g, [image], constants={"w": weight})
    y.square().sum().backward()
    # the straight-through estimate: the gradient by the rounded weight, where it is in range
    grid = ((weight.detach() / 0.01).round().clamp(-128, 127) * 0.01).requires_grad_()
    plain = image.detach().clone().requires_grad_()
    F.conv2d(plain, grid).relu().square().sum().backward()
    inside = ((weight / 0.01).round() >= -128) & ((weight / 0.01).round() <= 127)
    assert 0 < int(inside.sum()) < inside.numel()
    assert image.grad is not None
    assert plain.grad is not None
    assert weight.grad is not None
    assert grid.grad is not None
    torch.testing.assert_close(image.grad, plain.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(weight.grad, torch.where(inside, grid.grad, 0), rtol=1e-4, atol=1e-4)


# -- inputs and dims ------------------------------------------------------------------------------
def joined() -> Graph:
    """x [B,4] and y [2*B+1,4] joined along axis 0, plus a size that no input shows directly."""
    g = Graph()
    batch = g.declare_dim("B", 1, 8)
    x = g.add_input("x", TensorType(f32, (batch, 4)))
    y = g.add_input("y", TensorType(f32, (2 * batch + 1, 4)))
    g.set_outputs([g.emit(core.Concat((x, y), axis=0)), g.emit(core.DimValue(dim=3 * batch))])
    return g


def test_inputs_by_position_and_name_from_torch_and_numpy() -> None:
    x, y = np.ones((2, 4), np.float32), torch.zeros(5, 4)
    ways: list[Any] = [[x, y], (x, y), {"y": y, "x": x}, {"%x": x, "%y": y}]
    for inputs in ways:
        whole, size = interpret(joined(), inputs)
        assert whole.shape == (7, 4)
        assert int(size) == 6


def test_a_linear_expression_is_solved() -> None:
    g = Graph()
    batch = g.declare_dim("B", 1, 8)
    y = g.add_input("y", TensorType(f32, (2 * batch + 1,)))
    g.set_outputs([y, g.emit(core.DimValue(dim=batch))])
    assert int(interpret(g, [torch.zeros(7)])[1]) == 3
    with pytest.raises(InputError, match="which no whole B makes 6"):
        interpret(g, [torch.zeros(6)])


def test_a_dim_that_no_axis_settles_is_asked_for() -> None:
    g = Graph()
    height = g.declare_dim("H", 1, 64)
    x = g.add_input("x", TensorType(f32, (height // 2,)))
    g.set_outputs([x, g.emit(core.DimValue(dim=height))])
    with pytest.raises(InputError, match=r"does not settle H(.|\n)*give dims=\{'H': ...\}"):
        interpret(g, [torch.zeros(3)])
    assert int(interpret(g, [torch.zeros(3)], dims={"H": 7})[1]) == 7
    with pytest.raises(InputError, match=r"\(H//2\) = 4 there; H is 8 from the given dims"):
        interpret(g, [torch.zeros(3)], dims={"H": 8})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([torch.zeros(2, 4), torch.zeros(6, 4)], r"input y: axis 0 is 6(.|\n)*2\*B\+1 = 5 there; B is 2"),
        ([torch.zeros(9, 4), torch.zeros(19, 4)], r"dim B is 9 from axis 0 of input x(.|\n)*dim B in 1..8"),
        ([torch.zeros(2, 3), torch.zeros(5, 4)], r"input x: axis 1 is 3(.|\n)*has 4 there"),
        ([torch.zeros(2, 4, 1), torch.zeros(5, 4)], r"input x: shape \[2, 4, 1\] has 3 axes"),
        (
            [torch.zeros(2, 4).double(), torch.zeros(5, 4)],
            r"input x: the tensor is float64\[2, 4\](.|\n)*f32\[B,4\]",
        ),
        ([torch.zeros(2, 4)], r"1 inputs were given(.|\n)*it takes 2: x: f32\[B,4\], y"),
        ({"x": torch.zeros(2, 4)}, "input y is missing"),
        ({"x": torch.zeros(2, 4), "yy": torch.zeros(5, 4)}, "no input yy; did you mean 'y'"),
        ([[1.0], torch.zeros(5, 4)], "input x: a list was given"),
        (torch.zeros(2, 4), "inputs are one tensor"),
    ],
)
def test_wrong_inputs_are_refused(inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        interpret(joined(), inputs)


def test_a_slice_that_leaves_its_operand_at_run_time_is_refused() -> None:
    g = Graph()
    batch = g.declare_dim("B", 1, 64)
    x = g.add_input("x", TensorType(f32, (batch,)))
    g.set_outputs([g.emit(core.Slice(x, axes=(0,), starts=(0,), stops=(4,)))])
    assert interpret(g, [torch.zeros(5)])[0].shape == (4,)
    with pytest.raises(InputError, match="slice 0..4 leaves axis 0 of %x, which has 3 elements"):
        interpret(g, [torch.zeros(3)])


def test_constants_without_data_are_named() -> None:
    with pytest.raises(InputError, match="constant @w has no data"):
        interpret(parse(LEAKY), [torch.zeros(1, 2, 4, dtype=torch.bool), torch.zeros(2, 6)])


def test_bfloat16_from_numpy() -> None:
    x = np.arange(4).astype(ml_dtypes.bfloat16)
    g = Graph()
    value = g.add_input("x", parse_type("bf16[4]"))
    g.set_outputs([g.emit(core.Add(value, g.add_constant("c", x)))])
    (y,) = interpret(g, [x])
    assert y.dtype == torch.bfloat16
    assert y.tolist() == [0.0, 2.0, 4.0, 6.0]


# -- observation and memory ------------------------------------------------------------------------
def chain(length: int) -> Graph:
    g = Graph()
    value: Value = g.add_input("x", TensorType(f32, (1000,)))
    for step in range(length):
        value = g.emit(core.Exp(value) if step % 2 else core.Neg(value), name=f"v{step}")
    g.set_outputs([value])
    return g


def test_observe_sees_every_value_in_order() -> None:
    seen: list[str] = []
    interpret(chain(5), [torch.zeros(1000)], observe=lambda value, tensor: seen.append(value.name))
    assert seen == ["v0", "v1", "v2", "v3", "v4"]
    inner: list[str] = []
    g = parse(LEAKY, constants={"w": np.ones((6, 4), np.float32)})
    inputs = [torch.zeros(2, 1, 4, dtype=torch.bool), torch.zeros(1, 6)]
    interpret(g, inputs, observe=lambda value, tensor: inner.append(value.name))
    assert inner == ["i", "s", "vn", "i", "s", "vn", "s1", "v1"]


def test_tensors_are_freed_after_their_last_use() -> None:
    alive: list[weakref.ref] = []
    most = 0

    def watch(value: Value, tensor: torch.Tensor) -> None:
        nonlocal most
        alive.append(weakref.ref(tensor))
        most = max(most, sum(reference() is not None for reference in alive))

    interpret(chain(12), [torch.zeros(1000)], observe=watch)
    assert len(alive) == 12
    assert most == 2  # an op's operand and its result


def test_an_unused_result_is_freed_too() -> None:
    g = Graph()
    x = g.add_input("x", TensorType(f32, (10,)))
    g.add(core.Sort(x), names=["sorted", "order"])
    g.set_outputs([g.emit(core.Neg(x))])
    kept: list[weakref.ref] = []
    live: list[int] = []

    def watch(value: Value, tensor: torch.Tensor) -> None:
        kept.append(weakref.ref(tensor))
        live.append(sum(reference() is not None for reference in kept))

    interpret(g, [torch.zeros(10)], observe=watch)
    assert live == [1, 2, 1]
