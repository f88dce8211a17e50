"""Printing and parsing; every class of mistake with its place and message."""

import numpy as np
import pytest

from plait.ir import VerifyError, parse
from plait.ir.text.printer import print_graph

QUANTISED = """plait.ir 1.0
dim B in 1..64
const @conv1.w.scale : f32[16] = blob("9c1e44d000000001")
const @conv1.w : qi8<@conv1.w.scale, axis=0>[16,3,3,3] = blob("9c1e44d000000002")
const @conv1.b : i32[16] = blob("0b7fa2c1")
func @main(%image: f32[B,3,32,32]) -> f32[B,16,16,16] {
  %image_q = quant.quantize(%image) : qi8<0.0171, zp=-14>[B,3,32,32]
  %conv1 = nn.conv2d(%image_q, @conv1.w, @conv1.b) {pad=[1,1], act="relu"} : qi8<0.0236, zp=-128>[B,16,32,32]
  %pool1 = nn.max_pool2d(%conv1) {kernel=[2,2], stride=[2,2]} : qi8<0.0236, zp=-128>[B,16,16,16]
  %out = quant.dequantize(%pool1) : f32[B,16,16,16]
  return %out
} loc {
  %conv1 "conv1" net.py:12 + "bn1" net.py:13 via fold-bn+fuse-act+quantize
  %pool1 "pool1" net.py:13
}
"""

SPIKING = """plait.ir 1.0
dim T in 1..64
dim B in 1..*
const @fc1.w : f32[256,784] = blob("00")
func @main(%events: spike<0.031>[T,B,784], %v0: f32[B,256]) -> spike<0.084>[T,B,256], f32[B,256] {
  %s1, %v1 = core.scan(%events, %v0) : spike<0.084>[T,B,256], f32[B,256] do (%e: spike<0.031>[B,784], %v: f32[B,256]) {
    %i = spike.linear(%e, @fc1.w) {kernel="gather_rows"} : f32[B,256]
    %s, %vn = spike.lif(%i, %v) {tau=0.02, dt=0.001, v_th=1.0, reset="subtract"} : spike<0.084>[B,256], f32[B,256]
    yield %s, %vn
  }
  return %s1, %v1
}
"""

GRAPH = """plait.ir 1.0
dim N in 1..*
dim E in 0..*
func @main(%g: graph<N, E, csr, i32>, %l: f32[N,8], %hh: f32[N,8,8]) -> f32[N,8,8] {
  %el = message.gather(%g, %l) {side="src"} : f32[E,8]
  %er = message.gather(%g, %l) {side="dst"} : f32[E,8]
  %score = core.add(%el, %er) {act="leaky_relu"} : f32[E,8]
  %alpha = message.edge_softmax(%g, %score) {group="dst"} : f32[E,8]
  %msg = message.aggregate(%g, %hh, %alpha) {reduce="sum"} : f32[N,8,8]
  return %msg
}
"""

CONTROL = """plait.ir 1.0
dim B = 4
func @main(%c: bool[], %x: f32[B]) -> f32[B], f32[B] {
  %y = core.cond(%c, %x) : f32[B] then (%a: f32[B]) {
    %e = core.exp(%a) : f32[B]
    yield %e
  } otherwise (%b: f32[B]) {
    yield %b
  }
  %z = core.while(%y) : f32[B] condition (%s: f32[B]) {
    %m = core.max(%s) {axes=[0]} : f32[]
    %ten = core.full() {value=10.0} : f32[]
    %lt = core.lt(%m, %ten) : bool[]
    yield %lt
  } do (%s2: f32[B]) {
    %d = core.add(%s2, %s2) : f32[B]
    yield %d
  }
  return %y, %z
}
"""


@pytest.mark.parametrize(
    "text", [QUANTISED, SPIKING, GRAPH, CONTROL], ids=["quant", "spike", "graph", "control"]
)
def test_text_round_trips_to_the_byte(text: str) -> None:
    graph = parse(text)
    assert str(graph) == text
    assert parse(str(graph)) == graph
    assert graph.clone() == graph
    assert str(graph.clone()) == text


def test_locations_do_not_count_for_equality_or_id() -> None:
    graph = parse(QUANTISED)
    bare = parse(print_graph(graph, locations=False))
    assert bare == graph
    assert bare.id == graph.id
    loc = graph.value("conv1").producer.loc
    assert [o.path for o in loc.origins] == ["conv1", "bn1"]
    assert loc.passes == ("fold-bn", "fuse-act", "quantize")


def test_annotations_are_comments() -> None:
    graph = parse(QUANTISED)
    text = print_graph(graph, annotate=lambda op: f"cost of {op.name}")
    assert "// cost of conv1" in text
    assert parse(text) == graph


def test_one_line_per_op() -> None:
    graph = parse(QUANTISED)
    body = [line for line in str(graph).splitlines() if " = " in line and line.startswith("  ")]
    assert len(body) == len(graph)


def test_floats_print_shortest() -> None:
    text = "plait.ir 1.0\nfunc @main() -> f32[2] {\n  %x = core.full() {value=0.1} : f32[2]\n  return %x\n}\n"
    assert str(parse(text)) == text
    graph = parse(text.replace("0.1", "1e-05"))
    assert "value=1e-05" in str(graph)
    for special in ("inf", "-inf", "nan", "true", "-3"):
        assert f"value={special}" in str(parse(text.replace("0.1", special)))


