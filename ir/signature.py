"""Dim values from the shapes of inputs: every occurrence is checked, simple expressions are solved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from plait.ir.bind import check_dims, refuse_bound
from plait.ir.dims import Dim, IntLike, substitute, symbols_of
from plait.ir.errors import InputError
from plait.ir.graph import Graph
from plait.ir.types import GraphType, ShapedType, Type


@dataclass(frozen=True)
class SizeFact:
    """A size seen at run time: `place` of input `name` is `actual`, and its type says `dim`."""

    name: str
    place: str
    dim: IntLike
    actual: int
    type: Type


def shape_facts(name: str, kind: ShapedType, shape: tuple[int, ...]) -> list[SizeFact]:
    """The facts that the shape of one tensor input gives.  Raises InputError when the rank differs."""
    if len(shape) != kind.rank:
        raise InputError(
            f"shape {list(shape)} has {len(shape)} axes",
            where=f"input {name}",
            why=f"its type {kind} has {kind.rank}",
            remedy="add or remove axes, for instance with reshape",
        )
    return [
        SizeFact(name, f"axis {axis}", dim, size, kind)
        for axis, (dim, size) in enumerate(zip(kind.shape, shape, strict=True))
    ]


def edges_and_counts(argument: Any) -> tuple[Any, dict[str, int]]:
    """The edges of a graph object such as a DGLGraph as (src, dst), and its node counts by `src` and `dst`.

    An object is one that has `edges()`, `num_src_nodes()` and `num_dst_nodes()`; anything
    else is returned as it is, without counts.
    """
    if not all(hasattr(argument, name) for name in ("edges", "num_src_nodes", "num_dst_nodes")):
        return argument, {}
    counts = {"src": int(argument.num_src_nodes()), "dst": int(argument.num_dst_nodes())}
    return tuple(argument.edges()), counts


def graph_facts(name: str, kind: GraphType, edges: int, counts: Mapping[str, int]) -> list[SizeFact]:
    """The facts that one graph input gives: its number of edges, and node counts where it shows any."""
    facts = [SizeFact(name, "the number of edges", kind.edges, edges, kind)]
    words = {"src": "source nodes", "dst": "destination nodes"}
    return facts + [
        SizeFact(name, f"the number of {words[side]}", kind.ends(side), count, kind)
        for side, count in counts.items()
    ]


def solve_dims(
    graph: Graph, facts: Iterable[SizeFact], given: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Values of the graph's dims from sizes seen at run time.

    A symbol is taken from an axis that is the symbol itself or a linear expression
    of one unknown symbol (`2*B+1`).  Every other axis is then checked.

    Args:
        given: values known beforehand, for dims that no input shows.

    Raises:
        InputError: sizes contradict each other, a type or the range of a dim.
    """
    values, origin = dict(given or {}), dict.fromkeys(given or {}, "the given dims")
    check_dims(graph, values)
    refuse_bound(graph, values)
    pending = list(facts)
    while pending:
        rest = [fact for fact in pending if not _apply(fact, values, origin)]
        if len(rest) == len(pending):
            fact = rest[0]
            unknown = sorted(symbols_of(substitute(fact.dim, values)))
            raise InputError(
                f"{fact.place} is {fact.actual} but does not settle {' and '.join(unknown)}",
                where=f"input {fact.name}",
                why=f"its type {fact.type} has {fact.dim} there",
                remedy=f"give dims={{'{unknown[0]}': ...}}",
            )
        pending = rest
    _check_ranges(graph, values, origin)
    return values


def _apply(fact: SizeFact, values: dict[str, int], origin: dict[str, str]) -> bool:
    """Check a fact or learn a symbol from it; False while too much is unknown."""
    dim = substitute(fact.dim, values)
    if isinstance(dim, int):
        if dim != fact.actual:
            raise _mismatch(fact, dim, values, origin)
        return True
    solution = _linear(dim, fact.actual)
    if solution is None:
        return False
    symbol, dividend, factor = solution
    if dividend % factor or dividend // factor < 0:
        raise InputError(
            f"{fact.place} is {fact.actual}",
            where=f"input {fact.name}",
            why=f"its type {fact.type} has {fact.dim} there, which no whole {symbol} makes {fact.actual}",
            remedy="resize the input",
        )
    values[symbol] = dividend // factor
    origin[symbol] = f"{fact.place} of input {fact.name}"
    return True


def _linear(dim: Dim, actual: int) -> tuple[str, int, int] | None:
    """(x, actual - c, a) where `dim` is a*x + c with a symbol x, else None."""
    terms = dict(dim.terms)
    constant = terms.pop((), 0)
    if len(terms) != 1:
        return None
    ((monomial, factor),) = terms.items()
    if len(monomial) != 1 or monomial[0].operator:
        return None
    return monomial[0].name, actual - constant, factor


def _mismatch(
    fact: SizeFact, wanted: int, values: Mapping[str, int], origin: Mapping[str, str]
) -> InputError:
    sources = [f"{s} is {values[s]} from {origin[s]}" for s in sorted(symbols_of(fact.dim))]
    wants = f"{fact.dim} = {wanted}" if sources else str(wanted)
    return InputError(
        f"{fact.place} is {fact.actual}",
        where=f"input {fact.name}",
        why=f"its type {fact.type} has {wants} there" + (f"; {', '.join(sources)}" if sources else ""),
        remedy="resize the input" if not sources else "pass inputs whose sizes agree",
    )


def _check_ranges(graph: Graph, values: Mapping[str, int], origin: Mapping[str, str]) -> None:
    for name, value in values.items():
        allowed = graph.dims.get(name)
        if allowed is None:
            continue
        if value < allowed.low or (allowed.high is not None and value > allowed.high):
            raise InputError(
                f"dim {name} is {value} from {origin[name]}",
                where=f"graph @{graph.name}",
                why=f"it is declared dim {name} {allowed}",
                remedy="pass a size in the range, or lower the model with a wider one",
            )
