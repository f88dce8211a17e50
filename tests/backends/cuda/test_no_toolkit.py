"""The whole GPU path where there is neither an nvcc, nor a CUDA toolkit, nor a GPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, shutil
import numpy as np
import plait

assert shutil.which("nvcc") is None and shutil.which("ptxas") is None
assert not {"CUDA_PATH", "CUDA_HOME"} & set(os.environ)
rng = np.random.default_rng(0)
weight = rng.normal(size=(12, 40)).astype(np.float32)
from plait.ir.value import hash_content
graph = plait.parse(
    f'''plait.ir 1.0
const @w : f32[12,40] = blob("{hash_content(weight)}")
func @main(%x: f32[9,40]) -> f32[9,12] {{
  %y = nn.linear(%x, @w) {{act="relu"}} : f32[9,12]
  %z = nn.softmax(%y) {{axis=-1}} : f32[9,12]
  return %z
}}
''',
    constants={"w": weight},
)
executable = plait.compile(graph, target="a100")
assert next(iter(executable.images.values())).cubin.startswith(b"\\x7fELF")
for kernel in executable.kernels:
    assert 0 < kernel.registers <= 255 and kernel.spills == 0
x = rng.normal(size=(9, 40)).astype(np.float32)
found = executable.emulate(x, check=True, lane_order="reversed")
(wanted,) = plait.interpret(graph, {"x": x})
np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), atol=1e-5)
print("executed", len(executable.kernels), "kernels")
"""


@pytest.mark.slow
def test_compile_read_resources_and_emulate_with_nothing_but_a_host_compiler(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("g++", "ld", "as"):
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"there is no {name}")
        (tools / name).symlink_to(found)
    (tools / "python").symlink_to(sys.executable)
    kept = ("HOME", "LANG", "PYTHONPATH", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"PATH": str(tools), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "executed 2 kernels" in done.stdout
