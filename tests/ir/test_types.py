"""Types: text round trip, sizes, equality."""

import pytest

from plait.ir.dims import Dim
from plait.ir.types import (
    DTYPES,
    GraphType,
    QuantType,
    SpikeType,
    TensorType,
    dtype_of,
    f32,
    i64,
    parse_type,
)

B = Dim.symbol("B")

TEXTS = [
    "f32[B,3,224,224]",
    "f32[]",
    "c64[2]",
    "qi8<0.0236, zp=-128>[B,16,32,32]",
    "qi8<@conv1.w.scale, axis=0>[16,3,3,3]",
    "qi4<@s, axis=1, group=128>[64,256]",
    "qu3<0.5, zp=@z>[4]",
    "spike<0.084>[T,B,256]",
    "spike[T]",
    "graph<N, E, csr, i32>",
    "graph<N, 2*E+1, coo, i64>",
    "i64[2*B+1,max(4, N)]",
]


@pytest.mark.parametrize("text", [*TEXTS, *(f"{name}[2,3]" for name in DTYPES)])
def test_text_round_trip(text: str) -> None:
    assert str(parse_type(text)) == text
    assert parse_type(str(parse_type(text))) == parse_type(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f33[2]", "unknown element type 'f33'; did you mean 'f32'"),
        ("f32", "lacks a shape; a scalar is written f32[]"),
        ("f32<2>[3]", "takes no"),
        ("qi9<0.1>[2]", "unknown element type"),
        ("qi8[2]", "lacks a scale"),
        ("qi8<0.1, zero=3>[2]", "none of zp=, axis=, group="),
        ("qi8<abc>[2]", "neither a number nor a constant"),
        ("qi8<0.1, axis=x>[2]", "no whole number"),
        ("spike<2.0>[3]", "outside 0..1"),
        ("spike<x>[3]", "no number"),
        ("graph<N, E, ell, i32>", "neither coo nor csr"),
        ("graph<N, E>", "no graph type"),
        ("graph<N, E, csr, i8>", "neither i32 nor i64"),
        ("f32[2**B]", "dim"),
    ],
)
def test_bad_text_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_type(text)
    assert message in str(caught.value)


def test_density_is_no_part_of_equality() -> None:
    assert SpikeType((4,), 0.1) == SpikeType((4,), 0.9) == SpikeType((4,))
    assert hash(SpikeType((4,), 0.1)) == hash(SpikeType((4,)))


def test_bytes() -> None:
    assert TensorType(f32, (B, 3)).bytes_at({"B": 4}) == 48
    assert QuantType(4, True, 0.1, (3,)).bytes_at({}) == 2
    assert SpikeType((9,)).bytes_at({}) == 2
    assert GraphType(10, 20, "coo").bytes_at({}) == 160
    assert GraphType(10, 20, "csr", i64).bytes_at({}) == (11 + 40) * 8
    assert GraphType(10, 20, "coo", i64, 7).bytes_at({}) == 320


def test_bipartite_graph() -> None:
    kind = parse_type("graph<N, E, coo, i64, src=2*M>")
    assert isinstance(kind, GraphType)
    assert str(kind) == "graph<N, E, coo, i64, src=2*M>"
    assert kind.symbols == {"N", "E", "M"}
    assert str(kind.substitute({"M": 3})) == "graph<N, E, coo, i64, src=6>"
    assert (str(kind.ends("src")), str(kind.ends("dst"))) == ("2*M", "N")


def test_quantised_range() -> None:
    assert QuantType(8, True, 0.1, ()).range == (-128, 127)
    assert QuantType(3, False, 0.1, ()).range == (0, 7)


def test_symbols_and_substitution() -> None:
    kind = TensorType(f32, (2 * B, 3))
    assert kind.symbols == {"B"}
    assert kind.substitute({"B": 5}) == TensorType(f32, (10, 3))


def test_unknown_numpy_dtype() -> None:
    with pytest.raises(ValueError, match="no IR element type"):
        dtype_of("U4")
