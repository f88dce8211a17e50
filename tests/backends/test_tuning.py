"""Choices of CPU products: their texts, databases, the search, and that every choice computes the same."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import plait
from plait.__main__ import app
from plait.backends import CpuTarget, resolve_target
from plait.backends.compilation import compile_key
from plait.backends.tuning import (
    Choice,
    Problem,
    Record,
    TuningDatabase,
    digest,
    known_choices,
    machine_of,
    shipped_path,
    user_path,
)
from plait.backends.tvm.groups import GroupEmitter
from plait.backends.tvm.layouts import assign_layouts
from plait.backends.tvm.partition import partition
from plait.backends.tvm.ranking import Ranking, features
from plait.backends.tvm.search import tune

HOST = resolve_target("cpu", threads=2)
assert isinstance(HOST, CpuTarget)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 5, 1)
    ).eval()


IMAGE = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def graph_of(net: nn.Module) -> plait.Graph:
    return plait.optimize(plait.lower(net, (IMAGE,)))


def structures(graph: plait.Graph, target: CpuTarget) -> dict[str, str]:
    """The structure of each group by the kind of its first op."""
    layouts = assign_layouts(graph, target)
    emitter = GroupEmitter(graph, target, layouts)
    return {group.ops[0].name: emitter.structure(group) for group in partition(graph, layouts).groups}


def database(target: CpuTarget, choices: dict[str, str]) -> TuningDatabase:
    """A database in which each choice is the fastest."""
    problem = Problem(1, 288, 48, 288, 9)
    records = {
        key: Record(problem, "k", "4x1", {"4x1": 2.0, text: 1.0, "2x2": 0.5}, [text])
        for key, text in choices.items()
    }
    return TuningDatabase(machine_of(target), records)


# -- texts and files ----------------------------------------------------------------------
@pytest.mark.parametrize("choice", [Choice(6, 4), Choice(1, 1, True), Choice(8, 2, False, 4)], ids=str)
def test_a_choice_is_its_text(choice: Choice) -> None:
    assert Choice.parse(str(choice)) == choice


@pytest.mark.parametrize("text", ["", "6", "6x", "F4", "6x4 columns first", "-1x2"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(plait.InputError, match="names no choice"):
        Choice.parse(text)


def test_a_database_is_what_was_written(tmp_path: Path) -> None:
    assert isinstance(HOST, CpuTarget)
    made = database(HOST, {"a": "6x2 rows first", "b": "F4 8x1"})
    made.write(tmp_path / "deep" / "made.json")
    read = TuningDatabase.read(tmp_path / "deep" / "made.json")
    assert read == made
    assert read.choices() == {"a": Choice(6, 2, True), "b": Choice(8, 1, False, 4)}
    assert read.records["a"].gain == 2.0


def test_estimates_decide_where_nothing_has_beaten_them() -> None:
    """Fast by a single measurement is not enough, and a lost race neither."""
    assert isinstance(HOST, CpuTarget)
    made = database(HOST, {"won": "6x2", "lost": "6x2", "alone": "6x2"})
    made.records["lost"].measured["6x2"] = 3.0
    made.records["alone"].confirmed.clear()
    assert made.choices() == {"won": Choice(6, 2)}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("format"),
        lambda content: content.update(format=7),
        lambda content: content["records"]["a"].pop("problem"),
        lambda content: content["records"]["a"].update(estimated="9x9"),
        lambda content: content["records"]["a"]["measured"].update({"six by two": 1.0}),
        lambda content: content.update(records=[]),
    ],
)
def test_a_damaged_database_is_named(tmp_path: Path, damage: Any) -> None:
    assert isinstance(HOST, CpuTarget)
    path = tmp_path / "made.json"
    database(HOST, {"a": "6x2"}).write(path)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(plait.InputError, match=r"made\.json cannot be read"):
        TuningDatabase.read(path)


def test_records_of_another_processor_are_of_no_use() -> None:
    assert isinstance(HOST, CpuTarget)
    database(replace(HOST, registers=8), {"a": "6x2"}).write(user_path(HOST))
    assert "a" not in known_choices(HOST)
    database(HOST, {"a": "6x2"}).write(user_path(HOST))
    assert known_choices(HOST)["a"] == Choice(6, 2)
    assert not known_choices(replace(HOST, tuned=False))


def test_the_databases_that_ship_can_be_read() -> None:
    assert isinstance(HOST, CpuTarget)
    folder = shipped_path(HOST).parent
    paths = sorted(folder.glob("*.json"))
    assert paths
    for path in paths:
        found = TuningDatabase.read(path)
        machine = found.machine
        assert path.stem == f"{machine['processor']}-{machine['vector_bits']}-{machine['threads']}"
        assert all(choice.fits(machine["registers"]) for choice in found.choices().values())


# -- choices ------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["1x1", "3x2", "5x1 rows first", "8x3", "F2 4x1", "F4 2x2"])
def test_every_choice_computes_the_same(net: nn.Module, text: str) -> None:
    assert isinstance(HOST, CpuTarget)
    graph = graph_of(net)
    keys = structures(graph, HOST)
    database(HOST, dict.fromkeys(keys.values(), text)).write(user_path(HOST))
    exe = plait.compile(graph, target=HOST, pipeline="", isolate=False, cache=False)
    choice = Choice.parse(text)
    methods = [kernel.method for kernel in exe.kernels]
    assert any(f"{choice.rows} x {choice.vectors * HOST.lanes}" in method for method in methods)
    assert any(f"F({choice.transforms}, 3)" in method for method in methods) == bool(choice.transforms)
    torch.testing.assert_close(exe(IMAGE), net(IMAGE).detach(), rtol=1e-3, atol=1e-4)


def test_a_choice_that_does_not_fit_is_left_to_the_estimate(net: nn.Module) -> None:
    assert isinstance(HOST, CpuTarget)
    graph = graph_of(net)
    keys = structures(graph, HOST)
    database(HOST, dict.fromkeys(keys.values(), "40x40")).write(user_path(HOST))
    exe = plait.compile(graph, target=HOST, pipeline="", isolate=False, cache=False)
    assert not any("40 x" in kernel.method for kernel in exe.kernels)
    assert sum("product" in kernel.method for kernel in exe.kernels) == 3


def test_the_cache_knows_the_databases(net: nn.Module) -> None:
    assert isinstance(HOST, CpuTarget)
    graph = graph_of(net)
    before, empty = compile_key(graph, HOST, {}, ""), digest(HOST)
    database(HOST, {"a": "6x2"}).write(user_path(HOST))
    assert digest(HOST) != empty
    assert compile_key(graph, HOST, {}, "") != before
    untuned = replace(HOST, tuned=False)
    assert digest(untuned) == empty or shipped_path(HOST).is_file()


# -- the search ---------------------------------------------------------------------------
def test_a_search_finds_measures_and_keeps(net: nn.Module) -> None:
    assert isinstance(HOST, CpuTarget)
    graph = graph_of(net)
    made = TuningDatabase(machine_of(HOST))
    seen: list[tuple[str, Choice, float]] = []
    found = tune(graph, HOST, 12.0, made, report=lambda *row: seen.append(row))
    assert found.kernels == len(made.records) == 3
    assert found.measured >= 3
    assert not found.refused
    assert found.after_us <= found.before_us
    assert len(seen) == found.measured
    for record in made.records.values():
        assert record.measured[record.best] <= record.measured[record.estimated]
        assert record.best == record.estimated or record.best in record.confirmed
    # What is known is not measured again.
    known = {key: dict(record.measured) for key, record in made.records.items()}
    again = tune(graph, HOST, 0.01, made)
    assert again.measured == 0
    assert {key: dict(record.measured) for key, record in made.records.items()} == known


def test_compiling_with_tuning_fills_the_user_database(net: nn.Module) -> None:
    assert isinstance(HOST, CpuTarget)
    exe = plait.compile(net, (IMAGE,), target=HOST, tune_s=3.0, timeout_s=300)
    torch.testing.assert_close(exe(IMAGE), net(IMAGE).detach(), rtol=1e-3, atol=1e-4)
    records = TuningDatabase.read(user_path(HOST)).records
    assert records
    assert records.keys() <= set(structures(exe.graph, HOST).values())


def test_tuning_is_for_the_cpu(net: nn.Module) -> None:
    with pytest.raises(plait.CompileError, match="nothing to tune for a100"):
        plait.compile(net, (IMAGE,), target="a100", tune_s=1.0)
    with pytest.raises(plait.CompileError, match="no search"):
        plait.compile(net, (IMAGE,), tune_s=0.0)


def test_the_command_line_tunes() -> None:
    done = CliRunner().invoke(app, ["compile", "mlp", "--dim", "B=4", "--tune", "2", "--threads", "2"])
    assert done.exit_code == 0, done.output
    assert user_path(HOST).is_file()


def test_the_cost_model_learns_to_rank() -> None:
    """Of a made-up cost with a clear optimum, the expected best is among the best fifth."""
    assert isinstance(HOST, CpuTarget)
    drawn = random.Random(0)
    choices = [Choice(r, v, f) for r in range(1, 13) for v in (1, 2, 3) for f in (False, True)]
    problems = [Problem(1, 2**n, 64, 2**d) for n in (6, 8, 10) for d in (5, 7, 9)]

    def cost(problem: Problem, choice: Choice) -> float:
        sums = choice.rows * choice.vectors
        work = problem.rows * problem.columns * problem.depth
        return work * (1 + abs(math.log(sums / 12))) * (0.9 if choice.rows_first else 1.0) / 1e3

    ranking = Ranking(HOST, [])
    assert ranking.expected_us(problems[0], choices) is None
    for _ in range(200):
        problem, choice = drawn.choice(problems), drawn.choice(choices)
        ranking.add(problem, choice, cost(problem, choice) * drawn.uniform(0.97, 1.03))
    problem = Problem(1, 512, 64, 256)
    expected = ranking.expected_us(problem, choices)
    assert expected is not None
    true = sorted(cost(problem, choice) for choice in choices)
    assert cost(problem, choices[int(expected.argmin())]) <= true[len(choices) // 5]
    assert len({len(features(HOST, problem, choice)) for choice in choices}) == 1
