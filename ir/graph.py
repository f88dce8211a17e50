"""The graph: dims, constants and a body of ops, with use lists and safe mutation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.ir.dims import Dim
from plait.ir.errors import InputError, VerifyError, did_you_mean
from plait.ir.loc import Loc
from plait.ir.op import Op
from plait.ir.region import Region
from plait.ir.types import QuantType, TensorType, Type, dtype_of
from plait.ir.value import Constant, Value, check_constant

if TYPE_CHECKING:
    import networkx

NAME = re.compile(r"[A-Za-z0-9_][\w.$/-]*")


@dataclass(frozen=True)
class DimRange:
    """Values that a dim symbol may take; `high` None is unbounded, `low == high` a fixed value."""

    low: int = 1
    high: int | None = None

    def __str__(self) -> str:
        if self.low == self.high:
            return f"= {self.low}"
        return f"in {self.low}..{'*' if self.high is None else self.high}"


class Graph:
    """A program in the IR: one function over typed values.

    Build with `declare_dim`, `add_input`, `add_constant`, `add` and
    `set_outputs`; change with `replace`, `replace_uses` and `erase`.  `str(graph)`
    is its dump, `graph == other` compares dumps without locations.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.dims: dict[str, DimRange] = {}
        self.constants: dict[str, Constant] = {}
        self.body = Region()
        self._names: set[str] = set()
        self._suffixes: dict[str, int] = {}

    # -- views ----------------------------------------------------------------
    @property
    def inputs(self) -> tuple[Value, ...]:
        return tuple(self.body.params)

    @property
    def outputs(self) -> tuple[Value, ...]:
        return self.body.results

    @property
    def ops(self) -> Iterator[Op]:
        """Top-level ops in order; see `walk` for those inside regions too."""
        return iter(self.body)

    def walk(self) -> Iterator[Op]:
        """All ops, those inside regions included."""
        return self.body.walk()

    def __len__(self) -> int:
        return len(self.body)

    def value(self, name: str) -> Value:
        """The value called `name` (with or without % or @).  Raises InputError with the nearest name."""
        bare = name.lstrip("%@")
        if bare in self.constants and not name.startswith("%"):
            return self.constants[bare]
        values = {v.name: v for v in self.values()}
        if bare in values:
            return values[bare]
        raise InputError(
            f"no value {name} in graph @{self.name}{did_you_mean(bare, [*values, *self.constants])}",
            remedy="print the graph to see its names",
        )

    def values(self) -> Iterator[Value]:
        """All parameters and op results, regions included."""
        yield from self.body.params
        for op in self.walk():
            yield from op.results
            for region in op.regions:
                yield from region.params

    def bounds(self) -> dict[str, tuple[int, int | None]]:
        """Range of each dim symbol, for `Dim.bounds`."""
        return {name: (r.low, r.high) for name, r in self.dims.items()}

    # -- names ------------------------------------------------------------------
    def free_name(self, hint: str) -> str:
        """A well-formed name like `hint`, with _1, _2 ... behind it where it is taken."""
        base = re.sub(r"[^\w.$/-]", "_", hint) or "v"
        if not NAME.fullmatch(base):
            base = "v" + base
        name = base
        while name in self._names:
            count = self._suffixes.get(base, 0) + 1
            self._suffixes[base] = count
            name = f"{base}_{count}"
        return name

    def fresh_name(self, hint: str) -> str:
        """`free_name`, which is taken from then on."""
        name = self.free_name(hint)
        self._names.add(name)
        return name

    def take_name(self, name: str) -> str:
        """Reserve exactly this name.  Raises VerifyError when it is malformed or taken."""
        if not NAME.fullmatch(name):
            raise VerifyError(
                f"'{name}' is no value name",
                why="names are letters, digits and _ . $ / -",
                invariant=1,
            )
        if name in self._names:
            raise VerifyError(f"name '{name}' is defined twice", why="names are unique", invariant=1)
        self._names.add(name)
        return name

    def rename(self, value: Value, name: str) -> None:
        """Give a value another name; references inside quantised types follow a constant."""
        if name == value.name:
            return
        self.take_name(name)
        old = value.name
        self._names.discard(old)
        value._name = name
        if isinstance(value, Constant):
            self.constants = {v.name: v for v in self.constants.values()}
            for other in (*self.values(), *self.constants.values()):
                other.type = _renamed_reference(other.type, old, name)

    # -- building ---------------------------------------------------------------
    def declare_dim(self, name: str, low: int = 1, high: int | None = None) -> Dim:
        """Declare a symbolic dim and return it.  Raises VerifyError on an empty range."""
        dim = Dim.symbol(name)
        if low < 0 or (high is not None and high < low):
            raise VerifyError(
                f"dim {name} in {low}..{high} is empty or negative",
                why="a range is low..high, 0 <= low <= high",
            )
        self.dims[name] = DimRange(low, high)
        return dim

    def add_input(self, name: str, type: Type) -> Value:
        """Append a parameter."""
        return self.body.add_param(Value(self.take_name(name), type))

    def add_constant(
        self,
        name: str,
        data: np.ndarray | None,
        type: Type | None = None,
        *,
        content_hash: str | None = None,
    ) -> Constant:
        """Add a constant.  The array is made read only; copy first if its owner may change it.

        Args:
            name: a name no other value has.
            data: the array; None only together with `content_hash` (graphs parsed from text).
            type: by default the dense type of the array.
        """
        if data is not None:
            if type is None:
                type = TensorType(dtype_of(data.dtype), tuple(data.shape))
            check_constant(name, type, data)
            data = data.view()
            data.flags.writeable = False
        elif type is None or content_hash is None:
            raise InputError(f"constant @{name} has neither data nor type and hash")
        constant = Constant(self.take_name(name), type, data, content_hash)
        self.constants[name] = constant
        return constant

    def add(
        self,
        op: Op,
        *,
        name: str | None = None,
        names: Sequence[str] | None = None,
        loc: Loc | None = None,
        before: Op | None = None,
        region: Region | None = None,
    ) -> Op:
        """Infer the results of a detached op and put it into the graph.

        Args:
            name: hint for the result names, made unique; by default the op's short name.
            names: exact result names instead (raises VerifyError when taken).
            loc: source location; by default the one the op carries.
            before: op to insert in front of; by default the end of `region`.
            region: by default that of `before`, or the body.
        """
        if op.parent is not None:
            raise VerifyError(f"{op!r} is in a graph already", why="an op has one place", invariant=2)
        types = op.infer()
        if names is None:
            base = name or op.opname.rpartition(".")[2]
            names = [self.fresh_name(base) for _ in types]
        elif len(names) != len(types):
            raise VerifyError(f"{op.opname} has {len(types)} results but {len(names)} names", invariant=3)
        else:
            names = [self.take_name(n) for n in names]
        if loc is not None:
            op.loc = loc
        if region is None:
            region = before.parent if before is not None and before.parent is not None else self.body
        self.attach(op, names, types, region, before)
        return op

    def attach(
        self, op: Op, names: Sequence[str], types: Sequence[Type], region: Region, before: Op | None = None
    ) -> None:
        """Put an op whose result names are taken and whose types are known into a region."""
        op.results = tuple(Value(n, t, op) for n, t in zip(names, types, strict=True))
        for held in op.regions:
            held.owner = op
        region.insert(op, before)
        for value in op.operands:
            value.add_use(op)

    def emit(self, op: Op, **options: Any) -> Value:
        """`add` an op with one result and return that result."""
        return self.add(op, **options).result

    def set_outputs(self, values: Iterable[Value]) -> None:
        """Set the returned values."""
        self.body.set_results(values)

    # -- mutation -----------------------------------------------------------------
    def replace_uses(self, old: Value, new: Value) -> None:
        """Make every reader of `old` read `new`.  Raises VerifyError when the types differ."""
        if old is new:
            return
        if old.type != new.type:
            raise VerifyError(
                f"cannot replace {old} : {old.type} by {new} : {new.type}",
                why="readers were checked against the old type",
                invariant=3,
            )
        for user in old.users:
            if isinstance(user, Region):
                user.replace_result(lambda v: new if v is old else v)
            else:
                user.set_operands(lambda v: new if v is old else v)

    def erase(self, op: Op) -> None:
        """Remove an op that nothing reads.  Raises VerifyError while a result has users."""
        for value in op.results:
            if value.users:
                raise VerifyError(
                    f"cannot erase {op!r}: {value} is read by {value.users[0]!r}",
                    why="its readers would read nothing",
                    remedy="replace_uses() first",
                    invariant=2,
                )
        parent = op.parent
        if parent is None:
            raise VerifyError(f"{op!r} is not in a graph", invariant=2)
        for region in op.regions:
            self._forget(region)
        for value in op.operands:
            value.drop_use(op)
        self._names.difference_update(value.name for value in op.results)
        parent.unlink(op)

    def _forget(self, region: Region) -> None:
        """Drop the uses and names that ops of an erased region hold."""
        region.set_results(())
        for op in region:
            for inner in op.regions:
                self._forget(inner)
            for value in op.operands:
                value.drop_use(op)
            self._names.difference_update(value.name for value in op.results)
        self._names.difference_update(value.name for value in region.params)

    def replace(self, old: Op, new: Op, *, loc: Loc | None = None) -> Op:
        """Put detached `new` in the place of `old`, which is erased; result names are kept.

        Raises VerifyError when the number or types of results differ.
        """
        names = [value.name for value in old.results]
        self.add(new, names=[f"{n}.replacing" for n in names], before=old, loc=loc or new.loc or old.loc)
        if len(new.results) != len(old.results):
            raise VerifyError(
                f"cannot replace {old!r} by {new.opname} with {len(new.results)} results", invariant=3
            )
        for before, after in zip(old.results, new.results, strict=True):
            self.replace_uses(before, after)
        self.erase(old)
        for value, name in zip(new.results, names, strict=True):
            self.rename(value, name)
        return new

    def remove_constant(self, constant: Constant) -> None:
        """Remove a constant that no op reads; a type that still refers to it breaks invariant 7."""
        if constant.users:
            raise VerifyError(f"{constant} is read by {constant.users[0]!r}", invariant=2)
        del self.constants[constant.name]
        self._names.discard(constant.name)

    def clone(self) -> Graph:
        """A deep copy; constant arrays are shared, since they are read only."""
        copy = Graph(self.name)
        copy.dims = dict(self.dims)
        mapping: dict[Value, Value] = {}
        for constant in self.constants.values():
            new = Constant(constant.name, constant.type, constant._data, constant._hash)
            copy.constants[constant.name] = mapping[constant] = new
        copy._names, copy._suffixes = set(self._names), dict(self._suffixes)
        copy_region(self.body, copy.body, mapping)
        return copy

    # -- text, files and views: thin doors to the modules that own them --------------
    def __str__(self) -> str:
        from plait.ir.text.printer import print_graph

        return print_graph(self)

    def __repr__(self) -> str:
        return f"<Graph @{self.name}: {len(self)} ops, {len(self.constants)} constants>"

    def __eq__(self, other: object) -> bool:
        from plait.ir.text.printer import print_graph

        if not isinstance(other, Graph):
            return NotImplemented
        return self is other or print_graph(self, locations=False) == print_graph(other, locations=False)

    __hash__ = None  # type: ignore[assignment]  # a graph is mutable

    @property
    def id(self) -> str:
        """SHA-256 of the dump without locations: equal for equal graphs on any machine."""
        from plait.ir.text.printer import graph_id

        return graph_id(self)

    def verify(self) -> None:
        """Check all invariants.  Raises VerifyError on the first broken one."""
        from plait.ir.verify import verify

        verify(self)

    def save(self, path: str | Path) -> None:
        """Write an archive (`.plait`: one zip file of text and safetensors)."""
        from plait.ir.archive import save

        save(self, path)

    def to_networkx(self) -> networkx.MultiDiGraph:
        """A networkx view: a node per op, an edge per value that one op hands another."""
        from plait.ir.analysis import to_networkx

        return to_networkx(self)


def copy_region(source: Region, target: Region, mapping: dict[Value, Value]) -> None:
    """Copy parameters, ops and results of a region; `mapping` takes old values to new ones."""
    for value in source.params:
        mapping[value] = target.add_param(Value(value.name, value.type))
    for op in source:
        target.insert(_copy_op(op, mapping))
    target.set_results(mapping.get(value, value) for value in source.results)


def _copy_op(op: Op, mapping: dict[Value, Value]) -> Op:
    changes: dict[str, Region] = {}
    for spec in op.schema.regions:
        region = Region()
        copy_region(getattr(op, spec.name), region, mapping)
        changes[spec.name] = region
    new = op.evolve(**changes)
    new.set_operands(lambda v: mapping.get(v, v))
    for region in new.regions:
        region.owner = new
    new.results = tuple(Value(value.name, value.type, new) for value in op.results)
    mapping.update(zip(op.results, new.results, strict=True))
    for value in new.operands:
        value.add_use(new)
    return new


def _renamed_reference(type: Type, old: str, new: str) -> Type:
    if not isinstance(type, QuantType) or old not in type.references:
        return type
    return replace(
        type,
        scale=new if type.scale == old else type.scale,
        zero_point=new if type.zero_point == old else type.zero_point,
    )
