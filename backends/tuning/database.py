"""The tuning database: by the structure of a kernel, the fastest way to compute it on one processor.

A file is JSON.  One that ships with plait covers the models of its README on the processors
they were tuned on; `plait compile --tune` adds to one of the user's own, which goes first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from plait.backends.cache import cache_root
from plait.backends.targets import CpuTarget
from plait.backends.tuning.choice import Choice
from plait.ir.errors import InputError
from plait.ir.files import write_atomically

_FORMAT = 1
_SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class Problem:
    """The product that a kernel computes.

    Attributes:
        batch, rows, columns, depth: its extents; of a convolution, pixels are rows and channels columns.
        window: pixels of a convolution's window; 1 for other products.
    """

    batch: int
    rows: int
    columns: int
    depth: int
    window: int = 1


@dataclass
class Record:
    """What was measured of a kernel.

    Attributes:
        problem: what it computes.
        kernel: the name it had where it was measured.
        estimated: the choice that is taken without measurements.
        measured: microseconds by choice, as text.
        confirmed: choices that were measured in turns with the estimated one.
    """

    problem: Problem
    kernel: str
    estimated: str
    measured: dict[str, float] = field(default_factory=dict)
    confirmed: list[str] = field(default_factory=list)

    @property
    def best(self) -> str:
        """The fastest of the estimated choice and those that raced against it, as text."""
        return min((self.estimated, *self.confirmed), key=lambda text: self.measured[text])

    @property
    def fastest(self) -> str:
        """The choice of the least time of all, which chance may have favoured, as text."""
        return min(self.measured, key=lambda text: self.measured[text])

    @property
    def gain(self) -> float:
        """How many times faster the best choice is than the estimated one."""
        return self.measured[self.estimated] / self.measured[self.best]


@dataclass
class TuningDatabase:
    """Records by the structure of kernels, for one kind of processor.

    Attributes:
        machine: what a target must agree with for the records to be of use; see `machine_of`.
        records: by `plait.backends.tvm.groups.GroupEmitter.structure`.
    """

    machine: dict[str, Any]
    records: dict[str, Record] = field(default_factory=dict)

    @staticmethod
    def read(path: Path) -> TuningDatabase:
        """Read a file.  Raises InputError where it is missing or damaged."""
        try:
            content = json.loads(path.read_text())
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {content['format']}, not {_FORMAT}")
            records = {
                key: Record(**{**row, "problem": Problem(**row["problem"])})
                for key, row in content["records"].items()
            }
            for record in records.values():
                for text in record.measured:
                    Choice.parse(text)
                record.measured[record.best]
            return TuningDatabase(dict(content["machine"]), records)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as problem:
            raise InputError(
                f"the tuning database {path} cannot be read",
                why=f"{type(problem).__name__}: {problem}",
                remedy="delete it, or restore it from where it came; compiling with --tune makes a new one",
            ) from None

    def write(self, path: Path) -> None:
        """Write a file, in place of the one that is there.  Raises InputError where that is not possible."""
        content = {
            "format": _FORMAT,
            "machine": self.machine,
            "records": {key: asdict(self.records[key]) for key in sorted(self.records)},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as stream:
            stream.write((json.dumps(content, indent=1) + "\n").encode())

    def choices(self) -> dict[str, Choice]:
        """The choices that have beaten the estimated ones; where none has, estimates go on to decide."""
        won = {key: record for key, record in self.records.items() if record.best != record.estimated}
        return {key: Choice.parse(record.best) for key, record in won.items()}


def machine_of(target: CpuTarget) -> dict[str, Any]:
    """What of a processor decides which choice is fastest."""
    return {
        "processor": target.processor,
        "vector_bits": target.vector_bits,
        "registers": target.registers,
        "threads": target.threads,
    }


def machine_name(target: CpuTarget) -> str:
    """The name of the files for a processor: `znver3-256-2`."""
    return f"{target.processor}-{target.vector_bits}-{target.threads}"


def user_path(target: CpuTarget) -> Path:
    """The user's own database."""
    return cache_root() / "tuning" / f"{machine_name(target)}.json"


def shipped_path(target: CpuTarget) -> Path:
    """The database that ships for a processor, if there is one."""
    return _SHIPPED / f"{machine_name(target)}.json"


def read_for(target: CpuTarget, path: Path) -> TuningDatabase:
    """The database of a file as far as it is of use for a target: empty where there is none, or for another.

    Raises InputError where the file is damaged.
    """
    machine = machine_of(target)
    found = TuningDatabase.read(path) if path.is_file() else TuningDatabase(machine)
    return found if found.machine == machine else TuningDatabase(machine)


def databases(target: CpuTarget) -> list[Path]:
    """Files with records for a target, those that go first last; none where it wants estimates only."""
    if not target.tuned:
        return []
    return [path for path in (shipped_path(target), user_path(target)) if path.is_file()]


def known_choices(target: CpuTarget) -> Mapping[str, Choice]:
    """The choices of all databases for a target.  A damaged file of the user's is an InputError."""
    found: dict[str, Choice] = {}
    for path in databases(target):
        found.update(read_for(target, path).choices())
    return found


def digest(target: CpuTarget) -> str:
    """A hash of the files that decide choices for a target."""
    total = hashlib.sha256()
    for path in databases(target):
        total.update(path.read_bytes())
    return total.hexdigest()


__all__ = [
    "Problem",
    "Record",
    "TuningDatabase",
    "databases",
    "digest",
    "known_choices",
    "machine_of",
    "read_for",
    "shipped_path",
    "user_path",
]