MISTAKES = [
    ("plait.ir 1.0", "plait.ir 9.0", (1, 10), "IR version 9.0 is not supported"),
    ("plait.ir 1.0", "hello", (1, 1), "expected 'plait.ir' at the start"),
    ("dim B in 1..64", "dim B in 9..2", (2, 5), "dim B in 9..2 is empty"),
    ("dim B in 1..64", "dim B of 9", (2, 7), "expected 'in LOW..HIGH' or '= VALUE'"),
    ("dim B in 1..64", "dim B in 1..64\ndim B in 1..2", (3, 5), "dim B is declared twice"),
    ("dim B in 1..64", "dimension B", (2, 1), "expected 'dim', 'const' or 'func'"),
    ("dim B in 1..64\n", "", (5, 20), "dim B is not declared"),
    ('blob("0b7fa2c1")', 'blob("0b7fa2c1"', (6, 1), "expected ')' after the content hash"),
    ("const @conv1.b", "const @conv1.w", (5, 7), "@conv1.w is defined twice"),
    (": i32[16] =", ": i33[16] =", (5, 18), "unknown element type 'i33'; did you mean 'i32'?"),
    ("nn.conv2d", "nn.conv4d", (8, 12), "unknown op 'nn.conv4d'; did you mean 'nn.conv"),
    ("nn.conv2d", "conv2d", (8, 12), "expected an op name such as nn.conv2d"),
    ("pad=[1,1]", "padding=[1,1]", (8, 53), "nn.conv2d has no attribute 'padding'; it has: stride, pad"),
    ("pad=[1,1]", "stride=[1]", (8, 60), "nn.conv2d: attribute stride must be a list of 2"),
    ('act="relu"', 'act="rely"', (8, 68), "attribute act must be one of"),
    ("pad=[1,1]", "groups=1.5", (8, 60), "attribute groups must be a whole number"),
    ("(%image_q, @conv1.w, @conv1.b)", "(%image_q)", (8, 12), "nn.conv2d lacks operand w"),
    (
        "(%image_q, @conv1.w, @conv1.b)",
        "(%imageq, @conv1.w)",
        (8, 22),
        "%imageq is not defined; did you mean '%image",
    ),
    (
        "(%image_q, @conv1.w, @conv1.b)",
        "(%image_q, @conv1.w, bias=@conv1.b)",
        (8, 42),
        "has no operand 'bias'",
    ),
    ("quant.dequantize(%pool1)", "quant.dequantize(%pool1, %pool1)", (10, 35), "takes 1 operands"),
    ("%pool1 = nn", "%conv1 = nn", (9, 3), "name 'conv1' is defined twice"),
    (
        "%out = quant.dequantize(%pool1) : f32[B,16,16,16]",
        "%out = quant.dequantize(%pool1) : f32[B,16,16,17]",
        (10, 37),
        "quant.dequantize: %out is annotated f32[B,16,16,17] but the op computes f32[B,16,16,16]",
    ),
    ("kernel=[2,2]", "kernel=[64,64]", (9, 12), "window of 64 exceeds the input of 32"),
    (
        "-> f32[B,16,16,16] {",
        "-> f32[B,16,16,15] {",
        (11, 3),
        "@main returns f32[B,16,16,16] but declares f32[B,16,16,15]",
    ),
    ("return %out", "return %nothing", (11, 10), "%nothing is not defined"),
    ("  return %out\n", "", (11, 1), "expected an op or 'return', found '}'"),
    ('%pool1 "pool1"', '%pool9 "pool1"', (14, 3), "no op defines %pool9; did you mean '%pool1'?"),
    (
        "@conv1.w.scale, axis=0",
        "@conv1.w.scales, axis=0",
        None,
        "refers to constant @conv1.w.scales, which does not exist",
    ),
    ("f32[16] = blob", "f32[15] = blob", None, "@conv1.w.scale is f32[15] but"),
]


@pytest.mark.parametrize(("old", "new", "place", "message"), MISTAKES, ids=[m[1][:24] for m in MISTAKES])
def test_each_mistake_has_a_place_and_a_message(
    old: str, new: str, place: "tuple[int, int] | None", message: str
) -> None:
    assert old in QUANTISED
    with pytest.raises(VerifyError) as caught:
        parse(QUANTISED.replace(old, new, 1), file="bad.plait")
    text = str(caught.value)
    assert message in text
    if place is not None:
        assert text.startswith(f"bad.plait:{place[0]}:{place[1]}: error"), text
        assert "^" in text


def test_value_of_a_region_is_not_seen_outside() -> None:
    with pytest.raises(VerifyError, match=r"%e is not defined(.|\n)*belongs to a region that ended"):
        parse(CONTROL.replace("return %y, %z", "return %e, %z"))


def test_truncated_text_is_rejected_everywhere() -> None:
    for length in range(0, len(QUANTISED) - 2, 7):
        with pytest.raises(VerifyError):
            parse(QUANTISED[:length])


def test_data_reaches_constants() -> None:
    text = 'plait.ir 1.0\nconst @w : f32[2] = blob("x")\nfunc @main() -> f32[2] {\n  return @w\n}\n'
    graph = parse(text, constants={"w": np.ones(2, np.float32)})
    assert graph.constants["w"].data.tolist() == [1.0, 1.0]
    with pytest.raises(VerifyError, match="data of constant @w is float64"):
        parse(text, constants={"w": np.ones(2)})
