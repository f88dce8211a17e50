"""The jobs of the compile worker: a saved graph becomes a finished executable on disk."""

from __future__ import annotations

import faulthandler
import importlib
import os
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from plait.backends.targets import CpuTarget, Target
from plait.ir import Op, PlaitError
from plait.ir.archive import load

Report = Callable[[dict[str, Any]], None]
#: Where a `Worker` finds the function of this module.
FUNCTION = f"{__name__}:run"


def prepare() -> None:
    """Load what every job needs, before the first one comes."""
    from plait.backends.tvm.toolchain import require_tvm

    with suppress(PlaitError):  # the job says so
        require_tvm()
        import plait.backends.tvm.compile  # noqa: F401
    # Behind TVM's handler, which prints the native stack: the first call then prints that of Python.
    faulthandler.enable()


def run(job: dict[str, Any], report: Report) -> dict[str, Any]:
    """Do one job; errors are part of the answer.

    A job has `graph` (path of a saved graph), `target`, `modules` (to import first),
    `cache_root` (where the caller keeps caches and tuning databases), and
    `output`, the path for the executable, or None to compile each kernel alone, which
    shows the one that crashes the code generator.  With `tune`, a number of seconds, it
    searches for choices instead, and adds them to the user's tuning database.
    """
    try:
        return {"seconds": _compile(job, report)}
    except PlaitError as error:
        return {"error": error.to_dict(), "traceback": traceback.format_exc()}
    except Exception as error:  # the caller makes it a CompileError with all of this
        return {"error": None, "why": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def _compile(job: dict[str, Any], report: Report) -> dict[str, Any]:
    from plait.backends.tvm.toolchain import require_tvm

    os.environ["XDG_CACHE_HOME"] = str(Path(job["cache_root"]).parent)
    for module in job["modules"]:
        importlib.import_module(module)
    require_tvm()
    from plait.backends.artifact import write
    from plait.backends.tvm.compile import compile_code, compile_each

    def progress(stage: str, done: int, total: int, ops: Sequence[Op] = ()) -> None:
        report({"stage": stage, "done": done, "total": total, "ops": [op.name for op in ops]})

    graph = load(job["graph"])
    target = Target.from_dict(job["target"])
    if job.get("tune") is not None:
        from plait.backends.tvm.search import tune_for_user

        assert isinstance(target, CpuTarget)  # the caller has refused others
        return tune_for_user(graph, target, job["tune"], progress).to_dict()
    if job["output"] is None:
        compile_each(graph, target, progress)
        return {}
    code = compile_code(graph, target, progress)
    progress("link", 0, 1)
    with Path(job["output"]).open("wb") as stream:
        write(graph, target, code, stream)
    return code.seconds
