"""Where the CUDA tools from PyPI lie.  A CUDA installation of the system is never looked at."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from functools import lru_cache
from pathlib import Path

from plait.ir.errors import CompileError

_PACKAGES = {
    "bin/nvdisasm": "nvidia-cuda-nvdisasm",
    "include/cuda_fp16.h": "nvidia-cuda-runtime",
    "include/cccl": "nvidia-cuda-cccl",
    "include/crt/mma.h": "nvidia-cuda-crt",
    "lib/libnvrtc.so.13": "nvidia-cuda-nvrtc",
}


@lru_cache(maxsize=1)
def _roots() -> tuple[Path, ...]:
    """The `nvidia/cu13` folders of all site-packages folders."""
    spec = importlib.util.find_spec("nvidia")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return tuple(root for place in places if (root := Path(place) / "cu13").is_dir())


def toolkit_path(relative: str) -> Path:
    """A file or folder of the CUDA 13 wheels, such as `bin/ptxas`.

    Raises:
        CompileError: the package that ships it is not installed.
    """
    for root in _roots():
        if (path := root / relative).exists():
            return path
    package = _PACKAGES.get(relative, "nvidia-cuda-runtime")
    raise CompileError(
        f"{relative} of the CUDA 13 packages is missing",
        why=f"the Python package {package} ships it and is not installed",
        remedy=f'pip install "{package}>=13,<14"',
    )


def run_tool(relative: str, *arguments: str) -> str:
    """Standard output of a tool of the wheels; raises CompileError with its message when it fails."""
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TMPDIR": os.environ.get("TMPDIR", "/tmp")}
    command = [str(toolkit_path(relative)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        message = (done.stderr or done.stdout).strip()[:500]
        raise CompileError(f"{Path(relative).name} failed", why=message or f"exit code {done.returncode}")
    return done.stdout
