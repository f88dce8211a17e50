"""The folder that a failure leaves behind: all that someone else needs to see it again."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from plait.ir.archive import save
from plait.ir.errors import InputError, PlaitError
from plait.ir.files import write_atomically
from plait.ir.graph import Graph


def write_bundle(
    folder: Path,
    graph: Graph,
    name: str,
    *,
    script: str,
    facts: Mapping[str, Any],
    error: BaseException,
    texts: Mapping[str, str],
) -> Path:
    """Write `folder/plait-repro-<graph id prefix>`; an older bundle of the same graph is overwritten.

    It holds the graph (constants included unless their data is absent), `rerun.py`,
    and `report.json` with the facts, the command and the error.

    Args:
        name: file name of the graph.
        script: text of `rerun.py`.
        facts: further entries of `report.json`.
        error: what happened.
        texts: further files by name.

    Returns:
        The path of the bundle.
    """
    bundle = folder / f"plait-repro-{graph.id[:12]}"
    bundle.mkdir(parents=True, exist_ok=True)
    note = None
    try:
        save(graph, bundle / name)
    except InputError as problem:
        note = f"constants are missing: {problem.what}"
        _write(bundle / name, str(graph))
    report = {
        "graph": graph.id,
        **facts,
        "command": f"python {bundle / 'rerun.py'}",
        "note": note,
        "error": error.to_dict() if isinstance(error, PlaitError) else repr(error),
    }
    files = {"rerun.py": script, "report.json": json.dumps(report, indent=2) + "\n", **texts}
    for file, text in files.items():
        _write(bundle / file, text)
    return bundle


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python, of the system and of packages."""
    found = {"python": sys.version.split()[0], "platform": platform.platform()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _write(path: Path, text: str) -> None:
    with write_atomically(path) as stream:
        stream.write(text.encode())
