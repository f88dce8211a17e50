"""The rows of a quality report, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from plait.backends.cuda.occupancy import WARP


@dataclass(frozen=True)
class MemoryCounts:
    """Accesses counted by the emulation over a whole launch, to stand in for those of the executed warps.

    Attributes:
        requests, sectors: warp accesses to global memory and the 32-byte sectors that they touch.
        shared_requests, shared_wavefronts: the same for shared memory and passes through its banks.
    """

    requests: float
    sectors: float
    shared_requests: float = 0.0
    shared_wavefronts: float = 0.0


@dataclass(frozen=True)
class KernelReport:
    """One kernel; times in us and counts are those of one launch.

    Attributes:
        name, ops: of the kernel, and the results of the ops that it computes, over all call sites.
        runs: launches in one run of the model.
        grid, block: extents of the launch.
        registers, spill_bytes: of each thread; shared_bytes, dynamic_shared_bytes: of each block.
        occupancy: resident warps over the 64 that a multiprocessor can hold.
        resident_warps, resident_blocks: of one multiprocessor.
        limited_by: what bounds the occupancy.
        waves: how often the grid fills the device.
        mix: warp instructions by class, of an average warp.
        static_instructions: length of the code.
        macs, flops, bytes: of its ops; where several kernels share the ops, each has a part in
            proportion to its modelled time.
        mode: arithmetic of its ops; "tf32" where it multiplies f32 on tensor cores.
        divisible: whether depth and columns of its products divide by 8.
        executed_macs: MACs that the launch executes, those of padding and idle lanes among them.
        tensor_share: share of the MACs of its ops that tensor cores do; None without MACs.
        sectors_per_request, used_share: of accesses to global memory; see `WarpProfile`.
        bank_conflicts: passes through shared memory over those needed without conflicts.
        counted_by: "execution" of sampled warps, or "emulation" of the whole launch.
        roofline_us: least time of its ops on the device.
        modelled_us, bound, parts_us: modelled time, what bounds it, and each part of the model.
        complete: whether the executed warps ran to their end.
        assumed_conditions: branches on data whose outcome was assumed.
        exact: whether cost and counts rest on no estimate.
        remarks: what is worth knowing, in words.
    """

    name: str
    ops: tuple[str, ...]
    runs: int
    grid: tuple[int, ...]
    block: tuple[int, ...]
    registers: int
    shared_bytes: int
    dynamic_shared_bytes: int
    spill_bytes: int
    occupancy: float
    resident_warps: int
    resident_blocks: int
    limited_by: str
    waves: float
    mix: dict[str, float]
    static_instructions: int
    macs: float
    flops: float
    bytes: float
    mode: str
    divisible: bool | None
    executed_macs: float
    tensor_share: float | None
    sectors_per_request: float | None
    used_share: float | None
    bank_conflicts: float | None
    counted_by: str
    roofline_us: float
    modelled_us: float
    bound: str
    parts_us: dict[str, float]
    complete: bool
    assumed_conditions: int
    exact: bool
    remarks: tuple[str, ...] = ()

    @property
    def blocks(self) -> int:
        """Blocks of the grid."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def intensity(self) -> float | None:
        """FLOPs for each byte that must move; None where none must."""
        return self.flops / self.bytes if self.bytes else None

    @property
    def ratio(self) -> float | None:
        """Modelled time over roofline time; None where the ops ask for nothing."""
        return self.modelled_us / self.roofline_us if self.roofline_us else None

    @property
    def instructions_per_flop(self) -> float | None:
        """Thread instructions of the launch for each FLOP of its ops; None without FLOPs."""
        warps = self.blocks * -(-self.threads // WARP)
        return sum(self.mix.values()) * warps * WARP / self.flops if self.flops else None

    @property
    def padding(self) -> float | None:
        """Executed MACs over those of the ops; None without MACs."""
        return self.executed_macs / self.macs if self.macs else None

    def to_dict(self) -> dict[str, Any]:
        """All fields and the derived figures, as JSON can hold them."""
        found = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        return {**found, "intensity": self.intensity, "ratio": self.ratio, "padding": self.padding}

    @staticmethod
    def from_dict(entry: Mapping[str, Any]) -> KernelReport:
        """The row that `to_dict` described."""
        names = {item.name for item in fields(KernelReport)}
        given: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k in names
        }
        return KernelReport(**given)


@dataclass(frozen=True)
class Totals:
    """A run of the whole model: sums over kernels, each as often as it runs.

    Attributes:
        launches: kernel launches.
        spilling: kernels that spill.
        macs, flops, bytes: of all ops.
        tensor_share: share of the MACs that tensor cores do; None without MACs.
        roofline_us, modelled_us: times one after another.
    """

    launches: int
    spilling: int
    macs: float
    flops: float
    bytes: float
    tensor_share: float | None
    roofline_us: float
    modelled_us: float

    @property
    def ratio(self) -> float | None:
        """Modelled time over roofline time."""
        return self.modelled_us / self.roofline_us if self.roofline_us else None

    @staticmethod
    def of(rows: tuple[KernelReport, ...]) -> Totals:
        """The totals of kernels."""
        macs = sum(row.macs * row.runs for row in rows)
        tensor = sum(row.macs * row.runs * (row.tensor_share or 0.0) for row in rows)
        return Totals(
            launches=sum(row.runs for row in rows),
            spilling=sum(row.spill_bytes > 0 for row in rows),
            macs=macs,
            flops=sum(row.flops * row.runs for row in rows),
            bytes=sum(row.bytes * row.runs for row in rows),
            tensor_share=tensor / macs if macs else None,
            roofline_us=sum(row.roofline_us * row.runs for row in rows),
            modelled_us=sum(row.modelled_us * row.runs for row in rows),
        )


@dataclass(frozen=True)
class QualityReport:
    """The quality of the kernels of an executable at given dims.

    Attributes:
        model: name of the graph.
        device: whose peaks the times are modelled with.
        dims: values of the dims.
        kernels: one row for each kernel, in the order of the kernel table.
    """

    model: str
    device: str
    dims: dict[str, int]
    kernels: tuple[KernelReport, ...]
    remarks: tuple[str, ...] = field(default=())

    @property
    def totals(self) -> Totals:
        """Sums over all kernels."""
        return Totals.of(self.kernels)

    def to_dict(self) -> dict[str, Any]:
        """The whole report, as JSON can hold it."""
        totals = self.totals
        return {
            "model": self.model,
            "device": self.device,
            "dims": dict(self.dims),
            "totals": {**asdict(totals), "ratio": totals.ratio},
            "remarks": list(self.remarks),
            "kernels": [row.to_dict() for row in self.kernels],
        }

    @staticmethod
    def from_dict(entry: Mapping[str, Any]) -> QualityReport:
        """The report that `to_dict` described; totals are summed anew."""
        return QualityReport(
            entry["model"],
            entry["device"],
            dict(entry["dims"]),
            tuple(map(KernelReport.from_dict, entry["kernels"])),
            tuple(entry["remarks"]),
        )

    def __str__(self) -> str:
        from plait.backends.cuda.report.text import render

        return render(self)
