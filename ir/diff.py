"""Differences between two graphs, anchored at value names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from plait.ir.graph import Graph
from plait.ir.op import Op
from plait.ir.text.printer import literal, print_op


@dataclass(frozen=True)
class OpChange:
    """One op that differs: `kind` is added, removed or changed; `details` names each difference."""

    kind: str
    name: str
    opname: str
    details: tuple[str, ...] = ()
    text: str = ""

    def __str__(self) -> str:
        sign = {"added": "+", "removed": "-", "changed": "~"}[self.kind]
        line = f"{sign} %{self.name} {self.opname}"
        return line + (f": {'; '.join(self.details)}" if self.details else "")


@dataclass(frozen=True)
class GraphDiff:
    """What makes two graphs differ.  Empty, and false, when they are equal."""

    ops: tuple[OpChange, ...] = ()
    constants: tuple[str, ...] = ()
    interface: tuple[str, ...] = ()
    op_counts: dict[str, int] = field(default_factory=dict)  # op name -> difference in number

    def __bool__(self) -> bool:
        return bool(self.ops or self.constants or self.interface)

    def to_dict(self) -> dict[str, Any]:
        """The difference as plain data."""
        return {
            "equal": not self,
            "interface": list(self.interface),
            "constants": list(self.constants),
            "ops": [
                {"kind": c.kind, "name": c.name, "op": c.opname, "details": list(c.details), "text": c.text}
                for c in self.ops
            ],
            "op_counts": self.op_counts,
        }

    def __str__(self) -> str:
        if not self:
            return "graphs are equal"
        counts = ", ".join(f"{name} {delta:+d}" for name, delta in sorted(self.op_counts.items()))
        lines = [*self.interface, *map(str, self.ops), *self.constants]
        return "\n".join([*lines, f"op counts: {counts or 'the same'}"])


def diff(before: Graph, after: Graph) -> GraphDiff:
    """Compare two graphs op by op; ops are the same when their first result has the same name."""
    old = {op.name: op for op in before.walk()}
    new = {op.name: op for op in after.walk()}
    changes: list[OpChange] = []
    for name, op in old.items():
        if name not in new:
            changes.append(OpChange("removed", name, op.opname, text=print_op(op)[0]))
            continue
        details = _details(op, new[name])
        if details:
            changes.append(
                OpChange("changed", name, new[name].opname, tuple(details), print_op(new[name])[0])
            )
    for name, op in new.items():
        if name not in old:
            changes.append(OpChange("added", name, op.opname, text=print_op(op)[0]))
    counts = Counter(op.opname for op in new.values())
    counts.subtract(Counter(op.opname for op in old.values()))
    return GraphDiff(
        tuple(changes),
        tuple(_constants(before, after)),
        tuple(_interface(before, after)),
        {name: delta for name, delta in counts.items() if delta},
    )


def _details(old: Op, new: Op) -> list[str]:
    found = []
    if old.opname != new.opname:
        found.append(f"{old.opname} -> {new.opname}")
    else:
        for spec in new.schema.attributes:
            a, b = getattr(old, spec.name), getattr(new, spec.name)
            if a != b:
                found.append(f"{spec.name} {literal(a)} -> {literal(b)}")
    names_before, names_after = [str(v) for v in old.operands], [str(v) for v in new.operands]
    if names_before != names_after:
        found.append(f"operands ({', '.join(names_before)}) -> ({', '.join(names_after)})")
    types_before, types_after = [v.type for v in old.results], [v.type for v in new.results]
    if types_before != types_after:
        found.append(f"type {', '.join(map(str, types_before))} -> {', '.join(map(str, types_after))}")
    return found


def _constants(before: Graph, after: Graph) -> list[str]:
    found = []
    for name, constant in before.constants.items():
        other = after.constants.get(name)
        if other is None:
            found.append(f"- @{name} : {constant.type}")
        elif (other.type, other.content_hash) != (constant.type, constant.content_hash):
            found.append(
                f"~ @{name}: {constant.type} {constant.content_hash} -> {other.type} {other.content_hash}"
            )
    found += [f"+ @{n} : {c.type}" for n, c in after.constants.items() if n not in before.constants]
    return found


def _interface(before: Graph, after: Graph) -> list[str]:
    found = []
    for name in {**before.dims, **after.dims}:
        a, b = before.dims.get(name), after.dims.get(name)
        if a != b:
            found.append(f"~ dim {name}: {a or 'absent'} -> {b or 'absent'}")
    for word, old, new in (
        ("inputs", before.inputs, after.inputs),
        ("outputs", before.outputs, after.outputs),
    ):
        a_text = ", ".join(f"{v}: {v.type}" for v in old)
        b_text = ", ".join(f"{v}: {v.type}" for v in new)
        if a_text != b_text:
            found.append(f"~ {word}: ({a_text}) -> ({b_text})")
    return found
