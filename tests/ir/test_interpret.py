"""The interpreter: numbers against torch.nn.functional, dims, errors, control flow, gradients and memory."""

import gc
import weakref
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from plait.ir import Graph, InputError, Op, QuantType, TensorType, Value, parse, parse_type
from plait.ir.interpret import interpret
from plait.ir.ops import core, linalg, message, nn, quant
from plait.ir.reference import EdgeList
from plait.ir.types import f32


def run(build: Callable[..., Op], *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Results of one op on f32, i64 or bool tensors."""
    names = {torch.float32: "f32", torch.int64: "i64", torch.bool: "bool", torch.int32: "i32"}
    g = Graph()
    values = [
        g.add_input(f"x{i}", parse_type(f"{names[x.dtype]}[{','.join(map(str, x.shape))}]"))
        for i, x in enumerate(inputs)
    ]
    g.set_outputs(g.add(build(*values)).results)
    g.verify()
    return interpret(g, list(inputs))


def check(build: Callable[..., Op], expected: torch.Tensor, *inputs: torch.Tensor) -> None:
    (actual,) = run(build, *inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(7)


# -- convolutions -------------------------------------------------------------------
def test_conv2d_matches_torch() -> None:
    x, w, b = torch.randn(2, 4, 9, 8), torch.randn(6, 2, 3, 3), torch.randn(6)
    expected = F.silu(F.conv2d(x, w, b, (2, 1), (1, 2), (1, 2), 2))
    check(
        lambda x, w, b: nn.Conv2d(x, w, b, stride=(2, 1), pad=(1, 2), dilation=(1, 2), groups=2, act="silu"),
        expected,
        x,
        w,
        b,
    )


def test_conv2d_uneven_pads() -> None:
    x, w = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    expected = F.conv2d(F.pad(x, (1, 2, 0, 3)), w)
    check(lambda x, w: nn.Conv2d(x, w, pad=(0, 1, 3, 2)), expected, x, w)


def test_conv1d_and_conv3d_uneven_pads() -> None:
    x, w = torch.randn(2, 3, 8), torch.randn(4, 3, 3)
    check(lambda x, w: nn.Conv1d(x, w, pad=(2, 0)), F.conv1d(F.pad(x, (2, 0)), w), x, w)
    x, w = torch.randn(1, 2, 5, 5, 5), torch.randn(3, 2, 2, 2, 2)
    expected = F.conv3d(F.pad(x, (0, 2, 1, 0, 0, 1)), w)
    check(lambda x, w: nn.Conv3d(x, w, pad=(0, 1, 0, 1, 0, 2)), expected, x, w)


@pytest.mark.parametrize(("pad", "output_pad"), [((1, 1), (1, 1)), ((0, 2), (0, 1)), ((0, 0), (1, 0))])
def test_conv_transpose2d_matches_torch(pad: tuple[int, int], output_pad: tuple[int, int]) -> None:
    x, w, b = torch.randn(2, 4, 5, 6), torch.randn(4, 3, 3, 3), torch.randn(6)
    expected = F.conv_transpose2d(x, w, b, 2, pad, output_pad, groups=2)
    check(
        lambda x, w, b: nn.ConvTranspose2d(x, w, b, stride=(2, 2), pad=pad, output_pad=output_pad, groups=2),
        expected,
        x,
        w,
        b,
    )


def test_conv_transpose2d_is_the_adjoint_under_uneven_pads() -> None:
    """<conv(x), y> == <x, conv_transpose(y)> for the same weight and pads."""
    x, w = torch.randn(1, 2, 7, 9), torch.randn(3, 2, 3, 3)
    pads = (2, 0, 1, 2)
    (forward,) = run(lambda x, w: nn.Conv2d(x, w, stride=(2, 2), pad=pads), x, w)
    y = torch.randn_like(forward)
    extra = (0, 0)
    (back,) = run(lambda y, w: nn.ConvTranspose2d(y, w, stride=(2, 2), pad=pads, output_pad=extra), y, w)
    x = x[:, :, : back.shape[2], : back.shape[3]]
    (forward,) = run(lambda x, w: nn.Conv2d(x, w, stride=(2, 2), pad=pads), x, w)
    torch.testing.assert_close((forward * y).sum(), (x * back).sum(), rtol=1e-4, atol=1e-4)


# -- pooling and resampling ---------------------------------------------------------------
@pytest.mark.parametrize("size", range(5, 12))
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(3, 2, 1), (2, 3, 0), (3, 3, 1), (2, 2, 0), (1, 2, 0)])
def test_pools_with_ceil_match_torch(size: int, kernel: int, stride: int, pad: int) -> None:
    x = torch.randn(2, 3, size, size + 1)
    shape = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "pad": (pad,) * 2}
    for ceil in (False, True):
        expected = F.max_pool2d(x, kernel, stride, pad, ceil_mode=ceil)
        check(lambda x, ceil=ceil: nn.MaxPool2d(x, ceil=ceil, **shape), expected, x)
        for count in (False, True):
            expected = F.avg_pool2d(x, kernel, stride, pad, ceil_mode=ceil, count_include_pad=count)
            check(
                lambda x, ceil=ceil, count=count: nn.AvgPool2d(x, ceil=ceil, count_pad=count, **shape),
                expected,
                x,
            )


def test_max_pool2d_pads_never_win() -> None:
    x = -torch.rand(1, 1, 4, 4) - 1
    expected = F.max_pool2d(F.pad(x, (1, 0, 0, 2), value=-torch.inf), 3, 1, dilation=1)
    check(lambda x: nn.MaxPool2d(x, kernel=(3, 3), pad=(0, 1, 2, 0)), expected, x)


@pytest.mark.parametrize(
    ("mode", "coordinates", "options"),
    [
        ("nearest", "asymmetric", {"mode": "nearest"}),
        ("nearest", "half_pixel", {"mode": "nearest-exact"}),
        ("linear", "half_pixel", {"mode": "bilinear", "align_corners": False}),
        ("linear", "align_corners", {"mode": "bilinear", "align_corners": True}),
        ("cubic", "half_pixel", {"mode": "bicubic", "align_corners": False}),
        ("cubic", "align_corners", {"mode": "bicubic", "align_corners": True}),
    ],
)
@pytest.mark.parametrize("size", [(12, 3), (7, 11), (5, 1)])
def test_resize2d_matches_torch(mode: str, coordinates: str, options: dict, size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 5, 6)
    expected = F.interpolate(x, size, **options)
    check(lambda x: nn.Resize2d(x, size=size, mode=mode, coordinates=coordinates), expected, x)


def test_adaptive_avg_pool2d() -> None:
    x = torch.randn(2, 3, 7, 5)
    check(lambda x: nn.AdaptiveAvgPool2d(x, size=(3, 2)), F.adaptive_avg_pool2d(x, (3, 2)), x)


# -- norms ------------------------------------------------------------------------------
def test_norms_match_torch() -> None:
    x, s, b = torch.randn(2, 6, 4, 5), torch.randn(6), torch.randn(6)
    mean, variance = torch.randn(6), torch.rand(6)
    check(
        lambda x, m, v, s, b: nn.BatchNorm(x, m, v, s, b, epsilon=1e-3),
        F.batch_norm(x, mean, variance, s, b, eps=1e-3),
        x,
        mean,
        variance,
        s,
        b,
    )
    check(lambda x, s, b: nn.GroupNorm(x, s, b, groups=3), F.group_norm(x, 3, s, b), x, s, b)
    check(lambda x, s, b: nn.InstanceNorm(x, s, b), F.instance_norm(x, weight=s, bias=b), x, s, b)
    check(lambda x: nn.LocalResponseNorm(x, size=5), F.local_response_norm(x, 5), x)
    scale = torch.randn(4, 5)
    check(lambda x, s: nn.LayerNorm(x, s, axes=2), F.layer_norm(x, (4, 5), scale), x, scale)
    check(lambda x, s: nn.RmsNorm(x, s), F.rms_norm(x, (5,), scale[0], 1e-6), x, scale[0])


# -- attention ------------------------------------------------------------------------
def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, added: torch.Tensor, scale: float
) -> torch.Tensor:
    return ((q @ k.mT) * scale + added).softmax(-1) @ v


def test_attention_with_masks() -> None:
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 6)
    scale = 8**-0.5
    none = torch.zeros(4, 5)
    check(lambda q, k, v: nn.Attention(q, k, v), attend(q, k, v, none, scale), q, k, v)
    keep = torch.rand(2, 1, 4, 5) < 0.5
    keep[..., 0] = True
    added = torch.zeros(2, 1, 4, 5).masked_fill(~keep, -torch.inf)
    check(lambda q, k, v, m: nn.Attention(q, k, v, m), attend(q, k, v, added, scale), q, k, v, keep)
    bias = torch.randn(3, 4, 5)
    check(lambda q, k, v, m: nn.Attention(q, k, v, m, scale=0.3), attend(q, k, v, bias, 0.3), q, k, v, bias)
    order = torch.full((4, 5), -torch.inf).triu(1)
    check(lambda q, k, v: nn.Attention(q, k, v, causal=True), attend(q, k, v, order, scale), q, k, v)
    check(
        lambda q, k, v, m: nn.Attention(q, k, v, m, causal=True),
        attend(q, k, v, bias + order, scale),
        q,
        k,
        v,
        bias,
    )


def test_attention_broadcasts_keys_and_values() -> None:
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 1, 5, 8), torch.randn(5, 6)
    expected = attend(q, k, v, torch.zeros(4, 5), 8**-0.5)
    check(lambda q, k, v: nn.Attention(q, k, v), expected, q, k, v)


# -- core ---------------------------------------------------------------------------------
def test_integer_division_rounds_toward_zero_or_down() -> None:
    a, b = torch.tensor([-7, 7, -7]), torch.tensor([2, -2, -2])
    assert run(core.Div, a, b)[0].tolist() == [-3, -3, 3]
    assert run(core.FloorDiv, a, b)[0].tolist() == [-4, -4, 3]
    assert run(core.Remainder, a, b)[0].tolist() == [1, -1, -1]


def test_cast_wraps_four_bit_integers() -> None:
    x = torch.tensor([7, 8, -9, 17])
    kind = TensorType(f32, (4,))
    assert run(lambda x: core.Cast(x, out=parse_type("i4[4]")), x)[0].tolist() == [7, -8, 7, 1]  # type: ignore[arg-type]
    assert run(lambda x: core.Cast(x, out=parse_type("u4[4]")), x)[0].tolist() == [7, 8, 7, 1]  # type: ignore[arg-type]
    assert run(lambda x: core.Cast(x, out=kind), x)[0].tolist() == x.tolist()


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_pad_matches_numpy(mode: str) -> None:
    x = torch.randn(3, 5, 4)
    expected = np.pad(x.numpy(), ((2, 1), (0, 0), (3, 2)), mode=mode)
    check(lambda x: core.Pad(x, before=(2, 0, 3), after=(1, 0, 2), mode=mode), torch.from_numpy(expected), x)


def test_take_and_scatter_accept_negative_indices() -> None:
    x = torch.arange(5.0)
    assert run(core.Take, x, torch.tensor([-1, 0]))[0].tolist() == [4.0, 0.0]
    updates = torch.tensor([9.0, 8.0])
    (y,) = run(lambda x, i, u: core.ScatterElements(x, i, u, axis=0), x, torch.tensor([-1, 1]), updates)
    assert y.tolist() == [0.0, 8.0, 2.0, 3.0, 9.0]
    (y,) = run(lambda x, i, u: core.ScatterND(x, i, u, reduce="add"), x, torch.tensor([[-1], [-1]]), updates)
    assert y.tolist() == [0.0, 1.0, 2.0, 3.0, 21.0]
    assert x.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_scatter_nd_outside_is_refused() -> None:
    with pytest.raises(InputError, match="out of range for size 3"):
        run(core.ScatterND, torch.zeros(3), torch.tensor([[3]]), torch.ones(1))


def test_top_k_takes_the_first_of_equals() -> None:
    values, indices = run(lambda x: core.TopK(x, k=2), torch.tensor([1.0, 3.0, 3.0, 3.0]))
    assert values.tolist() == [3.0, 3.0]
    assert indices.tolist() == [1, 2]


def test_triangular_solve_solves() -> None:
    a, b = torch.randn(4, 4) + 4 * torch.eye(4), torch.randn(4, 3)
    for lower in (False, True):
        triangle = a.tril() if lower else a.triu()
        for transposed in (False, True):
            (y,) = run(
                lambda a, b, lower=lower, transposed=transposed: linalg.TriangularSolve(
                    a, b, lower=lower, transposed=transposed
                ),
                a,
                b,
            )
            torch.testing.assert_close((triangle.mT if transposed else triangle) @ y, b)


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
    functions = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax, "min": torch.amin}
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
    (stored,) = run(lambda x: quant.Quantize(x, out=parse_type("qi8<0.5, zp=3>[6]")), x)  # type: ignore[arg-type]
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
    assert image.grad is not None and plain.grad is not None
    assert weight.grad is not None and grid.grad is not None
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
    for inputs in ([x, y], (x, y), {"y": y, "x": x}, {"%x": x, "%y": y}):
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
    with pytest.raises(InputError, match="H//2 = 4 there; H is 8 from the given dims"):
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
def test_wrong_inputs_are_refused(inputs: list, message: str) -> None:
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
        gc.collect()
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
