"""The folder that a failing pass leaves behind: all that someone else needs to see the failure."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import traceback
from pathlib import Path

from plait.ir import Graph, PlaitError
from plait.ir.archive import save
from plait.ir.errors import InputError
from plait.ir.files import write_atomically

_SCRIPT = '''\
"""Runs the pass that failed on the graph as it was before."""

from pathlib import Path

from plait.ir.archive import load
from plait.passes import optimize

before = load(Path(__file__).with_name("before.plait"))
after, report = optimize(before, {pipeline!r}, verify_each={verify_each!r}, bundle_dir=None)
print(report)
'''


def write_bundle(
    folder: Path, before: Graph, pipeline: str, failed: str, error: BaseException, *, verify_each: bool
) -> Path:
    """Write the bundle of a failure into `folder/plait-repro-<graph id prefix>`.

    It holds `before.plait` (the graph in front of the failing pass; constants
    included unless their data is absent), `rerun.py`, `report.json` (pipeline,
    versions, command, error) and `error.txt` (the traceback).

    Returns:
        The path of the bundle; an older bundle of the same graph is overwritten.
    """
    bundle = folder / f"plait-repro-{before.id[:12]}"
    bundle.mkdir(parents=True, exist_ok=True)
    note = None
    try:
        save(before, bundle / "before.plait")
    except InputError as problem:
        note = f"constants are missing: {problem.what}"
        _write(bundle / "before.plait", str(before))
    _write(bundle / "rerun.py", _SCRIPT.format(pipeline=failed, verify_each=verify_each))
    facts = {
        "graph": before.id,
        "pipeline": pipeline,
        "failed": failed,
        "command": f"python {bundle / 'rerun.py'}",
        "versions": versions(),
        "note": note,
        "error": error.to_dict() if isinstance(error, PlaitError) else repr(error),
    }
    _write(bundle / "report.json", json.dumps(facts, indent=2) + "\n")
    _write(bundle / "error.txt", "".join(traceback.format_exception(error)))
    return bundle


def versions() -> dict[str, str]:
    """Versions of what decides over the outcome of a pass."""
    found = {"python": sys.version.split()[0], "platform": platform.platform()}
    for package in ("plait", "torch", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _write(path: Path, text: str) -> None:
    with write_atomically(path) as stream:
        stream.write(text.encode())
