"""Running saved executables on a device: TVM's CUDA runtime on a driver that runs kernels on the host.

Everything is real but the driver: the files, the loader, TVM's runtime, its launch
parameters and the order of arguments.  What the driver is asked for is in a log.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import plait
from plait.backends import compile_graph
from plait.backends.cuda.emulator.build import build_library, find_compiler, load_runtime
from plait.backends.cuda.toolkit import toolkit_path
from plait.backends.executable import Executable
from plait.frontends.families import example
from plait.ir.dims import evaluate, parse_dim
from plait.ir.interpret import interpret

from .test_a100 import lowered

SCRIPT = """
import sys
import numpy as np
import plait
exe = plait.load(sys.argv[1])
given = dict(np.load(sys.argv[2]))
try:
    np.save(sys.argv[3], exe(**given))
    np.testing.assert_array_equal(exe(**given), np.load(sys.argv[3]))
except plait.InputError as error:
    print(error)
    sys.exit(2)
"""


@dataclass
class Machine:
    """A machine with the fake driver, and an executable on its disk."""

    folder: Path
    executable: Executable
    environment: dict[str, str]

    def run(self, batch: int, **settings: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """Run the saved executable in a fresh process; the process and the lines of the driver's log."""
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        inputs = example("small_cnn").inputs(batch, batch)
        np.savez(self.folder / "inputs.npz", **{k: v.numpy() for k, v in inputs.items()})
        command = [
            sys.executable,
            "-c",
            SCRIPT,
            *(str(self.folder / n) for n in ("net", "inputs.npz", "out.npy")),
        ]
        done = subprocess.run(
            command,
            env={**self.environment, "FAKE_DRIVER_LOG": str(log), **settings},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done, log.read_text().splitlines() if log.exists() else []


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("machine")
    executable = compile_graph(lowered("small_cnn"), "a100")
    executable.save(folder / "net")
    source = Path(__file__).parent / "cuda" / "fake_driver.cc"
    include = toolkit_path("include/cuda_runtime_api.h").parent
    for name in ("libcuda.so.1", "libcudart.so.13"):
        subprocess.run(
            [find_compiler(), "-O1", "-w", "-shared", "-fPIC", f"-Wl,-soname,{name}", f"-I{include}",
             str(source), "-ldl", "-o", str(folder / name)],
            check=True,
        )  # fmt: skip
    library = build_library(executable.cuda_source).path
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "LD_LIBRARY_PATH": str(folder),
        "FAKE_DRIVER_LIBRARIES": f"{load_runtime()._name}:{library}",
    }
    return Machine(folder, executable, environment)


@pytest.mark.parametrize(("capability", "form"), [("8.0", "cubin"), ("8.6", "cubin"), ("9.0", "ptx")])
def test_a_saved_executable_runs(machine: Machine, capability: str, form: str) -> None:
    batch = 3
    done, log = machine.run(batch, FAKE_DRIVER_CAPABILITY=capability)
    assert done.returncode == 0, done.stdout + done.stderr
    (want,) = interpret(machine.executable.graph, example("small_cnn").inputs(batch, batch))
    np.testing.assert_allclose(
        np.load(machine.folder / "out.npy"), want.detach().numpy(), rtol=1e-4, atol=1e-5
    )
    kernels = machine.executable.kernels
    assert [line for line in log if line.startswith("load")] == [f"load {form}"] * len(kernels)
    launches = [line.split()[1:] for line in log if line.startswith("launch")]
    assert len(launches) == 2 * sum(kernel.calls for kernel in kernels)
    table = {kernel.name: kernel for kernel in kernels}
    for name, *numbers in launches:
        kernel = table[name]
        extents = [*(kernel.grid or ()), *(kernel.block or ()), kernel.dynamic_shared_bytes or 0]
        wanted = [evaluate(parse_dim(str(extent)), {"B": batch}) for extent in extents]
        assert list(map(int, numbers)) == wanted


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"LD_LIBRARY_PATH": ""}, ["there is no NVIDIA driver", "libcuda.so.1", "emulate"]),
        ({"FAKE_DRIVER_DEVICES": "0"}, ["finds no device", "CUDA_ERROR_NO_DEVICE (100)", "emulate"]),
        ({"FAKE_DRIVER_VERSION": "12040"}, ["the NVIDIA driver is for CUDA 12.4", "driver 580"]),
        ({"FAKE_DRIVER_CAPABILITY": "7.5"}, ["fake device cannot run code for a100", "sm_75", "sm_80"]),
    ],
)
def test_what_is_missing_is_said(machine: Machine, settings: dict[str, str], words: list[str]) -> None:
    done, log = machine.run(1, **settings)
    assert done.returncode == 2, done.stdout + done.stderr
    for word in words:
        assert word in done.stdout
    assert not log


def check(machine: Machine, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run bench/gpu_check.py on the small net."""
    script = Path(__file__).parents[2] / "bench" / "gpu_check.py"
    command = [sys.executable, str(script), "small_cnn", "--batch", "2", "--repeats", "3"]
    return subprocess.run(
        [*command, "--json", str(machine.folder / "check.json")],
        env={**machine.environment, **settings},
        cwd=machine.folder,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_the_check_of_a_gpu_says_what_is_missing(machine: Machine) -> None:
    done = check(machine, LD_LIBRARY_PATH="")
    assert done.returncode == 2
    assert "there is no NVIDIA driver" in done.stderr
    assert not (machine.folder / "check.json").exists()


@pytest.mark.slow
def test_the_check_of_a_gpu_measures_every_kernel(machine: Machine) -> None:
    graph = plait.optimize(lowered("small_cnn"))
    fixed = compile_graph(graph, "a100", dims={"B": 2})
    library = build_library(fixed.cuda_source).path
    done = check(machine, FAKE_DRIVER_LIBRARIES=f"{load_runtime()._name}:{library}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((machine.folder / "check.json").read_text())
    assert found["device"]["name"] == "fake device"
    (model,) = found["models"]
    assert model["max_error"] <= 1
    assert model["median_us"] > 0
    assert len(found["rows"]) == sum(kernel.calls for kernel in fixed.kernels)
    for row in found["rows"]:
        assert row["max_error"] is not None
        assert row["max_error"] <= 1
        assert row["median_us"] > 0
        assert row["device"] == "fake device"
        assert row["driver"] == "13.0"
        assert row["opnames"]
        assert row["dims"][-1][0] == 2
        assert set(row["dtypes"]) == {"float32"}


def test_compiling_where_there_is_a_device_leaves_the_text_to_plait(machine: Machine) -> None:
    script = textwrap.dedent(
        """
        import plait
        from plait.backends import compile_graph
        from plait.frontends.families import example
        from plait.frontends.pytorch import lower_torch
        import tvm
        from plait.backends.targets import A100
        from plait.backends.tvm.device import require_device
        require_device(A100)
        found = example("small_cnn")
        exe = compile_graph(lower_torch(found.build(0), found.inputs(2, 0), dynamic=found.dynamic), "a100")
        print(exe(**found.inputs(2, 7)).sum().item())
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=machine.environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (want,) = interpret(machine.executable.graph, example("small_cnn").inputs(2, 7))
    np.testing.assert_allclose(float(done.stdout), want.sum().item(), rtol=1e-3)
