"""Given/Result examples in the docstrings of passes and rules: read, completed and run.

    Given:
        @w : f32[4,3,3,3]
        %x : f32[B,3,8,8]
        %c = nn.conv2d(%x, @w) : f32[B,4,6,6]
        %r = nn.relu(%c) : f32[B,4,6,6]
        return %r
    Result:
        %r = nn.conv2d(%x, @w) {act="relu"} : f32[B,4,6,6]
        return %r

Lines `@name : type` are constants (random and positive, the same at every run), lines
`%name : type` are inputs, dims are declared as 1..64 where they occur.  The result is
compared line by line with the body of the dump.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from plait.ir import Graph, InputError, Loc, ShapedType, parse, parse_type
from plait.ir.value import hash_content

_CONSTANT = re.compile(r"@([\w.$/-]+) : (.+)")
_INPUT = re.compile(r"(%[\w.$/-]+) : (.+)")


@dataclass(frozen=True)
class Example:
    """One Given/Result pair: lines of compact IR text."""

    given: tuple[str, ...]
    result: tuple[str, ...]

    def graph(self) -> Graph:
        """The graph under Given; each op is located at its own name."""
        return complete(self.given)


def examples_of(documented: Any) -> tuple[Example, ...]:
    """The examples in a docstring, in order.  Raises InputError on a Given without Result."""
    lines = (inspect.getdoc(documented) or "").splitlines()
    blocks: list[tuple[str, list[str]]] = []
    inside = False
    for line in lines:
        if line.strip() in ("Given:", "Result:"):
            blocks.append((line.strip(), []))
            inside = True
        elif inside and line.startswith("    ") and line.strip():
            blocks[-1][1].append(line[4:])
        elif line.strip():
            inside = False
    if [head for head, _ in blocks] != ["Given:", "Result:"] * (len(blocks) // 2):
        raise InputError(
            "Given: and Result: do not alternate",
            where=getattr(documented, "__name__", str(documented)),
            remedy="write Result: after each Given:",
        )
    bodies = [tuple(body) for _, body in blocks]
    return tuple(Example(given, result) for given, result in zip(bodies[::2], bodies[1::2], strict=True))


def complete(lines: tuple[str, ...], *, seed: int = 0) -> Graph:
    """A graph from compact lines.  Raises VerifyError as `plait.ir.parse` does."""
    constants: dict[str, str] = {}
    inputs: list[tuple[str, str]] = []
    body: list[str] = []
    for line in lines:
        if match := _CONSTANT.fullmatch(line):
            constants[match[1]] = match[2]
        elif match := _INPUT.fullmatch(line):
            inputs.append((match[1], match[2]))
        else:
            body.append(line)
    types = {**dict(inputs), **_result_types(body)}
    symbols = sorted(set().union(*(parse_type(text).symbols for text in types.values())))
    random = np.random.default_rng(seed)
    data = {name: _random(random, parse_type(text)) for name, text in constants.items()}
    returned = re.findall(r"[%@][\w.$/-]+", body[-1]) if body and body[-1].startswith("return") else []
    known = {**types, **{f"@{name}": text for name, text in constants.items()}}
    text = ["plait.ir 1.0", *(f"dim {symbol} in 1..64" for symbol in symbols)]
    text += [f'const @{n} : {t} = blob("{hash_content(data[n])}")' for n, t in constants.items()]
    parameters = ", ".join(f"{name}: {kind}" for name, kind in inputs)
    text.append(f"func @main({parameters}) -> {', '.join(known[name] for name in returned)} {{")
    graph = parse("\n".join([*text, *body, "}"]), file="example", constants=data)
    for op in graph.walk():
        op.loc = Loc.at(op.name, "example.py", 1)
    return graph


def _result_types(body: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in body:
        names, equals, rest = line.strip().partition(" = ")
        if equals and names.startswith("%"):
            kinds = re.split(r", (?=[a-z]\w*[\[<])", rest.rpartition(" : ")[2].split(" do (")[0])
            found.update(zip(names.split(", "), kinds))
    return found


def _random(random: np.random.Generator, kind: Any) -> np.ndarray:
    """Positive numbers in 0.5..1.5, or small whole ones."""
    if not isinstance(kind, ShapedType):
        raise InputError(f"a constant of an example cannot be {kind}")
    shape = tuple(int(dim) for dim in kind.shape)  # type: ignore[call-overload]  # constants are not symbolic
    if kind.dtype.is_float:
        return random.uniform(0.5, 1.5, shape).astype(kind.dtype.numpy)
    return random.integers(1, 3, shape).astype(kind.dtype.numpy)


def body_lines(graph: Graph) -> tuple[str, ...]:
    """The ops and the return of the dump, as an example writes them."""
    from plait.ir import print_graph

    lines = print_graph(graph, locations=False).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("func "))
    return tuple(line[2:] for line in lines[start + 1 : -1])
