"""Graph to text: one op a line, defaults left out, deterministic to the byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from plait.ir.dims import Dim
from plait.ir.graph import Graph
from plait.ir.op import Op
from plait.ir.region import Region
from plait.ir.types import DType

VERSION = "1.0"
Annotate = Callable[[Op], "str | None"]


def print_graph(graph: Graph, *, locations: bool = True, annotate: Annotate | None = None) -> str:
    """The dump of a graph.

    Args:
        locations: append the `loc { }` section (it never counts for equality).
        annotate: text for a trailing comment of an op (derived data such as cost), or None.
    """
    lines = [f"plait.ir {VERSION}"]
    lines += [f"dim {name} {allowed}" for name, allowed in graph.dims.items()]
    lines += [f'const {c} : {c.type} = blob("{c.content_hash}")' for c in graph.constants.values()]
    results = ", ".join(str(value.type) for value in graph.outputs)
    arrow = f" -> {results}" if results else " ->"
    lines.append(f"func @{graph.name}({_params(graph.body)}){arrow} {{")
    _print_body(graph.body, lines, "  ", "return", annotate)
    places = [f"  {op.results[0]} {op.loc}" for op in graph.walk() if op.loc] if locations else []
    lines += ["} loc {", *places, "}"] if places else ["}"]
    return "\n".join(lines) + "\n"


def graph_id(graph: Graph) -> str:
    """SHA-256 (hexadecimal) of the dump without locations."""
    return hashlib.sha256(print_graph(graph, locations=False).encode()).hexdigest()


def print_op(op: Op, indent: str = "", annotate: Annotate | None = None) -> list[str]:
    """The lines of one op: a single one, unless it holds regions."""
    results = ", ".join(map(str, op.results))
    types = ", ".join(str(value.type) for value in op.results)
    line = f"{indent}{results} = {op.opname}({_arguments(op)}){_attributes(op)} : {types}"
    comment = annotate(op) if annotate is not None else None
    note = f"  // {comment}" if comment else ""
    if not op.schema.regions:
        return [line + note]
    lines: list[str] = []
    for spec, region in zip(op.schema.regions, op.regions, strict=True):
        keyword = region_keyword(spec.name)
        head = f"{keyword} ({_params(region)}) {{"
        lines.append(f"{line} {head}{note}" if not lines else f"{indent}}} {head}")
        note = ""
        _print_body(region, lines, indent + "  ", "yield", annotate)
    lines.append(indent + "}")
    return lines


def region_keyword(field: str) -> str:
    """Keyword in front of a region: `do` for the field `body`, else the field's name."""
    return "do" if field == "body" else field


def _print_body(region: Region, lines: list[str], indent: str, word: str, annotate: Annotate | None) -> None:
    for op in region:
        lines.extend(print_op(op, indent, annotate))
    lines.append(f"{indent}{word} {', '.join(map(str, region.results))}".rstrip())


def _params(region: Region) -> str:
    return ", ".join(f"{value}: {value.type}" for value in region.params)


def _arguments(op: Op) -> str:
    parts: list[str] = []
    positional = True
    for spec in op.schema.operands:
        given = getattr(op, spec.name)
        if spec.role == "variadic":
            if positional:
                parts.extend(map(str, given))
                positional = False  # what follows a variadic operand needs its name
            elif given:
                parts.append(f"{spec.name}=[{', '.join(map(str, given))}]")
        elif given is None:
            positional = False
        else:
            parts.append(str(given) if positional else f"{spec.name}={given}")
    return ", ".join(parts)


def _attributes(op: Op) -> str:
    if not op.schema.attributes:
        return ""
    parts = [f"{name}={literal(given)}" for name, given in op.attributes().items()]
    return f" {{{', '.join(parts)}}}" if parts else ""


def literal(given: Any) -> str:
    """Text of an attribute value."""
    if given is True:
        return "true"
    if given is False:
        return "false"
    if given is None:
        return "none"
    if isinstance(given, str):
        return json.dumps(given)
    if isinstance(given, (tuple, list)):
        return f"[{','.join(map(literal, given))}]"
    if isinstance(given, DType):
        return f'"{given}"'
    if isinstance(given, (int, float)):
        return repr(given)
    if isinstance(given, Dim):
        return str(given)
    raise TypeError(f"an attribute cannot hold {type(given).__name__} {given!r}")
