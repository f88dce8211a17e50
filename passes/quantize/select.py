"""Which ops are quantised, and how: rules by module path, kind of op, or subgraph.

    Rule("encoder.layers.*", INT8)              # glob over module paths
    Rule("op:nn.linear", INT4_WEIGHT_ONLY)      # kind of op, a glob too
    Rule("from:%relu1 to:%relu4", None)         # all ops between two values; None leaves them in f32

Rules are read in order and the last one that matches an op decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from plait.ir import REGISTRY, Graph, InputError, Op
from plait.ir.errors import did_you_mean
from plait.passes.quantize.scheme import INT8, OpScheme

_SUBGRAPH = re.compile(r"\s*(?:from:%?(?P<start>[\w.$/-]+))?\s*(?:to:%?(?P<end>[\w.$/-]+))?\s*")


@dataclass(frozen=True)
class Rule:
    """Ops that match `pattern` are quantised by `scheme`, or not at all where it is None."""

    pattern: str
    scheme: OpScheme | None = INT8


def paths_of(op: Op) -> tuple[str, ...]:
    """The module paths that an op comes from; main one first."""
    return tuple(origin.path for origin in op.loc.origins if origin.path)


def matching(graph: Graph, pattern: str) -> list[Op]:
    """The ops of a graph that a pattern selects, in order.

    Raises InputError with the nearest paths or kinds when there are none.
    """
    ops = list(graph.walk())
    if pattern.startswith("op:"):
        kind = pattern[3:].strip()
        found = [op for op in ops if fnmatchcase(op.opname, kind)]
        present = sorted({op.opname for op in ops})
        nearest = did_you_mean(kind, present) or did_you_mean(kind, REGISTRY)
        what, known = f"no op is a {kind}{nearest}", f"the graph has {', '.join(present)}"
    elif pattern.startswith(("from:", "to:")):
        return _between(graph, pattern)
    else:
        found = [op for op in ops if any(fnmatchcase(path, pattern) for path in paths_of(op))]
        if not found:  # a value's name selects its op, a module's path all that is inside
            inside = [op for op in ops if any(path.startswith(f"{pattern}.") for path in paths_of(op))]
            found = inside or [op for op in ops if pattern.lstrip("%") in {v.name for v in op.results}]
        paths = sorted({path for op in ops for path in paths_of(op)})
        what = f"no op has a module path like '{pattern}'{did_you_mean(pattern, paths)}"
        known = f"paths are {', '.join(paths[:12])}{', ..' if len(paths) > 12 else ''}"
    if not found:
        raise InputError(
            what,
            where=f"pattern '{pattern}' on graph @{graph.name}",
            why=known,
            remedy="correct the pattern: a glob over module paths, op:KIND, or from:%a to:%b",
        )
    return found


def _between(graph: Graph, pattern: str) -> list[Op]:
    # networkx takes as long to import as the rest of plait.
    import networkx

    from plait.ir.analysis import to_networkx

    match = _SUBGRAPH.fullmatch(pattern)
    if match is None or not (match["start"] or match["end"]):
        raise InputError(
            f"'{pattern}' is no subgraph", why="it is written from:%a to:%b, of which one may be left out"
        )
    dataflow = to_networkx(graph)
    names = {value.name: op for op in graph.ops for value in op.results}
    inputs = {value.name for value in graph.inputs}

    def node(name: str) -> str:
        if name not in names and name not in inputs:
            raise InputError(
                f"the graph has no value %{name}{did_you_mean(name, [*names, *inputs])}",
                where=f"pattern '{pattern}'",
                remedy="name a value of the dump",
            )
        return f"%{name}" if name in inputs else names[name].name

    after, before = set(dataflow), set(dataflow)
    if match["start"]:
        start = node(match["start"])
        after = networkx.descendants(dataflow, start) | {start}
    if match["end"]:
        end = node(match["end"])
        before = networkx.ancestors(dataflow, end) | {end}
    chosen = after & before
    found = [op for op in graph.ops if op.name in chosen]
    if not found:
        raise InputError(
            f"no op lies between %{match['start']} and %{match['end']}",
            where=f"pattern '{pattern}'",
            why=f"nothing leads from %{match['start']} to %{match['end']}",
            remedy="swap them, or name other values",
        )
    return found


def schemes_of(graph: Graph, rules: Sequence[Rule], kinds: Iterable[type[Op]]) -> dict[str, OpScheme]:
    """The scheme of each op of one of `kinds`, by the name of its result; ops left in f32 are absent.

    Raises InputError for a rule that selects nothing, or nothing that can be quantised.
    """
    able = tuple(kinds)
    chosen: dict[str, OpScheme] = {}
    for rule in rules:
        found = [op for op in matching(graph, rule.pattern) if isinstance(op, able)]
        if not found and rule.scheme is not None:
            raise InputError(
                f"'{rule.pattern}' selects no op that can be quantised",
                where=f"graph @{graph.name}",
                why=f"those are {', '.join(sorted(kind.opname for kind in able))}",
                remedy="select a layer that has weights",
            )
        for op in found:
            if rule.scheme is None:
                chosen.pop(op.name, None)
            else:
                chosen[op.name] = rule.scheme
    return chosen
