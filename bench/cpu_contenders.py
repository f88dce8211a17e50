"""What races on the CPU: plait, ONNX Runtime, torch eager, torch.compile, and TVM's default pipeline.

Every contender computes one model on one batch with the same number of threads.  The
thread pools of all of them spin for a while after a call, so that two of them in one
process would take each other's processor: each gets turns of several calls, after a
pause in which the others' threads fall asleep and a call that wakes its own.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from main_job import export_onnx, timed, worst_error

import plait
from plait.backends.targets import CpuTarget, host_cpu
from plait.frontends.families import example

#: Calls of one turn at least, and at most.
CALLS = (2, 50)


@dataclass
class Case:
    """A model with one batch of inputs.

    Attributes:
        name: of an example of the catalogue.
        batch: samples of one call.
        threads: that each contender may use.
        seed: of weights and inputs.
    """

    name: str
    batch: int
    threads: int
    seed: int = 0

    @cached_property
    def model(self) -> Any:
        """The torch module in eval mode."""
        return example(self.name).build(self.seed)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Torch tensors by parameter of `forward`."""
        return example(self.name).inputs(self.batch, self.seed + self.batch)

    @cached_property
    def graph(self) -> plait.Graph:
        """The model in the IR, with the batch as the only dim."""
        chosen = example(self.name)
        return plait.lower(self.model, chosen.inputs(2, self.seed), dynamic=chosen.dynamic, name=self.name)

    def use_threads(self) -> None:
        """Give torch its threads; to be called in a fresh process, before torch computes anything."""
        import torch

        torch.set_num_threads(self.threads)
        torch.set_num_interop_threads(1)

    def compile(self, target: CpuTarget) -> Any:
        """The plait executable for this batch."""
        return plait.compile(self.graph, target=target, dims={"B": self.batch}, threads=self.threads)


#: One call of a contender, and what makes a contender ready for a case.
Run = Callable[[], Any]
Prepare = Callable[[Case], Run]


def prepare_plait(case: Case) -> Run:
    """Compiled for this processor, with the batch as a constant."""
    executable = case.compile(host_cpu())
    return lambda: executable(**case.inputs)


def prepare_onnxruntime(case: Case) -> Run:
    """ONNX Runtime with all graph optimisations on the file that torch.onnx.export writes for this batch."""
    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx(example(case.name), case.model, case.seed, Path(folder), batch=case.batch)
        session = onnx_session(path, case.threads)
    feeds = {name: tensor.numpy() for name, tensor in case.inputs.items()}
    return lambda: session.run(None, feeds)


def onnx_session(path: Path, threads: int, profile: Path | None = None) -> Any:
    """A session of ONNX Runtime on the CPU; it writes a profile with the prefix `profile` if one is given."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def prepare_torch(case: Case) -> Run:
    """Eager torch."""
    return lambda: case.model(**case.inputs)


def prepare_torch_compile(case: Case) -> Run:
    """torch.compile with inductor, for fixed shapes and with weights frozen into the code."""
    import torch
    from torch._inductor import config

    config.freezing = True
    config.compile_threads = 1  # a pool of compilers would idle beside what is measured
    compiled = torch.compile(case.model, dynamic=False)
    return lambda: compiled(**case.inputs)


def prepare_tvm_default(case: Case) -> Run:
    """TVM's own importer and its default pipeline, without any plait code."""
    import torch
    import tvm
    from tvm import relax
    from tvm.relax.frontend.torch import from_exported_program

    program = torch.export.export(case.model, tuple(case.inputs.values()))
    target = tvm.target.Target({"kind": "llvm", "mcpu": host_cpu().processor, "num-cores": case.threads})
    with target:
        code = tvm.compile(
            from_exported_program(program), target, relax_pipeline=relax.get_pipeline("default")
        )
    fast_cores = 1
    tvm.get_global_func("runtime.config_threadpool")(fast_cores, case.threads)
    machine = relax.VirtualMachine(code, tvm.cpu())
    arguments = [tvm.runtime.tensor(tensor.numpy()) for tensor in case.inputs.values()]
    return lambda: [result.numpy() for result in machine["main"](*arguments)]


