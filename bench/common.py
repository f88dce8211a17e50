"""What every benchmark records beside its figures."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from plait.ir.files import write_atomically

PACKAGES = (
    "plait",
    "numpy",
    "torch",
    "apache-tvm",
    "apache-tvm-ffi",
    "onnx",
    "onnxruntime",
    "networkx",
    "tensorflow-cpu",
    "keras",
    "dgl",
    "transformers",
)


def machine() -> dict[str, Any]:
    """Processor, cores and system of this run."""
    model = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that matter, where installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_results(path: Path, name: str, results: dict[str, Any]) -> None:
    """Write one benchmark's results with versions, machine and date as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "benchmark": name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(),
        **results,
    }
    text = json.dumps({key: value for key, value in record.items() if key != "rows"}, indent=2)
    if "rows" in record:  # one line a row, so that a change of one figure is a change of one line
        rows = ",\n".join(f"    {json.dumps(row)}" for row in record["rows"])
        text = f'{text[:-2]},\n  "rows": [\n{rows}\n  ]\n}}'
    with write_atomically(path) as stream:
        stream.write((text + "\n").encode())
