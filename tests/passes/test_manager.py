"""The pass manager: reports, dumps, stop-after, disabling, honesty checks and failure bundles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from plait.ir import Graph, InputError, Loc, TensorType, Value, parse
from plait.ir import types as t
from plait.ir.archive import load
from plait.ir.ops import core, nn
from plait.passes import DEFAULT, Pass, PassError, PassManager, PassResult, optimize, parse_pipeline


def network(blocks: int = 2) -> Graph:
    """conv, batch_norm, relu blocks on f32[B,3,8,8]."""
    random = np.random.default_rng(0)
    graph = Graph()
    batch = graph.declare_dim("B", 1, 64)
    x: Value = graph.add_input("image", TensorType(t.f32, (batch, 3, 8, 8)))

    def constant(name: str, *shape: int) -> Value:
        return graph.add_constant(name, random.uniform(0.5, 1.5, shape).astype(np.float32))

    for i in range(blocks):
        weight = constant(f"conv{i}.weight", 3, 3, 3, 3)
        x = graph.emit(nn.Conv2d(x, weight, pad=(1, 1)), name=f"conv{i}", loc=Loc.at(f"conv{i}", "net.py", i))
        statistics = [constant(f"bn{i}.{name}", 3) for name in ("mean", "variance", "weight", "bias")]
        x = graph.emit(nn.BatchNorm(x, *statistics), name=f"bn{i}", loc=Loc.at(f"bn{i}", "net.py", 10 + i))
        x = graph.emit(nn.Relu(x), name=f"relu{i}", loc=Loc.at(f"relu{i}", "net.py", 20 + i))
    graph.set_outputs([x])
    return graph


def test_report_shows_each_pass() -> None:
    graph = network()
    text = str(graph)
    after, report = optimize(graph)
    assert str(graph) == text
    assert [op.opname for op in after.ops] == ["nn.conv2d", "nn.conv2d"]
    assert [row.status for row in report.rows] == [
        "unchanged", "unchanged", "changed", "unchanged", "changed", "unchanged", "unchanged", "unchanged", "changed",
    ]  # fmt: skip
    fold = report.row("fold-batch-norm")
    assert (fold.rewrites, fold.ops_before, fold.ops_after, fold.delta) == (2, 6, 4, {"nn.batch_norm": -2})
    table = str(report).splitlines()
    assert table[0].split() == ["#", "pass", "changed", "ops", "delta", "time"]
    assert table[1].split()[:4] == ["1", "canonicalize", ".", "6"]
    assert "nn.batch_norm -2" in table[3]
    assert "nn.relu -2" in table[5]
    plain = report.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["pipeline"] == DEFAULT
    assert plain["passes"][2]["delta"] == {"nn.batch_norm": -2}
    assert report.time_s >= sum(row.time_s for row in report.rows) > 0


def test_locations_name_origins_and_passes() -> None:
    after, _ = optimize(network(1))
    (conv,) = after.ops
    assert str(conv.loc) == (
        '"conv0" net.py:0 + "bn0" net.py:10 + "relu0" net.py:20 via fold-batch-norm+fuse-activation'
    )
    assert parse(str(after)) == after


def test_dump_holds_changed_graphs_only(tmp_path: Path) -> None:
    folder = tmp_path / "dumps"
    after, report = optimize(network(), dump_dir=folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "000_input.plait",
        "003_fold-batch-norm.plait",
        "005_fuse-activation.plait",
        "009_dead-code.plait",
        "index.md",
    ]
    assert parse((folder / "009_dead-code.plait").read_text()) == after
    assert report.row("fuse-activation").file == "005_fuse-activation.plait"
    index = (folder / "index.md").read_text()
    assert "| 3 | fold-batch-norm | 2 | 4 | nn.batch_norm -2 |" in index
    assert "005_fuse-activation.plait" in index
    assert DEFAULT in index


def test_stop_after_and_disable() -> None:
    after, report = optimize(network(), stop_after="fold-batch-norm")
    assert [op.opname for op in after.ops] == ["nn.conv2d", "nn.relu"] * 2
    assert [row.status for row in report.rows[3:]] == ["not reached"] * 6
    after, report = optimize(network(), disable=["fold-batch-norm"])
    assert sum(op.opname == "nn.batch_norm" for op in after.ops) == 2
    assert report.row("fold-batch-norm").status == "disabled"
    assert "disabled" in str(report)


@pytest.mark.parametrize("options", [{"stop_after": "dead-cod"}, {"disable": ["dead-cod"]}])
def test_unknown_names_are_refused(options: dict) -> None:
    with pytest.raises(InputError, match="dead-cod.*did you mean 'dead-code'"):
        PassManager(**options)


def test_progress_is_told_before_each_pass() -> None:
    calls: list[tuple[int, int, str]] = []
    optimize(network(1), "canonicalize,dead-code", progress=lambda *call: calls.append(call))
    assert calls == [(1, 2, "canonicalize"), (2, 2, "dead-code")]


def test_manager_works_in_place() -> None:
    graph = network()
    PassManager("fold-batch-norm").run(graph)
    assert not any(op.opname == "nn.batch_norm" for op in graph.ops)


# -- bad passes ---------------------------------------------------------------------
@dataclass(frozen=True)
class DropsLocation(Pass):
    """Replaces relu by relu6, outside of the rewriter, and forgets where it comes from."""

    name: ClassVar[str] = "drops-location"
    keep_origins: bool = False

    def run(self, graph: Graph) -> bool:
        for op in graph.ops:
            if isinstance(op, nn.Relu):
                new = graph.replace(op, nn.Relu6(op.x))
                new.loc = new.loc if self.keep_origins else Loc((), (self.name,))
        return True


@dataclass(frozen=True)
class Lies(Pass):
    """Changes the graph and says that it did not."""

    name: ClassVar[str] = "lies"
    result: bool = False

    def run(self, graph: Graph) -> bool | PassResult:
        first = next(iter(graph.ops))
        new = first.evolve(pad=(1, 1, 1, 1))
        new.loc = first.loc.via(self.name)
        graph.replace(first, new)
        return PassResult(False) if self.result else False


@dataclass(frozen=True)
class Crashes(Pass):
    """Breaks half way."""

    name: ClassVar[str] = "crashes"

    def run(self, graph: Graph) -> bool:
        graph.rename(next(iter(graph.ops)).result, "changed")
        return bool([][0])


@dataclass(frozen=True)
class BreaksTypes(Pass):
    """Leaves a value with a type that its op does not compute."""

    name: ClassVar[str] = "breaks-types"

    def run(self, graph: Graph) -> bool:
        next(iter(graph.ops)).result.type = TensorType(t.f16, (1,))
        return True


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (DropsLocation(), "made nn.relu6 without a location"),
        (DropsLocation(keep_origins=True), "made nn.relu6 without a location"),
        (Lies(), "changed the graph but said that it did not"),
        (Lies(result=True), "changed the graph but said that it did not"),
        (BreaksTypes(), r"error\[I\d+\]"),
        (Crashes(), "IndexError: list index out of range"),
    ],
    ids=lambda case: str(case) if isinstance(case, Pass) else "",
)
def test_bad_passes_are_caught(bad: Pass, message: str, tmp_path: Path) -> None:
    with pytest.raises(PassError, match=message) as caught:
        optimize(network(), [bad], bundle_dir=tmp_path)
    assert caught.value.pass_name == bad.name
    assert caught.value.bundle is not None
    assert caught.value.bundle in str(caught.value)


def test_failure_leaves_a_bundle(tmp_path: Path) -> None:
    graph = network()
    passes = [*parse_pipeline("fold-batch-norm"), Crashes(), *parse_pipeline("dead-code")]
    with pytest.raises(PassError) as caught:
        optimize(graph, passes, bundle_dir=tmp_path, dump_dir=tmp_path / "dumps")
    before, _ = optimize(graph, "fold-batch-norm")
    bundle = tmp_path / f"plait-repro-{before.id[:12]}"
    assert caught.value.bundle == str(bundle)
    restored = load(bundle / "before.plait")
    assert restored == before
    np.testing.assert_array_equal(
        restored.constants["conv0.weight.folded"].data, before.constants["conv0.weight.folded"].data
    )
    facts = json.loads((bundle / "report.json").read_text())
    assert facts["pipeline"] == "fold-batch-norm,crashes,dead-code"
    assert facts["failed"] == "crashes"
    assert set(facts["versions"]) == {"plait", "torch", "numpy", "python", "platform"}
    assert "IndexError" in facts["error"]
    assert "list index out of range" in (bundle / "error.txt").read_text()
    assert str(bundle / "rerun.py") in facts["command"]
    assert "fold-batch-norm" in (tmp_path / "dumps" / "index.md").read_text()


def test_bundle_reruns(tmp_path: Path) -> None:
    from plait.passes.bundle import write_bundle

    graph = network()
    bundle = write_bundle(
        tmp_path, graph, DEFAULT, "fold-batch-norm{standalone=false}", ValueError("x"), verify_each=True
    )
    done = subprocess.run(
        [sys.executable, str(bundle / "rerun.py")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "nn.batch_norm -2" in done.stdout


def test_bundle_without_constant_data(tmp_path: Path) -> None:
    graph = parse(str(network()))
    with pytest.raises(PassError):
        optimize(graph, [Crashes()], bundle_dir=tmp_path)
    bundle = tmp_path / f"plait-repro-{graph.id[:12]}"
    assert parse((bundle / "before.plait").read_text()) == graph
    assert "constants are missing" in json.loads((bundle / "report.json").read_text())["note"]


def test_no_bundle_where_none_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PassError) as caught:
        optimize(network(), [Crashes()], bundle_dir=None)
    assert caught.value.bundle is None
    assert list(tmp_path.iterdir()) == []


def test_verification_can_be_left_out() -> None:
    _, report = optimize(network(), [DropsLocation()], verify_each=False)
    assert report.rows[0].delta == {"nn.relu": -2, "nn.relu6": 2}


def test_passes_that_return_booleans(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Renames(Pass):
        """Renames the first value."""

        name: ClassVar[str] = "renames"

        def run(self, graph: Graph) -> bool:
            graph.rename(next(iter(graph.ops)).result, "renamed")
            return True

    after, report = optimize(network(), [Renames()])
    assert report.rows[0].status == "changed"
    assert "yes" in str(report)
    assert isinstance(after.value("%renamed").producer, nn.Conv2d)


def test_pass_without_run_is_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Empty(Pass):
        """Does not say what it does."""

        name: ClassVar[str] = "empty"

    with pytest.raises(PassError, match="does not define run"):
        optimize(network(), [Empty()], bundle_dir=None)


def test_graph_without_ops() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(t.f32, (2,)))
    graph.set_outputs([x])
    after, report = optimize(graph)
    assert after == graph
    assert not report.changed


def test_output_that_is_an_identity_of_an_input() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(t.f32, (2,)))
    graph.set_outputs([graph.emit(core.Reshape(x, out=TensorType(t.f32, (2,))), loc=Loc.at("view"))])
    after, _ = optimize(graph)
    assert after.outputs == (after.inputs[0],)
