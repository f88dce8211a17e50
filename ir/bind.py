"""Fixing dim symbols: the same program for known sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plait.ir.dims import Dim, evaluate, substitute, symbols_of
from plait.ir.errors import InputError, did_you_mean
from plait.ir.graph import DimRange, Graph
from plait.ir.op import Op
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


def bound_dims(graph: Graph) -> dict[str, Op]:
    """The dims that ops give their values at run time, and those ops."""
    return {name: op for op in graph.walk() if (name := op.bound_dim) is not None}


def refuse_bound(graph: Graph, values: Mapping[str, int]) -> None:
    """Raise InputError when a value is given for a dim that an op binds."""
    if not values:
        return
    for name, op in bound_dims(graph).items():
        if name in values:
            raise InputError(
                f"dim {name} of graph @{graph.name} cannot be set to {values[name]}",
                why=f"{op.opname} %{op.name} gives it its value when it runs",
                remedy=f"leave {name} out of dims",
            )


def default_dims(
    graph: Graph, values: Mapping[str, int] | None = None, *, upper: bool = False
) -> dict[str, int]:
    """A value for every dim: the given one, else a fixed dim's own, else (with `upper`) its upper bound.

    A dim that an op binds has the least of its upper bound and what the op can
    reach at most, whatever `upper` says.

    Raises InputError naming every dim that is left without a value.
    """
    found = dict(values or {})
    check_dims(graph, found)
    bound = bound_dims(graph)
    for name, allowed in graph.dims.items():
        high = allowed.high
        if high is None or name in found or name in bound:
            continue
        if upper or allowed.low == high:
            found[name] = high
    for name, op in bound.items():
        limits = [graph.dims[name].high, op.bound_limit()]
        known = [
            evaluate(limit, found)
            for limit in limits
            if limit is not None and symbols_of(limit) <= found.keys()
        ]
        if name not in found and known:
            found[name] = min(known)
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
    """A copy of the graph with dim symbols fixed.

    Raises InputError on unknown or out-of-range dims, and on those that an op binds.
    """
    check_dims(graph, values)
    refuse_bound(graph, values)
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
