"""The quality report of an executable for a GPU: what its kernels use and cost, from machine code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from plait.backends.cuda.occupancy import WARP, Occupancy, occupancy
from plait.backends.cuda.report.execution import Execution, execute
from plait.backends.cuda.report.model import KernelTime, kernel_time, waves
from plait.backends.cuda.report.peaks import A100_40GB, DevicePeaks
from plait.backends.cuda.report.profile import WarpProfile, warp_profile
from plait.backends.cuda.report.remarks import remarks
from plait.backends.cuda.report.rows import KernelReport, MemoryCounts, QualityReport
from plait.backends.cuda.report.work import Sites, Work, call_sites, site_work
from plait.backends.cuda.resources import KernelResources
from plait.backends.cuda.sass import MachineCode, disassemble_images
from plait.backends.cuda.source_text import parse_source
from plait.backends.images import KernelImage
from plait.backends.kernels import Grid, Kernel
from plait.ir.bind import default_dims
from plait.ir.dims import evaluate, parse_dim
from plait.ir.errors import CompileError
from plait.ir.graph import Graph


def quality_report(
    graph: Graph,
    kernels: tuple[Kernel, ...],
    images: Mapping[str, KernelImage],
    dims: Mapping[str, int] | None = None,
    *,
    peaks: DevicePeaks = A100_40GB,
    counts: Mapping[str, MemoryCounts] | None = None,
) -> QualityReport:
    """Report on the kernels of a compiled graph.

    Args:
        graph, kernels, images: of an executable for a GPU.
        dims: values of the dims that are still symbolic.
        peaks: of the device that times are modelled for.
        counts: memory accesses counted by the emulation, by kernel; a kernel that is
            not there has those of its executed warps.

    Raises:
        InputError: a dim has no value, or a kernel's block cannot be launched.
        CompileError: the machine code lacks a kernel of the table.
    """
    values = default_dims(graph, dims)
    code = disassemble_images(images)
    found = [_Examined.of(graph, kernel, code, values, peaks) for kernel in kernels]
    shares = _shares(found)
    rows = []
    for item, share in zip(found, shares, strict=True):
        row = _row(item, share, peaks, (counts or {}).get(item.kernel.name))
        rows.append(replace(row, remarks=tuple(remarks(row, peaks.multiprocessors))))
    return QualityReport(graph.name, peaks.name, values, tuple(rows), tuple(_general_remarks(rows)))


@dataclass(frozen=True)
class _Examined:
    """What is known of a kernel on its own."""

    kernel: Kernel
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    sites: Sites
    work: Work
    occupancy: Occupancy
    execution: Execution
    profile: WarpProfile
    time: KernelTime
    code: MachineCode

    @property
    def warps(self) -> int:
        """Warps of the launch."""
        return prod(self.grid) * -(-prod(self.block) // WARP)

    @property
    def executed_macs(self) -> float:
        """MACs that the launch executes: on tensor cores, or where there are none off them."""
        return (self.profile.tensor_macs or self.profile.scalar_macs) * self.warps

    @staticmethod
    def of(
        graph: Graph,
        kernel: Kernel,
        codes: Mapping[str, MachineCode],
        dims: Mapping[str, int],
        peaks: DevicePeaks,
    ) -> _Examined:
        code = codes.get(kernel.name)
        if code is None:
            raise CompileError(
                f"the machine code has no kernel {kernel.name}",
                why=f"it has {', '.join(sorted(codes)[:5]) or 'none'}",
                remedy="compile the graph again",
            )
        grid, block = _extents(kernel.grid, dims), _extents(kernel.block, dims)
        parameters = parse_source(kernel.source).kernel(kernel.name).parameters
        execution = execute(code, grid, block, parameters, dims)
        profile = warp_profile(code, execution)
        resources = KernelResources(kernel.registers or 0, kernel.shared_bytes or 0)
        resident = occupancy(resources, block, dynamic_shared_bytes=kernel.dynamic_shared_bytes or 0)
        sites = call_sites(graph, kernel, dims)
        work = site_work(sites, dims)
        in_block = -(-prod(block) // WARP)
        time = kernel_time(profile, prod(grid), in_block, resident, work.bytes, peaks)
        return _Examined(kernel, grid, block, sites, work, resident, execution, profile, time, code)


def _extents(extents: Grid | None, dims: Mapping[str, int]) -> tuple[int, int, int]:
    x, y, z = (evaluate(parse_dim(str(extent)), dims) for extent in extents or (1, 1, 1))
    return x, y, z


@dataclass(frozen=True)
class _Share:
    """What part of its ops' work a kernel stands for.

    Attributes:
        part: of the work, 0 to 1.
        tensor_share: share of the ops' MACs that tensor cores do; None without MACs.
        executed_macs: MACs that the launch executes, of those of all kernels of the ops in the same part.
    """

    part: float
    tensor_share: float | None
    executed_macs: float


def _shares(found: list[_Examined]) -> list[_Share]:
    """Divide the work of ops that several kernels compute, in proportion to their modelled times.

    Tensor cores do the share of the ops' MACs that the kernels execute there.  It is
    counted: the MACs of every executed tensor-core instruction over those of the cost
    rule, at most 1, since tiles are padded.
    """
    groups: dict[tuple[str, ...], list[_Examined]] = {}
    for item in found:
        groups.setdefault(item.kernel.ops, []).append(item)
    shares = []
    for item in found:
        group = groups[item.kernel.ops]
        part = item.time.total_us / sum(other.time.total_us for other in group)
        tensor = sum(other.profile.tensor_macs * other.warps for other in group)
        executed = [other.executed_macs for other in group]
        # The multiply-adds of an exponential between two products are none of the ops' MACs.
        products = sum(macs for macs in executed if macs >= max(executed) / 2)
        share = min(1.0, tensor / item.work.macs) if item.work.macs else None
        shares.append(_Share(part, share, products * part if item.work.macs else 0.0))
    return shares


def _row(item: _Examined, share: _Share, peaks: DevicePeaks, counts: MemoryCounts | None) -> KernelReport:
    kernel, profile, work = item.kernel, item.profile, item.work
    mode = "tf32" if _uses_tf32(item.code) and work.mode == "fp32" else work.mode
    sectors = profile.global_sectors / profile.global_requests if profile.global_requests else None
    conflicts = profile.shared_wavefronts / profile.ideal_wavefronts if profile.ideal_wavefronts else None
    if counts is not None:
        sectors = counts.sectors / counts.requests if counts.requests else None
    return KernelReport(
        name=kernel.name,
        ops=kernel.ops,
        runs=item.sites.runs,
        grid=item.grid,
        block=item.block,
        registers=kernel.registers or 0,
        shared_bytes=kernel.shared_bytes or 0,
        dynamic_shared_bytes=kernel.dynamic_shared_bytes or 0,
        spill_bytes=kernel.spills,
        occupancy=item.occupancy.fraction,
        resident_warps=item.occupancy.warps,
        resident_blocks=item.occupancy.blocks,
        limited_by=item.occupancy.limited_by,
        waves=waves(prod(item.grid), item.occupancy, peaks),
        mix=profile.mix,
        static_instructions=len(item.code.instructions),
        macs=work.macs * share.part,
        flops=work.flops * share.part,
        bytes=work.bytes * share.part,
        mode=mode,
        divisible=work.divisible,
        executed_macs=share.executed_macs,
        tensor_share=share.tensor_share,
        sectors_per_request=sectors,
        used_share=profile.used_share,
        bank_conflicts=conflicts,
        counted_by="execution" if counts is None else "emulation",
        roofline_us=work.roofline_us(peaks, mode) * share.part,
        modelled_us=item.time.total_us,
        bound=item.time.bound,
        parts_us=item.time.parts_us,
        complete=item.execution.complete,
        assumed_conditions=item.execution.assumptions,
        exact=item.execution.exact and work.exact,
    )


def _uses_tf32(code: MachineCode) -> bool:
    return any(item.base == "HMMA" and "TF32" in item.modifiers for item in code.instructions)


def _general_remarks(rows: list[KernelReport]) -> list[str]:
    """What holds for many kernels at once."""
    single = [row for row in rows if row.macs and row.mode == "fp32" and row.divisible]
    if not single:
        return []
    macs = sum(row.macs * row.runs for row in single)
    total = sum(row.macs * row.runs for row in rows)
    return [
        f"{len(single)} kernels with {macs / total:.0%} of the MACs multiply in f32 without tensor cores, "
        "though depth and columns divide by 8: TF32 or f16 would have 8 or 16 times the peak"
    ]
