"""The quality report: rows of a compiled model, totals, rooflines, the time model, remarks, JSON, the command."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from plait.backends import compile_graph
from plait.backends.cuda.occupancy import Occupancy
from plait.backends.cuda.report import A100_40GB, KernelReport, MemoryCounts, QualityReport, quality_report
from plait.backends.cuda.report.model import kernel_time
from plait.backends.cuda.report.profile import WarpProfile
from plait.backends.cuda.report.remarks import remarks
from plait.backends.cuda.report.work import Work, call_sites, site_work
from plait.backends.executable import Executable
from plait.frontends.families import example
from plait.frontends.pytorch import lower_torch
from plait.ir import InputError, parse
from plait.ir.cost import graph_cost

PRODUCT = """plait.ir 1.0
func @product(%x: {t}[512,256], %w: {t}[256,384]) -> {t}[512,384] {{
  %y = linalg.matmul(%x, %w) : {t}[512,384]
  return %y
}}
"""

LOOP = """plait.ir 1.0
func @loop(%xs: f32[5,64], %start: f32[64]) -> f32[5,64], f32[64] {
  %ys, %end = core.scan(%xs, %start) : f32[5,64], f32[64] do (%x: f32[64], %state: f32[64]) {
    %sum = core.add(%x, %state) : f32[64]
    %next = nn.tanh(%sum) : f32[64]
    yield %sum, %next
  }
  return %ys, %end
}
"""


@pytest.fixture(scope="module")
def executable() -> Executable:
    found = example("small_transformer")
    graph = lower_torch(found.build(0), found.inputs(2, 0), dynamic=found.dynamic, name="net")
    return compile_graph(graph, "a100")


@pytest.fixture(scope="module")
def report(executable: Executable) -> QualityReport:
    return executable.report({"B": 8})


def test_every_kernel_has_a_row(executable: Executable, report: QualityReport) -> None:
    assert [row.name for row in report.kernels] == [kernel.name for kernel in executable.kernels]
    for row, kernel in zip(report.kernels, executable.kernels, strict=True):
        assert row.registers == kernel.registers
        assert row.shared_bytes == kernel.shared_bytes
        assert row.runs == kernel.calls
        assert row.complete
        assert 0 < row.occupancy <= 1
        assert row.static_instructions > 5
        assert sum(row.mix.values()) > 5
        assert row.modelled_us >= A100_40GB.launch_us
        assert row.modelled_us == pytest.approx(A100_40GB.launch_us + max(row.parts_us.values()))
    assert "B" in str([kernel.grid for kernel in executable.kernels])


def test_the_work_of_all_rows_is_that_of_the_graph(executable: Executable, report: QualityReport) -> None:
    cost = graph_cost(executable.graph, {"B": 8}).total
    totals = report.totals
    assert totals.macs == pytest.approx(cost.macs)
    # Views compute nothing, and ops without a kernel of their own are in those that read them.
    assert totals.flops == pytest.approx(cost.flops)
    # What stays inside kernels is not moved.
    assert 0.3 * cost.bytes_moved < totals.bytes < cost.bytes_moved
    assert totals.launches == sum(kernel.calls for kernel in executable.kernels)


def test_totals_add_up(report: QualityReport) -> None:
    totals, rows = report.totals, report.kernels
    assert totals.modelled_us == pytest.approx(sum(row.modelled_us * row.runs for row in rows))
    assert totals.roofline_us == pytest.approx(sum(row.roofline_us * row.runs for row in rows))
    assert totals.ratio == pytest.approx(totals.modelled_us / totals.roofline_us)
    assert totals.tensor_share == 0
    for row in rows:
        assert row.roofline_us < row.modelled_us


def test_executed_macs_cover_those_of_the_ops(report: QualityReport) -> None:
    """Counted from machine code on one side, from types on the other."""
    products = {row.name: row for row in report.kernels if row.macs}
    assert len(products) >= 7
    for row in products.values():
        assert row.padding is not None
        assert row.padding >= 0.999
    # 256 rows by 384 columns, 128 deep: whole tiles, and nothing else multiplies.
    assert report.kernels[1].ops[0].endswith("qkv")
    assert report.kernels[1].padding == pytest.approx(1.0)


def test_kernels_of_the_same_ops_share_their_work(report: QualityReport) -> None:
    group = [row for row in report.kernels if "scaled_dot_product" in row.name]
    assert len(group) == 3
    assert len({row.ops for row in group}) == 1
    assert group[0].modelled_us / group[0].macs == pytest.approx(group[1].modelled_us / group[1].macs)
    ratios = {round(row.ratio or 0.0, 6) for row in group}
    assert len(ratios) == 1


def test_json_round_trip(report: QualityReport) -> None:
    text = json.dumps(report.to_dict())
    again = QualityReport.from_dict(json.loads(text))
    assert again == report
    assert again.to_dict() == report.to_dict()
    assert json.loads(text)["totals"]["modelled_us"] == report.totals.modelled_us


def test_the_text_names_kernels_ops_and_totals(report: QualityReport) -> None:
    text = str(report)
    assert text.startswith(f"@net at B=8: {len(report.kernels)} kernels, ")
    for row in report.kernels:
        assert row.name in text
    assert "less than one wave: 1 block leaves 107 of 108 multiprocessors idle" in text
    assert "%classifier" in text
    assert max(map(len, text.splitlines()[:20])) < 250


def test_dims_decide_the_grid(executable: Executable, report: QualityReport) -> None:
    large = executable.report({"B": 64})
    assert sum(row.blocks for row in large.kernels) > 4 * sum(row.blocks for row in report.kernels)
    assert large.totals.macs == 8 * report.totals.macs


def test_wrong_uses() -> None:
    graph = parse(PRODUCT.format(t="f32"))
    with pytest.raises(InputError, match="there is no machine code"):
        compile_graph(graph, "cpu").report()
    found = example("small_cnn")
    graph = lower_torch(found.build(0), found.inputs(2, 0), dynamic={"image": {0: "B"}})
    with pytest.raises(InputError, match="dim B of graph"):
        compile_graph(graph, "a100").report()


def test_a_loop_runs_its_kernels_as_often_as_it_goes_round() -> None:
    report = compile_graph(parse(LOOP), "a100").report()
    assert report.kernels
    assert all(row.runs == 5 for row in report.kernels if "sum" in row.ops)
    assert any("sum" in row.ops for row in report.kernels)


@pytest.mark.parametrize(("dtype", "mode"), [("f16", "fp16"), ("f32", "fp32"), ("f64", "fp64")])
def test_tensor_core_share_and_mode(dtype: str, mode: str) -> None:
    report = compile_graph(parse(PRODUCT.format(t=dtype)), "a100").report()
    (row,) = report.kernels
    macs = 512 * 256 * 384
    assert (row.macs, row.divisible) == (macs, True)
    assert row.executed_macs == pytest.approx(macs)
    tensor = any(name in row.mix for name in ("HMMA", "DMMA"))
    assert row.tensor_share == (1.0 if tensor else 0.0)
    assert row.mode == mode
    assert row.bytes == {"f16": 2, "f32": 4, "f64": 8}[dtype] * (512 * 256 + 256 * 384 + 512 * 384)


def test_an_f16_product_uses_tensor_cores() -> None:
    (row,) = compile_graph(parse(PRODUCT.format(t="f16")), "a100").report().kernels
    assert row.tensor_share == 1.0
    assert row.mix["HMMA"] > 0
    assert not any("tensor" in remark for remark in row.remarks)


def test_counts_of_the_emulation_stand_in(executable: Executable, report: QualityReport) -> None:
    name = report.kernels[0].name
    given = quality_report(
        executable.graph,
        executable.kernels,
        executable.images,
        {"B": 8},
        counts={name: MemoryCounts(requests=10, sectors=55)},
    )
    assert given.kernels[0].sectors_per_request == 5.5
    assert given.kernels[0].counted_by == "emulation"
    assert given.kernels[1:] == report.kernels[1:]


# -- roofline and model on figures worked out by hand ---------------------------------
@pytest.mark.parametrize(
    ("mode", "us"),
    # 10^9 MACs are 2 GFLOP: over the data sheet's peaks.
    [("fp32", 2e9 / 19.5e6), ("tf32", 2e9 / 156e6), ("fp16", 2e9 / 312e6), ("bf16", 2e9 / 312e6),
     ("int8", 2e9 / 624e6), ("fp64", 2e9 / 9.7e6)],
)  # fmt: skip
def test_roofline_of_a_product(mode: str, us: float) -> None:
    work = Work(macs=1e9, flops=2e9, bytes=1000, mode=mode, divisible=True, exact=True)
    assert work.roofline_us(A100_40GB, mode) == pytest.approx(us)


def test_roofline_of_what_only_moves() -> None:
    work = Work(macs=0, flops=1e6, bytes=1.555e9, mode="fp32", divisible=None, exact=True)
    assert work.roofline_us(A100_40GB, "fp32") == pytest.approx(1000.0)
    with pytest.raises(InputError, match="no arithmetic mode 'fp8'"):
        work.roofline_us(A100_40GB, "fp8")


def test_elementwise_flops_of_a_product_run_in_f32() -> None:
    work = Work(macs=1e9, flops=2e9 + 19.5e6, bytes=0, mode="fp16", divisible=True, exact=True)
    assert work.roofline_us(A100_40GB, "fp16") == pytest.approx(2e9 / 312e6 + 1.0)


PROFILE = WarpProfile(
    mix={"FFMA": 1000.0},
    issued=1410.0,
    pipes={"fma": 2820.0},
    latency=14100.0,
    tensor_macs=0,
    scalar_macs=32000,
    global_requests=10,
    global_sectors=400,
    distinct_sectors=400,
    used_share=1.0,
    shared_requests=0,
    shared_wavefronts=41.0,
    ideal_wavefronts=41.0,
)


def test_the_time_model_by_hand() -> None:
    occupancy = Occupancy(blocks=4, warps=16, fraction=0.25, limited_by="registers")
    # 216 blocks of 4 warps: two on each multiprocessor, two warps a partition; 1,410 cycles are 1 us.
    time = kernel_time(PROFILE, 216, 4, occupancy, 1.555e6, A100_40GB)
    assert time.parts_us["issue"] == pytest.approx(2.0)
    assert time.parts_us["pipe:fma"] == pytest.approx(4.0)
    assert time.parts_us["latency"] == pytest.approx(10.0)
    assert time.parts_us["shared"] == pytest.approx(8 * (41 + 100) / 1410)
    assert time.parts_us["cache"] == pytest.approx(max(864 * 12800 / 5120, 8 * 12800 / 64) / 1410)
    assert time.parts_us["memory"] == pytest.approx(1.0)
    assert time.total_us == pytest.approx(12.4)
    assert time.bound == "latency"
    # Five times the blocks are three rounds of up to four resident ones.
    more = kernel_time(PROFILE, 1080, 4, occupancy, 1.555e6, A100_40GB)
    assert more.parts_us["latency"] == pytest.approx(30.0)
    assert more.parts_us["pipe:fma"] == pytest.approx(20.0)
    # A lone warp has one partition.
    lone = kernel_time(PROFILE, 1, 1, occupancy, 0, A100_40GB)
    assert lone.parts_us["issue"] == pytest.approx(1.0)


# -- remarks ----------------------------------------------------------------------------
def plain_row(**changes: object) -> KernelReport:
    row = KernelReport(
        name="k", ops=("conv",), runs=1, grid=(216, 1, 1), block=(256, 1, 1), registers=32, shared_bytes=0,
        dynamic_shared_bytes=0, spill_bytes=0, occupancy=1.0, resident_warps=64, resident_blocks=8,
        limited_by="warps", waves=1.0, mix={"FFMA": 500.0, "integer": 100.0}, static_instructions=600,
        macs=1000.0, flops=2000.0, bytes=100.0, mode="fp32", divisible=True, executed_macs=1000.0,
        tensor_share=0.0, sectors_per_request=4.0, used_share=1.0, bank_conflicts=1.0,
        counted_by="execution", roofline_us=1.0, modelled_us=5.0, bound="pipe:fma", parts_us={"issue": 2.6},
        complete=True, assumed_conditions=0, exact=True,
    )  # fmt: skip
    return replace(row, **changes)  # type: ignore[arg-type]


def test_a_good_kernel_has_no_remark() -> None:
    assert list(remarks(plain_row(), 108)) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"spill_bytes": 64}, "spills 64 bytes of registers"),
        (
            {"occupancy": 0.125, "resident_warps": 8, "limited_by": "registers", "registers": 255},
            "8 of 64 warps fit a multiprocessor, limited by registers (255 of each thread)",
        ),
        ({"occupancy": 0.1, "limited_by": "shared memory", "shared_bytes": 49152}, "(49,152 bytes of each block)"),
        ({"grid": (4, 3, 1)}, "less than one wave: 12 blocks leave 96 of 108 multiprocessors idle"),
        ({"grid": (120, 1, 1)}, "uneven: 120 blocks give the busiest multiprocessor 2, and 44% of all slots"),
        ({"used_share": 0.125, "sectors_per_request": 32.0}, "touches 32.0 sectors of 32 bytes, of which threads use 12%"),
        ({"bank_conflicts": 8.0}, "bank conflicts: shared memory takes 8.0 times"),
        ({"mode": "fp16"}, "no tensor cores: 100% of its fp16 MACs run on other units; depth and columns divide by 8"),
        ({"mode": "int8", "divisible": False}, "a depth or column does not divide by 8"),
        ({"executed_macs": 2000.0}, "padding: executes 2.00 times the MACs"),
        ({"bound": "issue", "flops": 1000.0, "mix": {"FFMA": 400.0, "control": 9.0}}, "overhead: the time goes into issuing 22616.1"),
        ({"complete": False}, "counts and time are lower bounds"),
        ({"assumed_conditions": 3}, "3 conditions depend on data"),
    ],
)  # fmt: skip
def test_remarks(changes: dict[str, object], text: str) -> None:
    (found,) = remarks(plain_row(**changes), 108)
    assert text in found


def test_kernels_beside_the_products_get_no_remark_on_macs() -> None:
    row = plain_row(mode="fp16", executed_macs=9000.0, mix={"MUFU": 10.0, "integer": 90.0, "FFMA": 10.0})
    assert list(remarks(row, 108)) == []


def test_sites_of_a_kernel_that_is_called_twice(executable: Executable) -> None:
    kernel = next(k for k in executable.kernels if k.calls == 2 and "feed_forward_projection" in k.name)
    sites = call_sites(executable.graph, kernel, {"B": 8})
    assert len(sites.ops) == sites.runs == 2
    assert [op.opname for op in sites.ops[0]] == [op.opname for op in sites.ops[1]]
    first, second = (site_work(replace(sites, ops=(ops,)), {"B": 8}) for ops in sites.ops)
    assert first == second
    assert first.mode == "fp32"
