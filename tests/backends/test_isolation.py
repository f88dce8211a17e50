"""Crashes and hangs of the code generator end the worker process, and not this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from plait.backends import compile_graph
from plait.backends.isolation import compile_in_worker, compile_worker
from plait.backends.targets import resolve_target
from plait.ir import CompileError, InputError
from plait.ir.archive import load

from .test_executable import arguments, network

#: Emissions that take the place of the one of core.sum, in the worker only.
HARMFUL = """
import ctypes, os, time
from plait.backends.tvm.emit.table import EMISSIONS, Emission
from plait.ir.ops import core

def emission(op, args, emitter):
    print("about to emit", op.name, flush=True)
    {action}

EMISSIONS[core.Sum] = Emission(EMISSIONS[core.Sum].kind, emission)
"""
ACTIONS = {
    "segfault": "ctypes.string_at(0)",
    "abort": "os.abort()",
    "killed": "os.kill(os.getpid(), 9)",
    "hang": "time.sleep(1000)",
    "bug": "raise KeyError('no such thing')",
}


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    for name, action in ACTIONS.items():
        (folder / f"harmful_{name}.py").write_text(HARMFUL.format(action=action))
    return folder


@pytest.fixture
def extended(modules: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The worker can import the harmful modules; one that has imported them is not used again."""
    monkeypatch.syspath_prepend(str(modules))
    yield
    compile_worker().close()


def fail(name: str, folder: Path, seconds: float = 300.0) -> CompileError:
    with pytest.raises(CompileError) as caught:
        compile_in_worker(
            network(),
            resolve_target("cpu"),
            folder / "out",
            seconds=seconds,
            bundle_dir=folder,
            modules=[f"harmful_{name}"],
        )
    return caught.value


@pytest.mark.parametrize(
    ("name", "signal_name"), [("segfault", "SIGSEGV"), ("abort", "SIGABRT"), ("killed", "SIGKILL")]
)
def test_a_crash_is_an_error_that_names_the_op(
    name: str, signal_name: str, tmp_path: Path, extended: None
) -> None:
    error = fail(name, tmp_path)
    assert f"crashed ({signal_name})" in error.what
    assert "(core.sum)" in error.what
    assert error.why
    (bundle,) = tmp_path.glob("plait-repro-*")
    assert str(bundle / "rerun.py") in (error.remedy or "")
    assert load(bundle / "graph.plait") == network()
    report = json.loads((bundle / "report.json").read_text())
    assert report["target"]["kind"] == "cpu"
    assert report["versions"]["apache-tvm"].startswith("0.27")
    assert signal_name in report["error"]["what"]
    output = (bundle / "output.txt").read_text()
    assert "about to emit" in output
    if name != "killed":  # nothing is left to tell then
        assert f"harmful_{name}.py" in output  # the Python stack at the crash


def test_the_bundle_of_a_crash_repeats_it(tmp_path: Path, modules: Path, extended: None) -> None:
    fail("segfault", tmp_path)
    (bundle,) = tmp_path.glob("plait-repro-*")
    done = subprocess.run(
        [sys.executable, str(bundle / "rerun.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGSEGV


def test_a_hang_ends_after_the_time_given(tmp_path: Path, extended: None) -> None:
    started = time.monotonic()
    error = fail("hang", tmp_path, seconds=5.0)
    assert "gave no answer within 5 s" in error.what
    assert "(core.sum)" in error.what
    assert time.monotonic() - started < 120
    assert compile_worker().process_id is None


def test_an_exception_of_an_emission_names_the_op(tmp_path: Path, extended: None) -> None:
    error = fail("bug", tmp_path)
    assert "core.sum" in str(error)
    assert "no such thing" in str(error)


def test_an_exception_of_the_compiler_itself_leaves_a_bundle(tmp_path: Path, extended: None) -> None:
    error = fail("of_nobody", tmp_path)  # a module that does not exist
    assert "the compiler failed" in error.what
    assert "ModuleNotFoundError" in (error.why or "")
    (bundle,) = tmp_path.glob("plait-repro-*")
    assert "Traceback" in (bundle / "output.txt").read_text()


def test_the_next_compilation_after_a_crash_works(tmp_path: Path, extended: None) -> None:
    fail("segfault", tmp_path)
    exe = compile_graph(network(), "cpu", isolate=True, bundle_dir=None)
    wanted = compile_graph(network(), "cpu")(*arguments())
    for got, want in zip(exe(*arguments()), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_threads_share_the_worker() -> None:
    found: dict[int, list[np.ndarray]] = {}

    def work(batch: int) -> None:
        exe = compile_graph(network(), "cpu", dims={"B": batch}, isolate=True)
        found[batch] = exe(*arguments(batch))

    threads = [threading.Thread(target=work, args=(batch,)) for batch in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for batch, results in found.items():
        for got, want in zip(results, compile_graph(network(), "cpu")(*arguments(batch)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    assert sorted(found) == [1, 2, 3]


def test_errors_of_the_compiler_arrive_as_they_are(tmp_path: Path) -> None:
    from plait.ir import Graph
    from plait.ir.ops import core
    from plait.ir.types import TensorType, dtype_of

    g = Graph("complex")
    x = g.add_input("x", TensorType(dtype_of(np.dtype("complex64")), (4,)))
    g.set_outputs([g.emit(core.Add(x, x))])
    messages = []
    for isolate in (True, False):
        with pytest.raises(CompileError) as caught:
            compile_graph(g, "cpu", isolate=isolate, bundle_dir=tmp_path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert not list(tmp_path.iterdir())  # a fault of the graph, and none of the compiler
    with pytest.raises(InputError, match="no dim Q"):
        compile_graph(network(), "cpu", dims={"Q": 1}, isolate=True)


def test_the_worker_ends_with_its_parent(modules: Path, tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import sys, threading, time
        from pathlib import Path
        sys.path.insert(0, {str(modules)!r})
        from plait.backends.isolation import compile_in_worker, compile_worker
        from plait.backends.targets import resolve_target
        from plait.ir import parse
        graph = parse({SUM!r})
        work = lambda: compile_in_worker(
            graph, resolve_target("cpu"), Path({str(tmp_path / "out")!r}), modules=["harmful_hang"])
        threading.Thread(target=work, daemon=True).start()
        while compile_worker().process_id is None:
            time.sleep(0.05)
        print(compile_worker().process_id, flush=True)
        time.sleep(1000)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert _alive(worker)
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 60
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _alive(worker)


SUM = (
    "plait.ir 1.0\nfunc @sum(%x: f32[4]) -> f32[] {\n  %y = core.sum(%x) {axes=[0]} : f32[]\n  return %y\n}\n"
)


def _alive(process: int) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
