"""Pipeline text: parsing, printing, options and its errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest

from plait.ir import Graph, InputError
from plait.passes import DEFAULT, PASSES, Pass, PassManager, format_pipeline, parse_pipeline, register
from plait.passes.base import find_pass
from plait.passes.fold_constants import FoldConstants
from plait.passes.fuse_activation import FuseActivation


@dataclass(frozen=True)
class Everything(Pass):
    """One option of each kind."""

    name: ClassVar[str] = "everything"
    flag: bool = False
    count: int = 1
    rate: float = 0.5
    word: str = "plain"
    mode: Literal["fast", "slow"] = "fast"
    pair: tuple[int, int] = (1, 2)
    words: tuple[str, ...] = ()
    limit: int | None = None

    def run(self, graph: Graph) -> bool:
        return False


@pytest.fixture
def everything() -> object:
    register(Everything)
    yield Everything
    del PASSES["everything"]


def test_default_parses_and_prints_back() -> None:
    assert format_pipeline(parse_pipeline(DEFAULT)) == DEFAULT


def test_options_are_typed() -> None:
    (fuse, fold) = parse_pipeline(
        " fuse-activation { kinds = [relu, silu] },fold-constants{max_growth_bytes=16} "
    )
    assert fuse == FuseActivation(kinds=("relu", "silu"))
    assert fold == FoldConstants(max_growth_bytes=16)
    assert (
        format_pipeline([fuse, fold])
        == "fuse-activation{kinds=[relu,silu]},fold-constants{max_growth_bytes=16}"
    )


@pytest.mark.usefixtures("everything")
def test_every_kind_of_option_round_trips() -> None:
    text = 'everything{flag=true,count=3,rate=0.25,word="a b,}\\"c",mode=slow,pair=[4,5],words=[x,"layer1.*"],limit=7}'
    (parsed,) = parse_pipeline(text)
    assert parsed == Everything(
        flag=True,
        count=3,
        rate=0.25,
        word='a b,}"c',
        mode="slow",
        pair=(4, 5),
        words=("x", "layer1.*"),
        limit=7,
    )
    assert parse_pipeline(format_pipeline([parsed])) == (parsed,)
    assert parse_pipeline("everything{limit=none}") == (Everything(),)


def test_empty_pipeline() -> None:
    assert parse_pipeline("") == ()
    assert parse_pipeline("  ") == ()


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("canonicalise", 1, "unknown pass 'canonicalise'; did you mean 'canonicalize'?"),
        ("dead-code,,dead-code", 11, "expected a pass name, found ','"),
        ("dead-code dead-code", 11, "expected ',' between passes, found 'd'"),
        ("fuse-activation{kind=[relu]}", 17, "has no option 'kind'; did you mean 'kinds'?"),
        ("dead-code{x=1}", 11, "its options|it has none"),
        ("fuse-activation{kinds=relu}", 23, "it must be a list [a,b,..], each a word"),
        ("fold-constants{max_growth_bytes=much}", 33, "it must be a whole number"),
        ("fold-batch-norm{standalone=1}", 28, "it must be true or false"),
        ("fold-batch-norm{standalone=true,standalone=true}", 33, "given twice"),
        ("fuse-activation{kinds=[relu", 28, "expected ',' between list items, found the end"),
        ("fuse-activation{kinds}", 22, "expected '=' after option kinds, found '}'"),
    ],
)
def test_errors_name_the_column(text: str, column: int, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_pipeline(text)
    told = str(caught.value)
    assert caught.value.where == f"pipeline, column {column}"
    assert any(part in told for part in message.split("|"))
    lines = told.splitlines()
    assert lines[2].index("^") - 4 == column - 1


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("mode=medium", "one of fast, slow"),
        ("pair=[1]", "a list of 2: a whole number, a whole number"),
        ("rate=high", "a number"),
        ("limit=few", "a whole number or none"),
        ("word=[a]", "a word"),
    ],
)
def test_wrong_option_types(option: str, message: str) -> None:
    with pytest.raises(InputError, match="it must be " + message):
        parse_pipeline(f"everything{{{option}}}")


def test_order_is_checked() -> None:
    with pytest.raises(InputError, match="pass fold-batch-norm comes after fuse-activation"):
        PassManager("fuse-activation,fold-batch-norm")
    PassManager("fold-batch-norm,fuse-activation,fold-batch-norm")
    PassManager("fuse-activation")


def test_requirements_are_checked() -> None:
    @dataclass(frozen=True)
    class Needy(Pass):
        """Requires another pass."""

        name: ClassVar[str] = "needy"
        requires: ClassVar[tuple[str, ...]] = ("dead-code",)

        def run(self, graph: Graph) -> bool:
            return False

    (dead_code,) = parse_pipeline("dead-code")
    PassManager([dead_code, Needy()])
    with pytest.raises(InputError, match="needy requires dead-code, which is missing"):
        PassManager([Needy()])
    with pytest.raises(InputError, match="needy requires dead-code, which comes later"):
        PassManager([Needy(), dead_code])
    with pytest.raises(InputError, match="which is missing"):
        PassManager([dead_code, Needy()], disable=["dead-code"])


def test_registry_refuses_doubles_and_names_the_nearest() -> None:
    @dataclass(frozen=True)
    class Double(Pass):
        """Takes a name that is in use."""

        name: ClassVar[str] = "dead-code"

    with pytest.raises(TypeError, match="two passes are called dead-code"):
        register(Double)
    with pytest.raises(InputError, match="did you mean 'dead-code'"):
        find_pass("dead-cod")
