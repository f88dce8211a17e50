"""Cost rules against numbers worked out by hand."""

import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from plait.ir import Graph, InputError, Op, TensorType, Value, parse, parse_type, print_graph
from plait.ir.cost import Cost, annotate_cost, graph_cost, op_cost
from plait.ir.cost_rules import RULES, engineering
from plait.ir.ops import core, linalg, message, nn, quant, spike
from plait.ir.types import f32


def cost_of(build: Callable[..., Op], *types: str, **dims: int) -> Cost:
    """Cost of one op on inputs of these types."""
    g = Graph()
    for name in dims:
        g.declare_dim(name, 1, 1 << 20)
    values = [g.add_input(f"x{i}", parse_type(text)) for i, text in enumerate(types)]
    op = g.add(build(*values))
    return op_cost(op, dims)


# -- the sum ------------------------------------------------------------------------
def test_costs_add_and_unknown_stays_unknown() -> None:
    a, b = Cost(1, 2, 3, 4), Cost(10, 20, 30, 40, exact=False)
    assert a + b == Cost(11, 22, 33, 44, exact=False)
    unknown = a + Cost(None, 1, 1, 1, exact=False)
    assert unknown == Cost(None, 3, 4, 5, exact=False)
    assert unknown.to_dict() == {
        "macs": None,
        "flops": 3,
        "bytes_read": 4,
        "bytes_written": 5,
        "exact": False,
    }
    assert Cost(bytes_read=None, bytes_written=1).bytes_moved is None


def test_figures_have_units() -> None:
    assert str(Cost(1_180_000_000, 2_360_000_000, 1_000_000, 200_000)) == "2.36 GFLOP, 1.2 MB"
    assert str(Cost(None, None, 10, 2, exact=False)) == "~? FLOP, 12 B"
    assert engineering(999_900, "B") == "1 MB"
    assert engineering(1234, "B") == "1.23 kB"
    assert engineering(0, "FLOP") == "0 FLOP"
    assert engineering(3.2e15, "FLOP") == "3200 TFLOP"


# -- contractions ------------------------------------------------------------------------
def test_resnet_stem() -> None:
    """7x7, 3 -> 64 channels, stride 2 on 224x224: 112*112*64*147 MACs, as published for ResNet-50."""
    stem = cost_of(
        lambda x, w: nn.Conv2d(x, w, stride=(2, 2), pad=(3, 3)), "f32[1,3,224,224]", "f32[64,3,7,7]"
    )
    assert stem.macs == 118_013_952
    assert stem.flops == 2 * 118_013_952
    assert stem.bytes_read == 4 * (3 * 224 * 224 + 64 * 147)
    assert stem.bytes_written == 4 * 64 * 112 * 112
    assert stem.exact


def test_bias_activation_and_groups() -> None:
    depthwise = cost_of(
        lambda x, w, b: nn.Conv2d(x, w, b, pad=(1, 1), groups=8, act="relu6"),
        "f16[B,8,10,10]",
        "f16[8,1,3,3]",
        "f16[8]",
        B=2,
    )
    elements = 2 * 8 * 100
    assert depthwise.macs == elements * 9
    assert depthwise.flops == 2 * elements * 9 + elements * (1 + 2)
    assert depthwise.bytes_read == 2 * (elements + 72 + 8)
    assert depthwise.bytes_written == 2 * elements


def test_quantised_widths() -> None:
    """int8 activations, 4-bit weights, i32 bias: bits decide the bytes; 5 FLOPs an element to requantise."""
    g = Graph()
    g.add_constant("s", np.ones((32, 2), np.float32))
    x, b = g.add_input("x", parse_type("qi8<0.1>[4,64]")), g.add_input("b", parse_type("i32[32]"))
    w = g.add_input("w", parse_type("qi4<@s, axis=1, group=32>[32,64]"))
    linear = g.add(nn.Linear(x, w, b, out=parse_type("qi8<0.2>[4,32]")))
    assert op_cost(linear, {}) == Cost(4 * 32 * 64, 2 * 4 * 32 * 64 + 6 * 128, 256 + 1024 + 128, 128)


def test_transposed_convolution_and_matmul() -> None:
    up = cost_of(lambda x, w: nn.ConvTranspose2d(x, w, stride=(2, 2)), "f32[1,4,5,5]", "f32[4,3,2,2]")
    assert up.macs == 100 * 3 * 4
    product = cost_of(linalg.Matmul, "f32[B,1,3,4]", "f32[2,4,5]", B=6)
    assert product.macs == 6 * 2 * 3 * 5 * 4
    assert product.bytes_read == 4 * (6 * 12 + 40)


def test_attention_counts_both_products_and_the_softmax() -> None:
    whole = cost_of(nn.Attention, "f32[2,8,T,64]", "f32[2,8,S,64]", "f32[2,8,S,32]", T=10, S=20)
    pairs = 2 * 8 * 10 * 20
    assert whole.macs == pairs * (64 + 32)
    assert whole.flops == 2 * whole.macs + pairs * (1 + 12)  # type: ignore[operator]
    assert whole.bytes_read == 4 * 16 * (640 + 1280 + 640)
    assert whole.bytes_written == 4 * 16 * 320


