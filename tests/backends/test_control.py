"""Control flow and sizes that depend on data, compiled: against the reference interpreter."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plait.backends import compile_graph
from plait.backends.executable import Executable
from plait.ir import Graph, InputError, parse
from plait.ir.interpret import interpret
from plait.ir.value import hash_content

WEIGHT = np.random.default_rng(3).normal(size=(4, 4)).astype(np.float32)
HEAD = f"""plait.ir 1.0
dim B in 1..64
dim T in 0..64
dim K in 0..*
dim R in 0..*
const @w : f32[4,4] = blob("{hash_content(WEIGHT)}")
"""

SCAN = """func @main(%xs: f32[T,B,4], %s0: f32[B,4], %m: f32[B,4]) -> f32[T,B,4], f32[T], f32[B,4] {
  %ys, %norms, %s = core.scan(%xs, %s0) : f32[T,B,4], f32[T], f32[B,4] do (%e: f32[B,4], %t: f32[B,4]) {
    %mm = linalg.matmul(%t, @w) : f32[B,4]
    %ma = core.add(%mm, %m) : f32[B,4]
    %next = core.add(%e, %ma) {act="tanh"} : f32[B,4]
    %norm = core.sum(%next) {axes=[0,1]} : f32[]
    yield %next, %norm, %next
  }
  return %ys, %norms, %s
}
"""

COUNTING = """func @main(%n: i64[], %x: f32[B]) -> i64[], f32[B] {
  %zero = core.full() {value=0} : i64[]
  %i, %last = core.while(%zero, %x) : i64[], f32[B] condition (%c: i64[], %cx: f32[B]) {
    %more = core.lt(%c, %n) : bool[]
    yield %more
  } do (%d: i64[], %dx: f32[B]) {
    %one = core.full() {value=1} : i64[]
    %next = core.add(%d, %one) : i64[]
    %wave = core.sin(%dx) : f32[B]
    yield %next, %wave
  }
  return %i, %last
}
"""

# Each round of the outer loop runs a branch, and a scan that stacks what an inner loop leaves.
NESTED = """func @main(%n: i64[], %x: f32[B,4], %flag: bool[]) -> f32[R,B,4], f32[R,3], i64[], f32[B,4] {
  %zero = core.full() {value=0} : i64[]
  %ys, %sums, %i, %last = core.while(%zero, %x) {count=R} : f32[R,B,4], f32[R,3], i64[], f32[B,4] condition (%c: i64[], %cx: f32[B,4]) {
    %more = core.lt(%c, %n) : bool[]
    yield %more
  } do (%d: i64[], %dx: f32[B,4]) {
    %one = core.full() {value=1} : i64[]
    %next = core.add(%d, %one) : i64[]
    %picked = core.cond(%flag, %dx) : f32[B,4] then (%t: f32[B,4]) {
      %t1 = linalg.matmul(%t, @w) : f32[B,4]
      %t2 = nn.tanh(%t1) : f32[B,4]
      yield %t2
    } otherwise (%o: f32[B,4]) {
      %far = core.lt(%d, %one) : bool[]
      %o1 = core.cond(%far) : f32[B,4] then () {
        %near = core.add(%o, %x) : f32[B,4]
        yield %near
      } otherwise () {
        yield %x
      }
      yield %o1
    }
    %start = core.sum(%picked) {axes=[0,1]} : f32[]
    %totals, %total = core.scan(%start) {length=3} : f32[3], f32[] do (%s: f32[]) {
      %half = core.full() {value=0.5} : f32[]
      %s1 = core.mul(%s, %half) : f32[]
      yield %s1, %s1
    }
    yield %picked, %totals, %next, %picked
  }
  return %ys, %sums, %i, %last
}
"""

# K rows go through a map, a reduction, a product, and a loop that binds K anew each round.
SELECTED = """func @main(%x: f32[B,4]) -> f32[K], f32[4], f32[K,4], i64[], i64[B] {
  %zeros = core.full() {value=0.0} : f32[B,4]
  %positive = core.gt(%x, %zeros) : bool[B,4]
  %first = core.slice(%positive) {axes=[1], starts=[0], stops=[1]} : bool[B,1]
  %mask = core.reshape(%first) : bool[B]
  %where = core.nonzero(%mask) {count=K} : i64[K,1]
  %rows = core.reshape(%where) : i64[K]
  %taken = core.take(%x, %rows) {axis=0} : f32[K,4]
  %wave = core.exp(%taken) : f32[K,4]
  %sums = core.sum(%wave) {axes=[1]} : f32[K]
  %columns = core.sum(%wave) {axes=[0]} : f32[4]
  %product = linalg.matmul(%wave, @w) {act="relu"} : f32[K,4]
  %number = core.dim_value() {dim=K} : i64[]
  %none = core.full() {value=0} : i64[]
  %counts, %end = core.scan(%x, %none) : i64[B], i64[] do (%row: f32[4], %so: i64[]) {
    %inside = core.nonzero(%row) {count=R} : i64[R,1]
    %found = core.dim_value() {dim=R} : i64[]
    %sum = core.add(%so, %found) : i64[]
    yield %found, %sum
  }
  return %sums, %columns, %product, %number, %counts
}
"""


def graph_of(text: str) -> Graph:
    return parse(HEAD + text, constants={"w": WEIGHT})


def check(
    graph: Graph, executable: Executable, inputs: Sequence[torch.Tensor], emulate: bool = False
) -> None:
    expected = interpret(graph, inputs)
    results = executable.emulate(*inputs) if emulate else executable(*inputs)
    for got, want in zip(results, expected, strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        assert torch.allclose(got, want, atol=1e-5, rtol=1e-5)


def drawn(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_scan_captures_stacks_and_may_be_empty() -> None:
    graph = graph_of(SCAN)
    executable = compile_graph(graph, "cpu")
    for steps, batch in ((5, 3), (1, 1), (0, 2)):
        check(graph, executable, drawn((steps, batch, 4), (batch, 4), (batch, 4)))
    assert {"ys.slice", "mm", "norm"} <= {op for kernel in executable.kernels for op in kernel.ops}


def test_a_loop_of_ten_thousand_rounds() -> None:
    graph = graph_of(COUNTING)
    executable = compile_graph(graph, "cpu")
    (x,) = drawn((3,))
    check(graph, executable, [torch.tensor(0), x])
    check(graph, executable, [torch.tensor(7), x])
    rounds, last = executable(torch.tensor(10_000), x)
    value = x.numpy()
    for _ in range(10_000):
        value = np.sin(value)
    assert rounds == 10_000
    assert np.allclose(last.numpy(), value, rtol=1e-3)


@pytest.mark.parametrize("flag", [True, False])
def test_nested_control_flow(flag: bool) -> None:
    graph = graph_of(NESTED)
    executable = compile_graph(graph, "cpu")
    for rounds in (0, 1, 3):
        check(graph, executable, [torch.tensor(rounds), *drawn((2, 4)), torch.tensor(flag)])


def test_sizes_that_depend_on_data() -> None:
    graph = graph_of(SELECTED)
    executable = compile_graph(graph, "cpu")
    for batch, shift in ((1, 0.0), (5, 0.0), (6, -9.0), (6, 9.0)):  # with -9 nothing is selected
        (x,) = drawn((batch, 4), seed=batch)
        check(graph, executable, [torch.relu(x + shift)])


def test_a_computed_size() -> None:
    text = """func @main(%n: i64[], %x: f32[4]) -> f32[K,4] {
  %size = core.bind_dim(%n) {count=K} : i64[]
  %rows = core.broadcast(%x) : f32[K,4]
  %ramp = core.iota() {axis=0} : f32[K,4]
  %y = core.add(%rows, %ramp) : f32[K,4]
  return %y
}
"""
    graph = graph_of(text)
    executable = compile_graph(graph, "cpu")
    (x,) = drawn((4,))
    for size in (0, 1, 5):
        assert torch.equal(executable(torch.tensor(size), x), interpret(graph, [torch.tensor(size), x])[0])
    with pytest.raises(InputError, match="makes -1 a dim"):
        executable(torch.tensor(-1), x)
    with pytest.raises(InputError, match="gives dim K the value -1"):
        interpret(graph, [torch.tensor(-1), x])


def test_a_size_out_of_its_range_is_refused() -> None:
    graph = parse(
        "plait.ir 1.0\ndim B in 1..64\ndim K in 1..2\nfunc @main(%x: f32[B]) -> i64[K,1] {\n"
        "  %k = core.nonzero(%x) {count=K} : i64[K,1]\n  return %k\n}\n"
    )
    executable = compile_graph(graph, "cpu")
    assert executable(torch.tensor([0.0, 1.0])).tolist() == [[1]]
    for x in (torch.zeros(3), torch.ones(3)):
        with pytest.raises(InputError, match=r"core.nonzero .* dim K"):
            interpret(graph, [x])
        with pytest.raises(InputError, match=r"core.nonzero %k gives dim K, declared in 1..2, the value"):
            executable(x)


@pytest.mark.slow
def test_saved_and_loaded_in_another_process(tmp_path: Path) -> None:
    graph = graph_of(SELECTED)
    (x,) = drawn((5, 4))
    compile_graph(graph, "cpu").save(tmp_path / "selected.bin")
    np.save(tmp_path / "x.npy", x.numpy())
    program = (
        "import sys, numpy, plait.backends as b\n"
        "run = b.load_executable(sys.argv[1] + '/selected.bin')\n"
        "sums, *rest = run(numpy.load(sys.argv[1] + '/x.npy'))\n"
        "numpy.save(sys.argv[1] + '/sums.npy', sums)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    assert np.allclose(np.load(tmp_path / "sums.npy"), interpret(graph, [x])[0].numpy(), rtol=1e-5)


def test_memory_of_a_size_that_depends_on_data() -> None:
    executable = compile_graph(graph_of(SELECTED), "cpu")
    assert executable.memory_at({"B": 8}).dims["K"] == 8  # no more rows than there are


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "text", [COUNTING, pytest.param(NESTED, marks=SLOW), pytest.param(SELECTED, marks=SLOW)]
)
def test_control_flow_on_the_gpu(text: str) -> None:
    graph = graph_of(text)
    executable = compile_graph(graph, "a100")
    inputs: dict[str, list[Any]] = {
        COUNTING: [torch.tensor(3), *drawn((3,))],
        SELECTED: [torch.relu(drawn((5, 4))[0])],
        NESTED: [torch.tensor(2), *drawn((2, 4)), torch.tensor(False)],
    }
    check(graph, executable, inputs[text], emulate=True)
    if text is SELECTED:  # with nothing selected there is no element to launch a grid for
        check(graph, executable, [torch.zeros(2, 4)], emulate=True)
