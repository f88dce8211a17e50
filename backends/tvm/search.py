"""A short search over the choices of a graph's products, by measuring them on this machine.

Each distinct product is a kernel with a few dozen choices: register tiles, the order of the
loops, and Winograd's transforms where they apply.  The kernels are first measured as they
are estimated; then, until time is up, the choice that a cost model expects to save most of
the whole graph's time is compiled, checked against the first result and measured.  In the
last third of the time, winners race once more against the estimates, in turns, since the
least of many noisy times is too good to be true.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import s_tir, te

from plait.backends.executable import use_threads
from plait.backends.targets import CpuTarget
from plait.backends.tuning import Choice, Problem, Record, TuningDatabase, read_for, shipped_path, user_path
from plait.backends.tvm.emit.cpu.product import Product
from plait.backends.tvm.emit.cpu.winograd import TRANSFORMS, Winograd
from plait.backends.tvm.emit.expressions import size_of
from plait.backends.tvm.emit.loops import product as product_of
from plait.backends.tvm.groups import GroupEmitter, KernelFunction
from plait.backends.tvm.layouts import Layouts, assign_layouts
from plait.backends.tvm.partition import Group, partition
from plait.backends.tvm.ranking import Ranking, estimated_order, work
from plait.backends.tvm.schedule_cpu import schedule
from plait.backends.tvm.toolchain import tvm_target
from plait.ir import Constant, Graph, Op, PlaitError

#: Bytes that are written before a call, so that weights come from where they come from in a network.
_FLUSH_BYTES = 16 << 20
_CALLS = 7
_TOLERANCE = 2e-3
#: Between two times that the user's database is written while a search runs.
_WRITE_SECONDS = 10.0
#: The share of the time in which winners race again, and their calls.
_CONFIRMING, _CONFIRMATIONS = 0.3, 15
#: Choices of one kernel that race against the estimated one at most.
_CHALLENGERS = 2
#: Choices of one kernel that are measured at most.
_MOST = 40

Report = Callable[[str, Choice, float], None]
Progress = Callable[[str, int, int, Sequence[Op]], None]


@dataclass(frozen=True)
class _Call:
    """A compiled kernel and its arrays; the first is what comes from the kernel before."""

    function: Any
    arguments: list[Any]


@dataclass
class _Task:
    """One distinct kernel: where it occurs, and what is left to try."""

    key: str
    group: Group
    calls: int
    record: Record
    left: list[Choice]
    inputs: dict[Any, np.ndarray]
    expected: np.ndarray | None = None

    @property
    def best_us(self) -> float:
        """The least time so far."""
        return self.record.measured[self.record.fastest]


@dataclass
class TuningReport:
    """What a search did.

    Attributes:
        kernels: distinct products of the graph.
        measured: choices measured in this search.
        seconds: that it took.
        before_us, after_us: of all products of one run together, by estimated and by best choices.
        refused: choices that did not compile, or gave other results, with the reason.
    """

    kernels: int = 0
    measured: int = 0
    seconds: float = 0.0
    before_us: float = 0.0
    after_us: float = 0.0
    refused: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON can hold them."""
        return asdict(self)

    def __str__(self) -> str:
        gain = f", {self.before_us / self.after_us:.2f}x faster in isolation" if self.after_us else ""
        return (
            f"tuned {self.kernels} products by {self.measured} measurements in {self.seconds:.0f} s: "
            f"{self.before_us / 1e3:.2f} ms -> {self.after_us / 1e3:.2f} ms{gain}"
        )


def tune(
    graph: Graph,
    target: CpuTarget,
    seconds: float,
    database: TuningDatabase,
    *,
    seed: int = 0,
    report: Report | None = None,
    progress: Progress | None = None,
) -> TuningReport:
    """Search for faster choices and enter them into a database.

    Args:
        graph: as it is compiled: passes have run; kernels whose extents are symbolic are left alone.
        seconds: after which no further choice is tried.
        database: gets the records; what it holds already is not measured again.
        seed: of the operands and of the cost model.
        report: called with kernel, choice and microseconds of each measurement.
        progress: called before each measurement; see `plait.backends.tvm.compile.Progress`.
    """
    return _Search(graph, target, database, seed, report, progress).run(seconds)


