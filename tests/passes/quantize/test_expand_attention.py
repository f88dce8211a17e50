"""expand-attention: the same numbers as nn.attention, under every mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from plait.ir import Graph, parse, parse_type
from plait.ir.interpret import interpret
from plait.ir.ops import nn
from plait.passes import apply_rules, optimize, why
from plait.passes.examples import body_lines, examples_of
from plait.passes.quantize.expand_attention import ExpandAttention, expand
from plait.passes.rewriter import RULES

CASES: dict[str, tuple[str, str, str, str | None, dict[str, Any]]] = {
    "plain": ("f32[B,2,5,8]", "f32[B,2,7,8]", "f32[B,2,7,6]", None, {}),
    "leading dims that broadcast": ("f32[B,2,5,8]", "f32[1,7,8]", "f32[B,1,7,6]", None, {"scale": 0.3}),
    "causal": ("f32[B,5,8]", "f32[B,5,8]", "f32[B,5,8]", None, {"causal": True}),
    "causal, more keys": ("f32[5,8]", "f32[7,8]", "f32[7,3]", None, {"causal": True}),
    "mask of booleans": ("f32[B,2,5,8]", "f32[B,2,7,8]", "f32[B,2,7,6]", "bool[5,7]", {}),
    "mask that is added": ("f32[B,2,5,8]", "f32[B,2,7,8]", "f32[B,2,7,6]", "f32[B,1,5,7]", {}),
    "causal with a mask": ("f32[B,5,8]", "f32[B,5,8]", "f32[B,5,8]", "bool[B,5,5]", {"causal": True}),
    "half precision": ("f16[B,2,5,8]", "f16[B,2,7,8]", "f16[B,2,7,6]", None, {}),
    "double precision": ("f64[B,2,5,8]", "f64[B,2,7,8]", "f64[B,2,7,6]", "f64[5,7]", {"scale": 0.1}),
}


def attention(name: str) -> tuple[Graph, dict[str, torch.Tensor]]:
    """A graph of one attention op, and inputs; one row of a boolean mask has no key."""
    q, k, v, mask, options = CASES[name]
    g = Graph()
    g.declare_dim("B", 1, 8)
    values = [g.add_input(n, parse_type(text)) for n, text in zip("qkv", (q, k, v), strict=True)]
    given = g.add_input("mask", parse_type(mask)) if mask else None
    g.set_outputs([g.emit(nn.Attention(*values, given, **options))])
    g.verify()
    generator = torch.Generator().manual_seed(4)
    inputs = {}
    for value in g.inputs:
        shape = [dim if isinstance(dim, int) else 3 for dim in value.shaped.shape]
        x = torch.randn(*shape, generator=generator, dtype=torch.float64)
        if value.shaped.dtype.kind == "bool":
            inputs[value.name] = x > -0.5
            inputs[value.name][..., 2, :] = False
        else:
            inputs[value.name] = x.to(
                {"f16": torch.float16, "f32": torch.float32}.get(value.shaped.dtype.name, x.dtype)
            )
    return g, inputs


@pytest.mark.parametrize("name", CASES)
def test_same_as_attention(name: str) -> None:
    before, inputs = attention(name)
    after, report = optimize(before, [ExpandAttention()])
    assert report.changed
    assert not any(isinstance(op, nn.Attention) for op in after.ops)
    assert parse(str(after)) == after
    (wanted,), (found,) = interpret(before, inputs), interpret(after, inputs)
    tolerance = 5e-3 if wanted.dtype == torch.float16 else 1e-5
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    assert np.isfinite(found.numpy()).all()


def test_examples(assert_same: Callable[[Graph, Graph], None]) -> None:
    for documented in (ExpandAttention, expand):
        (example,) = examples_of(documented)
        before, after = example.graph(), example.graph()
        assert apply_rules(after, RULES[ExpandAttention], ExpandAttention.name).changed
        assert body_lines(after) == example.result
        assert_same(before, after)


def test_a_width_that_only_a_run_shows_is_left() -> None:
    g = Graph()
    width = g.declare_dim("D", 1, 64)
    kind = parse_type("f32[5,8]").map_dims(lambda dim: width if dim == 8 else dim)
    q, k, v = (g.add_input(name, kind) for name in "qkv")
    y = g.emit(nn.Attention(q, k, v), name="y")
    g.set_outputs([y])
    after, report = optimize(g, [ExpandAttention()])
    assert not report.changed
    assert after == g
    assert "which only a run shows" in str(why(g, ExpandAttention.name, "y"))
