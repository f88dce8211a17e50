"""How long compiling takes: the first time, and the second time out of the cache, each in a fresh process.

Measured around `plait.compile` of a graph that is already lowered, with plait imported.
CPU seconds count the processes that the compilation starts; on a machine with other work
they tell more than wall seconds.

Run: python bench/compile_time.py [MODEL ...] [--targets cpu a100] [--json PATH]; resnet50 by default.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import write_results

import plait

_SCRIPT = """
import json, resource, sys, time
import plait
from plait.backends.isolation import compile_worker

graph = plait.load(sys.argv[1])

def cpu_seconds():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(entry.ru_utime + entry.ru_stime for entry in used)

before, start = cpu_seconds(), time.perf_counter()
executable = plait.compile(graph, target=sys.argv[2], cache=sys.argv[3])
wall = time.perf_counter() - start
compile_worker().close()
print(json.dumps({"wall_s": wall, "cpu_s": cpu_seconds() - before, "kernels": len(executable.kernels),
                  "stages_s": executable.seconds}))
"""


def measure(graph: Path, target: str, folder: Path) -> dict[str, Any]:
    """One compilation in a fresh process, with its caches in `folder`."""
    command = [sys.executable, "-c", _SCRIPT, str(graph), target, str(folder / "compile")]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("models", nargs="*", default=["resnet50"])
    options.add_argument("--targets", nargs="+", default=["cpu", "a100"])
    options.add_argument("--json", type=Path, default=Path("build/compile_time.json"))
    given = options.parse_args()
    rows = []
    for model in given.models:
        for target in given.targets:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                plait.lower(model).save(folder / "graph.plait")
                for run in ("first", "cached"):
                    found = measure(folder / "graph.plait", target, folder)
                    rows.append({"model": model, "target": target, "run": run, **found})
                    print(f"{model} {target} {run}: {found['wall_s']:.2f} s wall, {found['cpu_s']:.2f} s CPU")
    given.json.parent.mkdir(parents=True, exist_ok=True)
    write_results(given.json, "compile_time", {"rows": rows})


if __name__ == "__main__":
    main()