def tune_for_user(
    graph: Graph, target: CpuTarget, seconds: float, progress: Progress | None = None, seed: int = 0
) -> TuningReport:
    """Tune a graph, and keep what is found in the user's database, which is written every few seconds.

    Args:
        progress: see `plait.backends.tvm.compile.Progress`; called before each measurement.

    Raises:
        InputError: the database is damaged, or cannot be written.
    """
    path = user_path(target)
    shipped = read_for(target, shipped_path(target))
    database = copy.deepcopy(shipped)
    database.records.update(read_for(target, path).records)

    def write() -> None:
        own = {key: row for key, row in database.records.items() if row != shipped.records.get(key)}
        TuningDatabase(database.machine, own).write(path)

    written = time.monotonic()

    def keep(kernel: str, choice: Choice, us: float) -> None:
        nonlocal written
        if time.monotonic() - written > _WRITE_SECONDS:
            write()
            written = time.monotonic()

    found = tune(graph, target, seconds, database, seed=seed, report=keep, progress=progress)
    write()
    return found


class _Search:
    def __init__(
        self,
        graph: Graph,
        target: CpuTarget,
        database: TuningDatabase,
        seed: int,
        report: Report | None,
        progress: Progress | None,
    ) -> None:
        self._graph, self._target, self._database = graph, target, database
        self._report, self._progress = report, progress
        self._random = np.random.default_rng(seed)
        self._layouts: Layouts = assign_layouts(graph, target)
        self._ranking = Ranking(target, database.records.values(), seed)
        self._flush = np.zeros(_FLUSH_BYTES // 4, np.float32)
        self._wake = _waking(target)
        self.outcome = TuningReport()

    def run(self, seconds: float) -> TuningReport:
        """Measure until time is up."""
        started = time.monotonic()
        use_threads(self._target.threads)
        tasks = list(self._tasks())
        tasks.sort(key=lambda task: -task.calls * work(task.record.problem))
        ready = []
        for task in tasks:
            if self._start(task):
                ready.append(task)
            if time.monotonic() - started > seconds:
                break
        turn = 0
        while time.monotonic() - started < seconds * (1 - _CONFIRMING):
            pair = self._next(ready, explore=turn % 3 == 2)
            if pair is None:
                break
            self._try(*pair)
            turn += 1
        ready.sort(key=lambda task: task.calls * (task.best_us - task.record.measured[task.record.estimated]))
        for task in ready:
            if time.monotonic() - started < seconds:
                self._confirm(task)
        found = self.outcome
        found.kernels, found.seconds = len(ready), time.monotonic() - started
        found.before_us = sum(t.calls * t.record.measured[t.record.estimated] for t in ready)
        found.after_us = sum(t.calls * t.record.measured[t.record.best] for t in ready)
        return found

    # -- kernels ----------------------------------------------------------------------
    def _tasks(self) -> Iterator[_Task]:
        emitter = self._emitter({})
        groups: dict[str, list[Group]] = {}
        for group in partition(self._graph, self._layouts).groups:
            groups.setdefault(emitter.structure(group), []).append(group)
        for key, sites in groups.items():
            kernels = emitter.code(sites[0]).kernels
            if len(kernels) != 1:
                continue
            problem, estimated = _problem(kernels[0], self._target)
            if problem is None or estimated is None:
                continue
            record = self._database.records.get(key) or Record(problem, kernels[0].name, str(estimated))
            left = [c for c in self._choices(key, sites[0], problem) if str(c) not in record.measured]
            yield _Task(key, sites[0], len(sites), record, left, {})

    def _emitter(self, choices: dict[str, Choice]) -> GroupEmitter:
        return GroupEmitter(self._graph, self._target, self._layouts, choices=choices)

    def _choices(self, key: str, group: Group, problem: Problem) -> list[Choice]:
        """Everything that may be tried, by what the tiles are estimated to cost; the best `_MOST`."""
        ways = [0]
        if problem.window == 9:
            probe = self._emitter({key: Choice(4, 1, False, 2)})
            (kernel,) = probe.code(group).kernels
            if isinstance(kernel.stage.products[0], Winograd):
                ways += list(TRANSFORMS)
        found = [
            Choice(rows, vectors, rows_first, transforms)
            for transforms in ways
            for rows in range(1, 25)
            for vectors in (1, 2, 3, 4, 6)
            for rows_first in ((False, True) if not transforms else (False,))
        ]
        found = [
            choice
            for choice in found
            if choice.fits(self._target.registers)
            and (choice.vectors - 1) * self._target.lanes < problem.columns
            and choice.rows <= max(problem.rows, 1)
        ]
        return estimated_order(self._target, problem, found)[: _MOST * len(ways)]

    # -- the search -------------------------------------------------------------------
    def _start(self, task: _Task) -> bool:
        """Measure the estimated choice; whether it could be measured."""
        estimated = Choice.parse(task.record.estimated)
        if task.record.estimated not in task.record.measured:
            self._try(task, estimated)
        if task.record.estimated not in task.record.measured:
            return False
        self._database.records[task.key] = task.record
        return True

    def _next(self, tasks: list[_Task], *, explore: bool) -> tuple[_Task, Choice] | None:
        """The choice that is expected to save most; to explore, one of the slowest kernel tried least."""
        open_tasks = [task for task in tasks if task.left and len(task.record.measured) < _MOST]
        if not open_tasks:
            return None
        slow = max(open_tasks, key=lambda t: t.calls * t.best_us / (1 + len(t.record.measured)))
        best: tuple[float, _Task, Choice] | None = None
        for task in open_tasks if not explore else [slow]:
            expected = self._ranking.expected_us(task.record.problem, task.left)
            if expected is None:
                continue
            index = int(np.argmin(expected))
            saving = task.calls * (task.best_us - float(expected[index]))
            if best is None or saving > best[0]:
                best = saving, task, task.left[index]
        return (slow, slow.left[0]) if best is None else best[1:]

    def _try(self, task: _Task, choice: Choice) -> None:
        if choice in task.left:
            task.left.remove(choice)
        if self._progress is not None:
            self._progress("tune", self.outcome.measured, 0, task.group.ops)
        try:
            us = self._measure(task, choice)
        except PlaitError as error:
            self.outcome.refused.append(f"{task.record.kernel} {choice}: {error.what}")
            return
        except Exception as error:  # of TVM, which share no base class
            self.outcome.refused.append(f"{task.record.kernel} {choice}: {type(error).__name__}")
            return
        if us is None:
            return
        self.outcome.measured += 1
        task.record.measured[str(choice)] = round(us, 2)
        self._ranking.add(task.record.problem, choice, us)
        if self._report is not None:
            self._report(task.record.kernel, choice, us)

    def _confirm(self, task: _Task) -> None:
        """Let the fastest choices race against the estimated one, until one of them wins."""
        record = task.record
        challengers = sorted(record.measured, key=lambda text: record.measured[text])[:_CHALLENGERS]
        estimated = self._prepared(task, Choice.parse(record.estimated))
        for text in challengers:
            if text == record.estimated or text in record.confirmed or estimated is None:
                return
            challenger = self._prepared(task, Choice.parse(text))
            if challenger is None:
                continue
            times = self._timed([estimated, challenger], _CONFIRMATIONS)
            record.measured[record.estimated], record.measured[text] = (round(us, 2) for us in times)
            record.confirmed.append(text)
            if record.best == text:
                return

    # -- one measurement --------------------------------------------------------------
    def _measure(self, task: _Task, choice: Choice) -> float | None:
        """Microseconds of a kernel; None where it was emitted in another way, or its results differ."""
        run = self._prepared(task, choice)
        return None if run is None else self._timed([run], _CALLS)[0]

    def _timed(self, runs: Sequence[_Call], calls: int) -> list[float]:
        """The median microseconds of some kernels that take turns, threads awake and weights out of cache."""
        seconds: list[list[float]] = [[] for _ in runs]
        for _ in range(calls):
            for run, found in zip(runs, seconds, strict=True):
                self._flush += 1
                run.arguments[0].numpy().sum()  # what the kernel before has just written
                self._wake()
                began = time.perf_counter()
                run.function(*run.arguments)
                found.append(time.perf_counter() - began)
        return [statistics.median(found) * 1e6 for found in seconds]

    def _prepared(self, task: _Task, choice: Choice) -> _Call | None:
        """A call of a kernel; None where it was emitted in another way, or its results differ."""
        emitter = self._emitter({task.key: choice})
        code = emitter.code(task.group)
        (kernel,) = code.kernels
        _, found = _problem(kernel, self._target)
        if found != choice:
            return None
        arrays = [self._input(task, kernel, code, index) for index in range(len(kernel.stage.inputs))]
        (result,) = kernel.stage.outputs
        shape = [int(size_of(dim) or 0) for dim in result.shape]
        output = tvm.runtime.empty(shape, str(result.dtype))
        function, _ = schedule(kernel.function, self._target, written=True)
        place = tvm_target(self._target)
        with place:
            run = tvm.compile(tvm.IRModule({kernel.name: function}), target=place)[kernel.name]
        arguments = [*arrays, output]
        run(*arguments)
        values = output.numpy()
        if task.expected is None:
            task.expected = values
        elif not _agree(values, task.expected):
            self.outcome.refused.append(f"{task.record.kernel} {choice}: other results")
            return None
        return _Call(run, arguments)

    def _input(self, task: _Task, kernel: KernelFunction, code: Any, index: int) -> Any:
        """An operand: the constant that it is, or random numbers, the same for all choices."""
        tensor, source = kernel.stage.inputs[index], kernel.stage.sources[index]
        value = code.resolve(source, task.group)
        if isinstance(value, Constant):
            array = source.packing.apply(value.data) if source.packing is not None else value.data
        else:
            if value not in task.inputs:
                task.inputs[value] = self._drawn(tensor)
            array = task.inputs[value]
        aligned = tvm.runtime.empty(array.shape, str(tensor.dtype))
        return aligned.copyfrom(np.ascontiguousarray(array))

    def _drawn(self, tensor: te.Tensor) -> np.ndarray:
        shape, dtype = [int(size_of(dim) or 0) for dim in tensor.shape], str(tensor.dtype)
        if "float" in dtype:
            return self._random.standard_normal(shape).astype(dtype)
        return self._random.integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)