# -- elementwise and movement --------------------------------------------------------------
def test_elementwise_conventions() -> None:
    assert cost_of(core.Add, "f32[B,4]", "f32[4]", B=3) == Cost(0, 12, 48 + 16, 48)
    assert cost_of(core.Exp, "f16[10]") == Cost(0, 80, 20, 20)
    assert cost_of(lambda x: nn.Softmax(x, axis=0), "f32[10]").flops == 120
    fused = cost_of(lambda a, b: core.Mul(a, b, act="silu"), "f32[10]", "f32[10]")
    assert fused.flops == 10 * (1 + 11)
    assert cost_of(lambda x: core.Clamp(x, low=0.0), "f32[10]").flops == 10


def test_an_operand_read_twice_moves_once() -> None:
    assert cost_of(lambda x: core.Mul(x, x), "f32[10]") == Cost(0, 10, 40, 40)


def test_views_move_nothing() -> None:
    for build in (
        lambda x: core.Reshape(x, out=TensorType(f32, (4, 3))),
        lambda x: core.Broadcast(x, out=TensorType(f32, (5, 3, 4))),
    ):
        assert cost_of(build, "f32[3,4]") == Cost()
    assert cost_of(lambda x: core.Transpose(x, permutation=(1, 0)), "f32[3,4]") == Cost(0, 0, 48, 48)


def test_picking_reads_what_it_picks() -> None:
    assert cost_of(nn.Embedding, "i64[B,7]", "f32[50000,16]", B=2) == Cost(0, 0, 14 * 8 + 14 * 64, 14 * 64)
    assert cost_of(core.Take, "f32[1000,16]", "i32[3]") == Cost(0, 0, 12 + 192, 192)
    sliced = cost_of(lambda x: core.Slice(x, axes=(0,), starts=(2,), stops=(5,)), "f32[1000,16]")
    assert sliced == Cost(0, 0, 192, 192)


def test_reductions_norms_and_pools() -> None:
    assert cost_of(lambda x: core.Sum(x, axes=(1,)), "f32[3,4]").flops == 12
    assert cost_of(lambda x: core.Mean(x, axes=(1,)), "f32[3,4]").flops == 15
    assert cost_of(nn.BatchNorm, "f32[2,3,5]", *["f32[3]"] * 4).flops == 4 * 30 + 6
    assert cost_of(nn.LayerNorm, "f32[6,10]", "f32[10]", "f32[10]").flops == 7 * 60 + 4 * 6
    pool = cost_of(lambda x: nn.MaxPool2d(x, kernel=(3, 3), stride=(2, 2)), "f32[1,2,9,9]")
    assert pool.flops == 8 * 2 * 16
    # rows [0,4) and [2,5) of 5 overlap in one; columns [0,2) and [2,4) of 4 do not
    adaptive = cost_of(lambda x: nn.AdaptiveAvgPool2d(x, size=(2, 2)), "f32[1,1,5,4]")
    assert adaptive.flops == (3 + 3) * (2 + 2)


def test_factorisations() -> None:
    """Cholesky of 3x3 by hand: 3 roots, 3 divisions, 4 multiply-subtracts."""
    assert cost_of(linalg.Cholesky, "f32[3,3]") == Cost(4, 8 + 3 + 3, 36, 36)
    assert cost_of(linalg.TriangularSolve, "f32[4,4]", "f32[4,2]").macs == 2 * 6
    assert not cost_of(linalg.Eigh, "f32[3,3]").exact


def test_quant_family() -> None:
    stored = parse_type("qi4<0.1>[3,5]")
    # 15 elements of 4 bits pack into 8 bytes
    assert cost_of(lambda x: quant.Quantize(x, out=stored), "f32[3,5]") == Cost(0, 75, 60, 8)  # type: ignore[arg-type]
    assert cost_of(quant.Dequantize, "qi4<0.1>[3,5]") == Cost(0, 30, 8, 60)


# -- message passing, spikes -------------------------------------------------------------------
def test_aggregate_reads_a_row_for_each_edge() -> None:
    weighted = cost_of(
        lambda g, x, w: message.Aggregate(g, x, w, reduce="sum"),
        "graph<N, E, coo, i32>",
        "f32[N,16]",
        "f32[E]",
        N=100,
        E=1000,
    )
    assert weighted == Cost(16_000, 32_000, 1000 * 64 + 2 * 4000 + 4000, 6400)
    mean = cost_of(lambda g, x: message.Aggregate(g, x, reduce="mean"), "graph<9, 5, csr, i64>", "f32[9,2]")
    assert mean == Cost(0, 5 * 2 + 9 * 2, 5 * 8 + 8 * (10 + 10), 72)


