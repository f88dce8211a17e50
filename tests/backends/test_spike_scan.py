"""A loop over time whose sequences are spikes, in and out: on both targets, equal to the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

import plait
from plait.ir import parse
from plait.ir.interpret import interpret
from plait.ir.value import hash_content

TEXT = """
plait.ir 1.0
dim B in 1..8
const @w : f32[3,4] = blob("w")
func @main(%s: spike<0.2>[6,B,4], %v: f32[B,3]) -> spike[6,B,3], f32[B,3] {
  %z, %last = core.scan(%s, %v) : spike[6,B,3], f32[B,3] do (%e: spike<0.2>[B,4], %u: f32[B,3]) {
    %i = spike.linear(%e, @w) {kernel="gather_rows"} : f32[B,3]
    %f, %n = spike.lif(%i, %u) {tau=0.02, dt=0.01, v_th=0.5, reset="subtract"} : spike[B,3], f32[B,3]
    yield %f, %n
  }
  return %z, %last
}
"""


@pytest.mark.parametrize("target", ["cpu", "a100"])
def test_spikes_go_through_a_loop(target: str) -> None:
    random = np.random.default_rng(0)
    weights = (random.integers(-2, 6, (3, 4)) / 4).astype(np.float32)
    graph = parse(TEXT.replace('"w"', f'"{hash_content(weights)}"'), constants={"w": weights})
    given = {"s": random.random((6, 2, 4)) < 0.4, "v": np.zeros((2, 3), np.float32)}
    wanted = interpret(graph, given)
    exe = plait.compile(graph, target=target)
    found = exe(**given) if target == "cpu" else exe.emulate(**given, check=True)
    np.testing.assert_array_equal(np.asarray(found[0]), wanted[0].numpy())
    np.testing.assert_allclose(np.asarray(found[1]), wanted[1].numpy(), rtol=0, atol=1e-6)
    assert 0 < np.asarray(found[0]).mean() < 1
