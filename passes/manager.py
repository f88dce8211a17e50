"""Running passes: verification, timing, dumps, stop-after, disabling, and a bundle on failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from plait.ir import Graph, InputError, Op, PlaitError, Value, VerifyError
from plait.ir.errors import did_you_mean
from plait.ir.files import write_atomically
from plait.ir.verify import verify
from plait.passes.base import Pass, PassError, PassResult
from plait.passes.bundle import write_bundle
from plait.passes.pipeline import DEFAULT, check_order, format_pipeline, parse_pipeline
from plait.passes.report import PassReport, PassRow, count_delta, op_counts

#: Called before each pass with its number from 1, the number of passes, and its name.
Progress = Callable[[int, int, str], None]


class PassManager:
    """Runs a pipeline on a graph, in place.

    Args:
        passes: pipeline text or passes.
        verify_each: after each pass, check all invariants of the IR, that new ops
            carry locations, and that a pass which says it changed nothing did not.
        dump_dir: folder for `000_input.plait`, `NNN_pass.plait` after each pass
            that changed the graph, and `index.md`.
        stop_after: name of the pass after which to stop.
        disable: names of passes to leave out.
        progress: called before each pass.
        bundle_dir: folder in which a failing pass leaves its `plait-repro-...`
            bundle; None writes none (and saves a copy of the graph per pass).

    Raises:
        InputError: a bad pipeline, an order that a pass forbids, or a name in
            `stop_after` or `disable` that the pipeline does not have.
    """

    def __init__(
        self,
        passes: str | Iterable[Pass] = DEFAULT,
        *,
        verify_each: bool = True,
        dump_dir: str | Path | None = None,
        stop_after: str | None = None,
        disable: Collection[str] = (),
        progress: Progress | None = None,
        bundle_dir: str | Path | None = ".",
    ) -> None:
        self.passes = parse_pipeline(passes) if isinstance(passes, str) else tuple(passes)
        self.verify_each = verify_each
        self.dump_dir = None if dump_dir is None else Path(dump_dir)
        self.bundle_dir = None if bundle_dir is None else Path(bundle_dir)
        self.progress = progress
        names = [p.name for p in self.passes]
        for option, given in (("stop_after", [stop_after] if stop_after else []), ("disable", disable)):
            for name in given:
                if name not in names:
                    raise InputError(
                        f"{option} names '{name}', which is not in the pipeline{did_you_mean(name, names)}",
                        why=f"the pipeline is {','.join(names) or 'empty'}",
                        remedy="use a name of the pipeline",
                    )
        self.disabled = frozenset(disable)
        self.last = names.index(stop_after) if stop_after else len(names) - 1
        check_order([p for p in self.passes if p.name not in self.disabled])

    def run(self, graph: Graph) -> PassReport:
        """Run all passes on `graph`, in place.

        Raises:
            PassError: when a pass fails, or leaves a graph that breaks an invariant
                of the IR; names the bundle.  The graph is then in an undefined state:
                `optimize` works on a copy.
        """
        report = PassReport(graph.name, format_pipeline(self.passes))
        if self.dump_dir is not None:
            self.dump_dir.mkdir(parents=True, exist_ok=True)
            _write(self.dump_dir / "000_input.plait", str(graph))
        try:
            for index, current in enumerate(self.passes):
                if index > self.last:
                    report.rows.append(PassRow(index + 1, str(current), "not reached"))
                elif current.name in self.disabled:
                    report.rows.append(PassRow(index + 1, str(current), "disabled"))
                else:
                    if self.progress is not None:
                        self.progress(index + 1, len(self.passes), current.name)
                    report.rows.append(self._run_one(index + 1, current, graph))
        finally:
            if self.dump_dir is not None:
                _write(self.dump_dir / "index.md", _index(report))
        return report

    def _run_one(self, number: int, current: Pass, graph: Graph) -> PassRow:
        snapshot = graph.clone() if self.bundle_dir is not None else None
        ops, state, counts = tuple(graph.walk()), _state(graph), op_counts(graph)
        started = time.perf_counter()
        try:
            outcome = current.run(graph)
            passed = time.perf_counter()
            result = outcome if isinstance(outcome, PassResult) else PassResult(bool(outcome))
            if self.verify_each:
                _check(graph, current, result, ops, state)
        except Exception as problem:
            raise self._failure(current, snapshot, problem) from problem
        after = op_counts(graph)
        return PassRow(
            index=number,
            name=str(current),
            status="changed" if result.changed else "unchanged",
            rewrites=result.rewrites,
            ops_before=counts.total(),
            ops_after=after.total(),
            delta=count_delta(counts, after),
            time_s=passed - started,
            verify_s=time.perf_counter() - passed,
            rules=dict(result.rules),
            remarks=result.remarks,
            file=self._dump(number, current, graph) if result.changed else None,
        )

    def _dump(self, number: int, current: Pass, graph: Graph) -> str | None:
        if self.dump_dir is None:
            return None
        name = f"{number:03d}_{current.name}.plait"
        _write(self.dump_dir / name, str(graph))
        return name

    def _failure(self, current: Pass, snapshot: Graph | None, problem: Exception) -> PassError:
        bundle = None
        if snapshot is not None and self.bundle_dir is not None:
            pipeline = format_pipeline(self.passes)
            bundle = str(
                write_bundle(
                    self.bundle_dir,
                    snapshot,
                    pipeline,
                    str(current),
                    problem,
                    verify_each=self.verify_each,
                )
            )
        leave_out = f"disable=['{current.name}'] leaves the pass out"
        broke = isinstance(problem, VerifyError)
        told = str(problem) if isinstance(problem, PlaitError) else f"{type(problem).__name__}: {problem}"
        error = PassError(
            f"pass {current.name} {'left a broken graph' if broke else 'failed'}",
            why=told.replace("\n", "\n    "),
            remedy=(f"python {bundle}/rerun.py reproduces it; " if bundle else "") + leave_out,
        )
        error.pass_name, error.bundle = current.name, bundle
        return error


def optimize(
    graph: Graph, pipeline: str | Iterable[Pass] = DEFAULT, **options: Any
) -> tuple[Graph, PassReport]:
    """Run a pipeline on a copy of `graph`, which stays as it is.

    Args:
        graph: the graph.
        pipeline: pipeline text, such as `canonicalize,fuse-activation{kinds=[relu]}`, or passes.
        options: those of `PassManager`.

    Returns:
        The new graph and the report.

    Raises:
        InputError: for a bad pipeline or option.
        PassError: when a pass fails.
    """
    copy = graph.clone()
    report = PassManager(pipeline, **options).run(copy)
    return copy, report


_State = tuple[tuple[Op, ...], tuple[Value, ...], tuple[Value, ...], tuple[str, ...]]


def _state(graph: Graph) -> _State:
    """What differs, by identity, whenever a rewrite took place."""
    ops = tuple(graph.walk())
    operands = tuple(value for op in ops for value in op.operands)
    results = (*graph.outputs, *(v for op in ops for r in op.regions for v in r.results))
    names = tuple(value.name for value in (*graph.values(), *graph.constants.values()))
    return ops, operands, results, names


def _check(graph: Graph, current: Pass, result: PassResult, ops: tuple[Op, ...], state: _State) -> None:
    verify(graph, made_by=current.name, known=ops)
    if not result.changed and _state(graph) != state:
        raise VerifyError(
            f"pass {current.name} changed the graph but said that it did not",
            why="the graph would not be dumped, and a loop to a fixpoint would end early",
            remedy="return True, or PassResult(changed=True), from run()",
        )


def _index(report: PassReport) -> str:
    return f"# @{report.graph}\n\nPipeline: `{report.pipeline}`\n\n{report.to_markdown()}\n"


def _write(path: Path, text: str) -> None:
    with write_atomically(path) as stream:
        stream.write(text.encode())