def test_spike_linear_follows_the_density() -> None:
    types = ("spike<0.25>[2,16]", "f32[8,16]")
    sparse = cost_of(spike.SpikeLinear, *types)
    assert sparse.macs == 0.25 * 2 * 16 * 8
    assert sparse.flops == sparse.macs
    # two rows leave a column alone with probability 0.75^2
    assert sparse.bytes_read == pytest.approx(4 + 512 * (1 - 0.75**2))
    assert sparse.exact
    unknown = cost_of(spike.SpikeLinear, "spike[2,16]", "f32[8,16]")
    assert unknown == Cost(256, 256, 4 + 512, 64, exact=False)
    dense = cost_of(lambda x, w: spike.SpikeLinear(x, w, kernel="dense"), *types)
    assert dense == Cost(256, 512, 4 + 512, 64)
    assert cost_of(
        lambda i, v: spike.Lif(i, v, tau=0.02, dt=0.001, v_th=1.0, reset="zero"), "f32[8]", "f32[8]"
    ) == (Cost(0, 40, 64, 1 + 32))


# -- control flow and graphs ---------------------------------------------------------------------
CONTROL = """plait.ir 1.0
dim T in 1..64
func @main(%xs: f32[T,10], %s0: f32[10], %c: bool[]) -> f32[T,10], f32[10] {
  %ys, %s1 = core.scan(%xs, %s0) : f32[T,10], f32[10] do (%x: f32[10], %s: f32[10]) {
    %sum = core.add(%x, %s) : f32[10]
    %y = core.exp(%sum) : f32[10]
    yield %y, %sum
  }
  %z = core.cond(%c, %s1) : f32[10] then (%t: f32[10]) {
    %t1 = core.neg(%t) : f32[10]
    yield %t1
  } otherwise (%o: f32[10]) {
    %o1 = core.log(%o) : f32[10]
    yield %o1
  }
  return %ys, %z
}
"""


def test_scan_and_cond() -> None:
    costs = graph_cost(parse(CONTROL), {"T": 7})
    assert [(row.name, row.opname) for row in costs.rows] == [("ys", "core.scan"), ("z", "core.cond")]
    assert costs.rows[0].cost == Cost(0, 7 * 90, 7 * 120, 7 * 80)
    assert costs.rows[1].cost == Cost(0, 80, 40, 40, exact=False)
    assert costs.coverage == 0.5
    assert costs.total == Cost(0, 710, 880, 600, exact=False)


def test_while_is_unknown() -> None:
    text = """plait.ir 1.0
func @main(%x: bool[]) -> bool[] {
  %y = core.while(%x) : bool[] condition (%a: bool[]) {
    yield %a
  } do (%b: bool[]) {
    %n = core.not(%b) : bool[]
    yield %n
  }
  return %y
}
"""
    costs = graph_cost(parse(text))
    assert costs.total == Cost(None, None, None, None, exact=False)
    assert "?" in str(costs)


def two_layers() -> Graph:
    g = Graph()
    batch = g.declare_dim("B", 1, 64)
    x: Value = g.add_input("x", TensorType(f32, (batch, 784)))
    for name, outputs, inputs in (("fc1", 256, 784), ("fc2", 10, 256)):
        w = g.add_constant(f"{name}.w", np.zeros((outputs, inputs), np.float32))
        x = g.emit(nn.Linear(x, w, act="relu" if name == "fc1" else "none"), name=name)
    g.set_outputs([x])
    return g


def test_graph_cost_of_an_mlp() -> None:
    costs = graph_cost(two_layers(), {"B": 8})
    assert costs.total.macs == 8 * (784 * 256 + 256 * 10)
    assert costs.total.flops == 2 * 8 * (784 * 256 + 256 * 10) + 8 * 256
    assert costs.total.bytes_read == 4 * (8 * 784 + 784 * 256 + 8 * 256 + 2560)
    assert costs.total.bytes_written == 4 * 8 * (256 + 10)
    assert costs.coverage == 1.0
    assert json.loads(json.dumps(costs.to_dict()))["rows"][1]["name"] == "fc2"
    table = str(costs).splitlines()
    assert table[0].split() == ["name", "op", "MACs", "FLOPs", "read", "written"]
    assert table[2].split() == ["fc1", "nn.linear", "1.61", "M", "3.21", "M", "828", "kB", "8.19", "kB"]
    assert table[-2].split()[0] == "total"
    assert table[-1] == "exact for 100% of 2 ops; ~ is an estimate, ? unknown"


def test_missing_dims_are_named() -> None:
    with pytest.raises(InputError, match="dim B of graph @main has no value"):
        graph_cost(two_layers())
    with pytest.raises(InputError, match="dim B has no value"):
        op_cost(next(two_layers().ops), {})


def test_fixed_dims_need_no_value() -> None:
    fixed = parse(str(two_layers()).replace("dim B in 1..64", "dim B = 8"))
    assert graph_cost(fixed) == graph_cost(two_layers(), {"B": 8})


def test_an_op_without_a_rule_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, nn.Linear)
    costs = graph_cost(two_layers(), {"B": 8})
    assert costs.total.flops is None
    assert costs.coverage == 0.0


def test_annotated_dumps_still_parse() -> None:
    g = two_layers()
    text = print_graph(g, annotate=annotate_cost(g, {"B": 8}))
    assert "// 3.21 MFLOP, 836 kB" in text
    assert parse(text) == g


def test_cost_needs_no_torch() -> None:
    code = "import sys, plait.ir.cost, plait.ir.signature; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
