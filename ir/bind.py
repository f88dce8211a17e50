"""Fixing dim symbols: the same program for known sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plait.ir.dims import Dim, substitute, symbols_of
from plait.ir.errors import InputError, did_you_mean
from plait.ir.graph import DimRange, Graph
from plait.ir.region import Region
from plait.ir.types import Type
from plait.ir.value import Value


def check_dims(graph: Graph, values: Mapping[str, int]) -> None:
    """Raise InputError unless each name is a dim of the graph and its value in range."""
    for name, given in values.items():
        if name not in graph.dims:
            raise InputError(
                f"graph @{graph.name} has no dim {name}{did_you_mean(name, graph.dims)}",
                why=f"its dims are {', '.join(graph.dims) or 'all fixed'}",
                remedy="print the graph to see its dims",
            )
        allowed = graph.dims[name]
        if given < allowed.low or (allowed.high is not None and given > allowed.high):
            raise InputError(
                f"dim {name}={given} is out of range", why=f"the graph declares dim {name} {allowed}"
            )


def default_dims(
    graph: Graph, values: Mapping[str, int] | None = None, *, upper: bool = False
) -> dict[str, int]:
    """A value for every dim: the given one, else a fixed dim's own, else (with `upper`) its upper bound.

    Raises InputError naming every dim that is left without a value.
    """
    found = dict(values or {})
    check_dims(graph, found)
    for name, allowed in graph.dims.items():
        if name not in found and allowed.high is not None and (upper or allowed.low == allowed.high):
            found[name] = allowed.high
    missing = [name for name in graph.dims if name not in found]
    if missing:
        example = ", ".join(f"'{name}': 8" for name in missing)
        raise InputError(
            f"dim {', '.join(missing)} of graph @{graph.name} has no value",
            why="the figure depends on it" + (" and it has no upper bound" if upper else ""),
            remedy=f"give dims={{{example}}}, or --dim {missing[0]}=8 on the command line",
        )
    return found


def bind_dims(graph: Graph, values: Mapping[str, int]) -> Graph:
    """A copy of the graph with dim symbols fixed.  Raises InputError on unknown or out-of-range dims."""
    check_dims(graph, values)
    copy = graph.clone()
    if not values:
        return copy
    _bind_region(copy.body, values)
    for name in values:
        del copy.dims[name]
    left = {s for value in copy.values() for s in value.type.symbols}
    for name in left - copy.dims.keys():
        copy.dims[name] = DimRange()
    return copy


def _bind_region(region: Region, values: Mapping[str, int]) -> None:
    for value in region.params:
        _bind_value(value, values)
    for op in region:
        for spec in op.schema.fields:
            if spec.role in ("attribute", "result_type"):
                given = getattr(op, spec.name)
                changed = _bind_field(given, values)
                if changed is not given:
                    object.__setattr__(op, spec.name, changed)
        for inner in op.regions:
            _bind_region(inner, values)
        for value in op.results:
            _bind_value(value, values)


def _bind_value(value: Value, values: Mapping[str, int]) -> None:
    if value.type.symbols & values.keys():
        value.type = value.type.substitute(values)


def _bind_field(given: Any, values: Mapping[str, int]) -> Any:
    if isinstance(given, Type):
        return given.substitute(values) if given.symbols & values.keys() else given
    if isinstance(given, Dim):
        return substitute(given, values) if symbols_of(given) & values.keys() else given
    if isinstance(given, tuple) and any(isinstance(item, Dim) for item in given):
        return tuple(substitute(item, values) if isinstance(item, Dim) else item for item in given)
    return given