PEERS: dict[str, Prepare] = {
    "onnxruntime": prepare_onnxruntime,
    "torch": prepare_torch,
    "torch_compile": prepare_torch_compile,
    "tvm_default": prepare_tvm_default,
}


def race(case: Case, entrants: Mapping[str, Prepare], **turns: Any) -> dict[str, dict[str, Any]]:
    """Prepare and time some contenders.

    Args:
        turns: options of `take_turns`.

    Returns:
        By contender the figures of `take_turns`, and beside them `prepare_s`, the seconds of
        compilation and first call, and `error`, the distance from eager torch in units of
        the tolerance; or `failure`, why it could not run.
    """
    import torch

    case.use_threads()
    outcomes: dict[str, dict[str, Any]] = {}
    ready: dict[str, Run] = {}
    with torch.no_grad():
        expected = case.model(**case.inputs)
        for name, prepare in entrants.items():
            try:
                (run, result), seconds = timed(lambda prepare=prepare: _first(prepare(case)))
                outcomes[name] = {"prepare_s": round(seconds, 1), "error": worst_error(result, expected)}
                ready[name] = run
            except Exception as error:  # one contender that cannot run leaves the others
                lines = str(error).strip().splitlines() or [""]
                outcomes[name] = {"failure": f"{type(error).__name__}: {lines[0][:200]}"}
        for name, figures in take_turns(ready, **turns).items():
            outcomes[name] = figures | outcomes[name]
    return outcomes


def _first(run: Run) -> tuple[Run, Any]:
    """A contender and what its first call gives, which compiles where that is lazy."""
    return run, run()


def take_turns(
    ready: dict[str, Run], *, rounds: int, pause_s: float, turn_s: float
) -> dict[str, dict[str, Any]]:
    """Time contenders in turns, in the opposite order every other round.

    Args:
        rounds: turns of each contender.
        pause_s: idle seconds before each turn.
        turn_s: seconds after which a turn ends, within the bounds of `CALLS`.

    Returns:
        By contender `ms`, the median over the turns of the median of their calls, the
        medians `fastest_ms` and `slowest_ms` of single turns, and `calls`, those that counted.
    """
    medians: dict[str, list[float]] = {name: [] for name in ready}
    calls = dict.fromkeys(ready, 0)
    order = list(ready.items())
    for _ in range(rounds):
        for name, run in order:
            time.sleep(pause_s)
            run()
            found = _turn(run, turn_s)
            medians[name].append(statistics.median(found))
            calls[name] += len(found)
        order.reverse()
    return {name: _figures(found, calls[name]) for name, found in medians.items()}


def _turn(run: Run, turn_s: float) -> list[float]:
    """The milliseconds of each call of one turn."""
    fewest, most = CALLS
    found: list[float] = []
    end = time.perf_counter() + turn_s
    while len(found) < fewest or (len(found) < most and time.perf_counter() < end):
        found.append(1e3 * timed(run)[1])
    return found


def _figures(medians: Sequence[float], calls: int) -> dict[str, Any]:
    return {
        "ms": round(statistics.median(medians), 4),
        "fastest_ms": round(min(medians), 4),
        "slowest_ms": round(max(medians), 4),
        "calls": calls,
    }


def time_slow(case: Case, prepare: Prepare, *, seconds: float, calls: int) -> dict[str, Any]:
    """A contender alone, by few calls: the fields of `race`.

    Args:
        seconds: no further call starts that would end later than this if it took twice the first.
        calls: at most, after a first one, which counts only where it is the only one.
    """
    import torch

    started = time.perf_counter()
    case.use_threads()
    with torch.no_grad():
        expected = case.model(**case.inputs)
        run, compile_s = timed(lambda: prepare(case))
        result, first_s = timed(run)
        found: list[float] = []
        while len(found) < calls and time.perf_counter() - started + 2 * first_s < seconds:
            found.append(1e3 * timed(run)[1])
    figures = _figures(found or [1e3 * first_s], max(1, len(found)))
    return figures | {"prepare_s": round(compile_s + first_s, 1), "error": worst_error(result, expected)}
