"""Damaged ONNX files and IR text: every one ends in a graph or in a PlaitError, within seconds."""

from __future__ import annotations

import contextlib
import time
from functools import lru_cache

import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import plait

LIMIT_S = 5.0
FUZZ = settings(
    max_examples=150,
    deadline=None,  # the test itself holds each input to LIMIT_S
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NUMBERS = (0, 1, -1, 2, 7, 255, 2**31, 2**63 - 1, -(2**63))

MODELS = (
    """<ir_version: 9, opset_import: ["" : 19]> g (float[N, 3, 8, 8] x) => (float[N, k] y)
       <float[4, 3, 3, 3] w = {WEIGHTS}, int64[2] s = {0, -1}>
       { c = Conv<pads = [1, 1, 1, 1]>(x, w)  r = Relu(c)  p = MaxPool<kernel_shape = [2, 2]>(r)  y = Reshape(p, s) }""".replace(
        "WEIGHTS", ", ".join(["0.5"] * 108)
    ),
    """<ir_version: 9, opset_import: ["" : 19]> g (float[2, 6] x, float[6] b) => (float[2, 12] y)
       <int64[2] split = {2, 4}>
       { s, t = Split<axis = 1>(x, split)  u = Concat<axis = 1>(t, s)  v = Add(u, b)  z = Softmax(v)
         y = Concat<axis = 1>(z, x) }""",
    """<ir_version: 9, opset_import: ["" : 19]> g (float[4] x, bool flag) => (float[4] y)
       { y = If(flag) <then_branch = t () => (float[4] a) { a = Neg(x) },
                       else_branch = e () => (float[4] b) { b = Exp(x) }> }""",
)


@lru_cache(maxsize=1)
def models() -> tuple[bytes, ...]:
    return tuple(onnx.parser.parse_model(text).SerializeToString() for text in MODELS)


@pytest.fixture(scope="module")
def dumps() -> tuple[str, ...]:
    class Branching(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda v: v.sin(), lambda v: v.cos(), (x,))

    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    graphs = (
        plait.lower(onnx.load_from_string(models()[0])),
        plait.lower(layer, (torch.ones(1, 5, 8),), dynamic={"src": {0: "B"}}),
        plait.lower(Branching(), (torch.ones(3),)),
    )
    return tuple(str(graph) for graph in graphs)


EDIT = st.tuples(
    st.sampled_from(("flip", "replace", "delete", "repeat", "cut")),
    st.floats(0, 1, exclude_max=True),
    st.binary(min_size=1, max_size=8),
)


def edited(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    found = bytearray(data)
    for kind, where, piece in edits:
        start = int(where * len(found))
        match kind:
            case "flip" if found:
                found[start] ^= piece[0]
            case "replace":
                found[start : start + len(piece)] = piece
            case "delete":
                del found[start : start + len(piece)]
            case "repeat":
                found[start:start] = found[start : start + 4 * len(piece)] * len(piece)
            case "cut":
                del found[start:]
    return bytes(found)


def survives(read) -> None:
    started = time.monotonic()
    with contextlib.suppress(plait.PlaitError):
        read()
    assert time.monotonic() - started < LIMIT_S


@FUZZ
@given(st.integers(0, len(MODELS) - 1), st.lists(EDIT, min_size=1, max_size=5))
def test_damaged_onnx_files(tmp_path_factory, number, edits):
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(edited(models()[number], edits))
    survives(lambda: plait.lower(path))


@FUZZ
@given(st.integers(0, len(MODELS) - 1), st.data())
def test_onnx_models_with_wrong_fields(number, data):
    model = onnx.load_from_string(models()[number])
    node = data.draw(st.sampled_from(list(model.graph.node)))
    names = [*(name for n in model.graph.node for name in (*n.input, *n.output)), "", "absent"]
    if node.input:
        node.input[data.draw(st.integers(0, len(node.input) - 1))] = data.draw(st.sampled_from(names))
    for tensor in model.graph.initializer:
        for place in range(len(tensor.int64_data)):
            tensor.int64_data[place] = data.draw(st.sampled_from(NUMBERS))
    for attribute in node.attribute:
        for place in range(len(attribute.ints)):
            attribute.ints[place] = data.draw(st.sampled_from(NUMBERS))
    dims = [dim for info in model.graph.input for dim in info.type.tensor_type.shape.dim]
    if dims:
        data.draw(st.sampled_from(dims)).dim_value = data.draw(st.sampled_from(NUMBERS))
    survives(lambda: plait.lower(model))


@FUZZ
@given(st.integers(0, 2), st.lists(EDIT, min_size=1, max_size=5))
def test_damaged_ir_text(dumps, number, edits):
    text = edited(dumps[number].encode(), edits).decode("utf-8", "replace")

    def read() -> None:
        graph = plait.parse(text)
        assert plait.parse(str(graph)) == graph

    survives(read)


@FUZZ
@given(
    st.integers(0, 2),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=6),
)
def test_ir_text_with_words_in_wrong_places(dumps, number, swaps):
    words = dumps[number].split(" ")
    for first, second in swaps:
        words[first % len(words)] = words[second % len(words)]
    survives(lambda: plait.parse(" ".join(words)))


@pytest.mark.parametrize(
    "text", ["", "plait.ir 1.0", "plait.ir 9.0\n", "\x00", "func", "plait.ir 1.0\nfunc @main("]
)
def test_fragments(text):
    with pytest.raises(plait.PlaitError):
        plait.parse(text)