def _waking(target: CpuTarget) -> Callable[[], object]:
    """A function that does nothing on all threads, which otherwise sleep when a measurement begins."""
    count = te.placeholder((64 * target.threads,), "float32", "x")
    twice = te.compute(count.shape, lambda i: count[i] * 2.0, name="wake")
    scheduler = s_tir.Schedule(
        tvm.IRModule({"wake": te.create_prim_func([count, twice]).with_attr("global_symbol", "wake")})
    )
    (loop,) = scheduler.get_loops(scheduler.get_sblock("wake", func_name="wake"))
    scheduler.parallel(loop)
    place = tvm_target(target)
    with place:
        run = tvm.compile(scheduler.mod, target=place)["wake"]
    arrays = [tvm.runtime.empty((64 * target.threads,), "float32") for _ in range(2)]
    return lambda: run(*arrays)


def _agree(values: np.ndarray, expected: np.ndarray) -> bool:
    scale = float(np.abs(expected).max()) if expected.size else 0.0
    return bool(np.allclose(values, expected, rtol=_TOLERANCE, atol=_TOLERANCE * scale))


def _problem(kernel: KernelFunction, target: CpuTarget) -> tuple[Problem | None, Choice | None]:
    """The product of a kernel and how it is computed; None where it has none of known extents."""
    if len(kernel.stage.products) != 1:
        return None, None
    (found,) = kernel.stage.products
    vectors = found.tile.vectors if isinstance(found, (Product, Winograd)) else 0
    if isinstance(found, Winograd):
        n, _, height, width = (size_of(dim) for dim in found.sums.shape)
        if n is None or height is None or width is None:
            return None, None
        problem = Problem(1, n * height * width, found.channels[1], 9 * found.channels[0], 9)
        return problem, Choice(found.tile.rows, vectors, False, found.transforms.m)
    if not isinstance(found, Product):
        return None, None
    extents = [size_of(product_of(e)) for e in (found.batch, found.rows, [found.columns], found.depth)]
    if None in extents or any(size_of(dim) is None for t in kernel.stage.inputs for dim in t.shape):
        return None, None
    batch, rows, columns, depth = (int(extent or 1) for extent in extents)
    window = int(size_of(product_of(found.depth[:-1])) or 1)
    return Problem(batch, rows, columns, depth, window), Choice(found.tile.rows, vectors, found.rows_first)


__all__ = ["TuningReport", "tune", "tune_for_user"]
