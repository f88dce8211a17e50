"""The folder that a failing pass leaves behind."""

from __future__ import annotations

import traceback
from pathlib import Path

from plait.ir import Graph, bundle

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

    It holds `before.plait` (the graph in front of the failing pass), `rerun.py`,
    `report.json` (pipeline, versions, command, error) and `error.txt` (the traceback).

    Returns:
        The path of the bundle; an older bundle of the same graph is overwritten.
    """
    return bundle.write_bundle(
        folder,
        before,
        "before.plait",
        script=_SCRIPT.format(pipeline=failed, verify_each=verify_each),
        facts={
            "pipeline": pipeline,
            "failed": failed,
            "versions": bundle.versions(("plait", "torch", "numpy")),
        },
        error=error,
        texts={"error.txt": "".join(traceback.format_exception(error))},
    )
