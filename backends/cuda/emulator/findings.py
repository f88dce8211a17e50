"""What the detectors found in a checked launch, in the terms of the CUDA text."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from plait.backends.cuda.emulator.build import HostLibrary
from plait.backends.cuda.emulator.line_table import line_table
from plait.backends.cuda.source_text import KernelText
from plait.ir.errors import CompileError

_KINDS = (
    "out of bounds",
    "uninitialised read",
    "read of a copy in flight",
    "misaligned access",
    "data race",
    "conflict between blocks",
    "out of bounds",
    "wild access",
)
_SPACES = ("global", "shared", "local")
_IS_LINE = 1 << 31
#: Name of the file that kernels are compiled as.
KERNEL_FILE = "kernel.cu"
_SHOWN = 4
_ANNOTATION = re.compile(r"[ \t]*// plait: (.*)")

Index = tuple[int, int, int]


class _Record(ctypes.Structure):
    """The C struct `cuda_emulation::Finding`."""

    _fields_ = (
        ("problem", ctypes.c_uint32),
        ("space", ctypes.c_uint32),
        ("number", ctypes.c_uint32),
        ("site", ctypes.c_uint32),
        ("other_site", ctypes.c_uint32),
        ("bytes", ctypes.c_uint32),
        ("block", ctypes.c_uint32 * 3),
        ("thread", ctypes.c_uint32 * 3),
        ("other_block", ctypes.c_uint32 * 3),
        ("other_thread", ctypes.c_uint32 * 3),
        ("has_other", ctypes.c_uint32),
        ("other_is_atomic", ctypes.c_uint32),
        ("offset", ctypes.c_int64),
        ("buffer_bytes", ctypes.c_uint64),
        ("count", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class Finding:
    """A rule of the CUDA execution model that a kernel broke at one place of its text.

    Attributes:
        kind: "data race", "conflict between blocks", "out of bounds", "uninitialised read", "read of a
            copy in flight" (cp.async that the thread has not waited for), "misaligned access" or "wild
            access" (far from every buffer).
        kernel, line: where in the CUDA text; the line counts from 1, None when it is not known.
        block, thread: indices (x, y, z) of the thread that broke the rule.
        other_line, other_block, other_thread: the access that it conflicts with, if there is one.
        space: "global", "shared" or "local".
        buffer: name of the parameter or variable.
        offset, bytes: of the access, from the start of the buffer; for a local array its index and 0.
        buffer_bytes: size of the buffer; for a local array its number of elements.
        count: how often the same was found.
        ops: the IR ops the kernel computes, as the comment over it says.
    """

    kind: str
    kernel: str
    line: int | None
    block: Index
    thread: Index
    other_line: int | None
    other_block: Index | None
    other_thread: Index | None
    space: str
    buffer: str
    offset: int
    bytes: int
    buffer_bytes: int
    count: int
    ops: str

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        return asdict(self)

    def __str__(self) -> str:
        place = f"kernel {self.kernel}, line {self.line or '?'}: "
        who = f"block {self.block} thread {self.thread}"
        if self.space == "local":
            what = f"{self.kind}: index {self.offset} of a local array of {self.buffer_bytes} elements, {who}"
        elif self.kind == "wild access":
            what = f"{self.kind} at address {self.offset & (1 << 64) - 1:#x}, {who}"
        else:
            what = f"{self.kind} in {self.space} {self.buffer}, {self._extent()}, {who}"
        if self.other_thread is not None:
            other = f"block {self.other_block} thread {self.other_thread}"
            what += f" against {other} on line {self.other_line or '?'}"
        times = f" ({self.count:,} times)" if self.count > 1 else ""
        return place + what + times + (f"; computes {self.ops}" if self.ops else "")

    def _extent(self) -> str:
        if self.kind != "out of bounds":
            return f"{self.bytes} bytes at offset {self.offset} of {self.buffer_bytes}"
        if self.offset < 0:
            return f"{self.bytes} bytes that start {-self.offset} bytes in front of its {self.buffer_bytes}"
        return f"{self.bytes} bytes at offset {self.offset}, behind the end of its {self.buffer_bytes}"


def read_findings(runtime: ctypes.CDLL, libraries: Sequence[HostLibrary], source: str) -> list[Finding]:
    """Findings of the last checked launch of this OS thread; they are forgotten by the runtime.

    Args:
        libraries: where the kernel may come from.
        source: the CUDA text of those libraries.
    """
    runtime.cuda_emulation_finding_count.restype = ctypes.c_uint64
    runtime.cuda_emulation_finding_kernel.restype = ctypes.c_char_p
    name = runtime.cuda_emulation_finding_kernel().decode()
    found, record = [], _Record()
    for index in range(runtime.cuda_emulation_finding_count()):
        runtime.cuda_emulation_finding_read(ctypes.c_uint64(index), ctypes.byref(record))
        found.append(_finding(record, name, libraries, source))
    runtime.cuda_emulation_findings_clear()
    return found


def detection_error(findings: Sequence[Finding]) -> CompileError:
    """The error that lists the first findings and how many there are of each kind."""
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding.kind] = counts.get(finding.kind, 0) + finding.count
    first = findings[0]
    totals = ", ".join(f"{kind}: {count:,}" for kind, count in counts.items())
    shown = "\n".join(str(finding) for finding in findings[:_SHOWN])
    more = f"\nand {len(findings) - _SHOWN} more places" if len(findings) > _SHOWN else ""
    error = CompileError(
        f"kernel {first.kernel} breaks a rule of the CUDA execution model ({totals})",
        where=f"CUDA text, line {first.line or '?'}",
        why=shown + more,
        remedy="the lines are those of the CUDA text; report generated kernels with print(graph)",
    )
    error.findings = tuple(findings)  # type: ignore[attr-defined]
    return error


def _finding(record: _Record, kernel: str, libraries: Sequence[HostLibrary], source: str) -> Finding:
    library, text = next(
        (library, text) for library in libraries for text in library.kernels if text.name == kernel
    )
    has_other = bool(record.has_other)
    return Finding(
        kind=_KINDS[record.problem],
        kernel=kernel,
        line=_line(record.site, library),
        block=_index(record.block),
        thread=_index(record.thread),
        other_line=_line(record.other_site, library) if has_other else None,
        other_block=_index(record.other_block) if has_other else None,
        other_thread=_index(record.other_thread) if has_other else None,
        space=_SPACES[record.space],
        buffer=_buffer(record, library, text),
        offset=record.offset,
        bytes=record.bytes,
        buffer_bytes=record.buffer_bytes,
        count=record.count,
        ops=_ops(source, text),
    )


def _index(values: Sequence[int]) -> Index:
    return int(values[0]), int(values[1]), int(values[2])


def _line(site: int, library: HostLibrary) -> int | None:
    if site == 0:
        return None
    if site & _IS_LINE:
        return site & ~_IS_LINE
    return line_table(library.path, KERNEL_FILE).line(site)


def _buffer(record: _Record, library: HostLibrary, text: KernelText) -> str:
    if _SPACES[record.space] == "global":
        return text.parameters[record.number].name if record.number < len(text.parameters) else "memory"
    names = library.shared_variables[text.name]
    return names[record.number] if record.number < len(names) else "dynamic memory"


def _ops(source: str, text: KernelText) -> str:
    """What the comment over the kernel says."""
    above = source[: text.start].rstrip("\n").rpartition("\n")[2]
    match = _ANNOTATION.fullmatch(above)
    return match[1] if match else ""
