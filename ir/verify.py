"""The verifier: every graph that a pass, a file or a frontend hands on holds these invariants.

     1  Names are well formed and unique in the graph.
     2  A value is defined before it is used, and used only where it is visible.
     3  Result types are those the op infers; readers saw these types.
     4  Operands meet the rules of the op (`infer`).
     5  Attributes have the kind that the op declares.
     6  Every dim symbol in a type or an attribute is declared.
     7  A quantised type refers to existing constants whose shape fits its axis and group.
     8  The data of a constant has the shape and element type of its type.
     9  Use lists hold exactly the operands and region results that read a value.
    10  The results of the function are those it declares.
    11  A rewrite keeps locations: an op that a pass makes names that pass and its origins.
    12  A dim that an op binds (`Op.bound_dim`) is bound by that op alone, is in no input, and
        is used only behind the op: where a result of the op would be visible.

Errors from a graph built in memory show the lines around the op as the dump
prints them, the passes that made it and the user's module path.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from plait.ir.dims import IntLike, symbols_of
from plait.ir.errors import PlaitError, VerifyError, did_you_mean
from plait.ir.graph import NAME, Graph
from plait.ir.op import FieldSpec, Op
from plait.ir.region import Region
from plait.ir.types import QuantType, Type
from plait.ir.value import Constant, User, Value, check_constant

CONTEXT_LINES = 5


def verify(graph: Graph, *, made_by: str | None = None, known: Collection[Op] | None = None) -> None:
    """Check all invariants.

    Args:
        graph: the graph.
        made_by: name of the pass that has just run; with `known`, invariant 11 is checked.
        known: the ops that were in the graph before the pass.

    Raises:
        VerifyError: on the first broken invariant, with the place in the dump.
    """
    _Verifier(graph).run()
    if made_by is not None and known is not None:
        _check_locations(graph, made_by, known)


class _Verifier:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.names: set[str] = set()
        self.uses: dict[Value, dict[User, int]] = {}
        self.checked_types: set[Type] = set()
        #: Dims that ops bind, and those of them that are bound where the walk stands.
        self.binders: dict[str, Op] = {}
        self.bound: set[str] = set()

    def run(self) -> None:
        visible: set[Value] = set()
        self._binders()
        for key, constant in self.graph.constants.items():
            self._constant(key, constant)
            visible.add(constant)
        self._region(self.graph.body, visible)
        self._use_lists()

    # -- pieces -----------------------------------------------------------------
    def _binders(self) -> None:
        for op in self.graph.walk():
            try:
                name = op.bound_dim
            except VerifyError as problem:
                raise self._error(problem.what, op, 12, problem.why, problem.remedy) from None
            if name is None:
                continue
            other = self.binders.setdefault(name, op)
            if other is not op:
                raise self._error(
                    f"dim {name} is bound by {op.opname} %{op.name} and by {other.opname} %{other.name}",
                    op,
                    12,
                    why="a dim has one value",
                    remedy="declare a dim for each of them",
                )

    def _bound(self, symbols: Iterable[str], op: Op | None, where: str) -> None:
        """Raise unless those symbols that ops bind have been bound here."""
        for symbol in symbols:
            if symbol in self.binders and symbol not in self.bound:
                binder = self.binders[symbol]
                raise self._error(
                    f"dim {symbol} of {where} has no value here",
                    op,
                    12,
                    why=f"{binder.opname} %{binder.name} binds it, "
                    + (
                        "which no input may show"
                        if op is None
                        else "which does not come before in this region"
                    ),
                    remedy=f"move the op behind %{binder.name}, or declare another dim",
                )

    def _constant(self, key: str, constant: Constant) -> None:
        self._name(constant, None)
        if key != constant.name:
            raise VerifyError(f"constant {constant} is filed under '{key}'", invariant=1)
        self._type(constant, None)
        if constant.has_data:
            try:
                check_constant(constant.name, constant.type, constant.data)
            except PlaitError as problem:
                raise VerifyError(problem.what, why=problem.why, remedy=problem.remedy, invariant=8) from None

    def _region(self, region: Region, visible: set[Value]) -> None:
        inside: list[Value] = list(region.params)
        for value in region.params:
            self._name(value, region.owner)
            self._type(value, region.owner)
        visible.update(inside)
        outside = set(self.bound)
        for op in region:
            self._op(op, visible)
            visible.update(op.results)
            inside.extend(op.results)
        for value in region.results:
            if value not in visible:
                raise self._error(f"result {value} is not defined here", region.owner, 2)
            self._count(value, region)
        visible.difference_update(inside)  # what a region defines is not seen outside of it
        self.bound = outside

    def _op(self, op: Op, visible: set[Value]) -> None:
        for value in op.operands:
            if value not in visible:
                names = [str(v) for v in visible]
                raise self._error(
                    f"{op.opname}: operand {value} is not defined before it{did_you_mean(str(value), names)}",
                    op,
                    2,
                )
            self._count(value, op)
        for region in op.regions:
            if region.owner is not op:
                raise self._error(f"{op.opname}: a region belongs to {region.owner!r}", op, 2)
            self._region(region, visible)
        if op.bound_dim is not None:
            self.bound.add(op.bound_dim)
        for spec in op.schema.attributes:
            self._attribute(op, spec)
        try:
            inferred = op.infer()
        except VerifyError as problem:
            raise self._error(problem.what, op, problem.invariant or 4, problem.why, problem.remedy) from None
        actual = tuple(value.type for value in op.results)
        if inferred != actual:
            raise self._error(
                f"{op.opname}: {', '.join(map(str, op.results))} has type {', '.join(map(str, actual))} "
                f"but the op computes {', '.join(map(str, inferred))}",
                op,
                3,
            )
        for value in op.results:
            if value.producer is not op:
                raise self._error(f"{value} names another producer", op, 9)
            self._name(value, op)
            self._type(value, op)

    def _attribute(self, op: Op, spec: FieldSpec) -> None:
        given = getattr(op, spec.name)
        if given is spec.default or spec.check is None:
            return
        try:
            spec.check(given)
        except ValueError:
            raise self._error(f"{op.opname}: attribute {spec.name} must be {spec.expects}", op, 5) from None
        for dim in given if isinstance(given, tuple) else (given,):
            if not isinstance(dim, (int, float, str)):
                self._dim(dim, op)

    def _name(self, value: Value, op: Op | None) -> None:
        if not NAME.fullmatch(value.name):
            raise self._error(f"'{value.name}' is no value name", op, 1)
        if value.name in self.names:
            raise self._error(f"name '{value.name}' is defined twice", op, 1)
        self.names.add(value.name)

    def _type(self, value: Value, op: Op | None) -> None:
        kind = value.type
        if self.binders:
            self._bound(sorted(kind.symbols), op, f"{value} : {kind}")
        if kind in self.checked_types:
            return
        for symbol in kind.symbols:
            self._declared(symbol, op, f"{value} : {kind}")
        if isinstance(kind, QuantType):
            self._quantised(value, kind, op)
        self.checked_types.add(kind)

    def _dim(self, dim: IntLike, op: Op) -> None:
        for symbol in symbols_of(dim):
            self._declared(symbol, op, f"{op.opname} of {op.name}")
        if self.binders:
            self._bound(sorted(symbols_of(dim)), op, f"{op.opname} of {op.name}")

    def _declared(self, symbol: str, op: Op | None, where: str) -> None:
        if symbol not in self.graph.dims:
            raise self._error(
                f"dim {symbol} of {where} is not declared{did_you_mean(symbol, self.graph.dims)}",
                op,
                6,
                remedy=f"graph.declare_dim('{symbol}', 1, 64)",
            )

    def _quantised(self, value: Value, kind: QuantType, op: Op | None) -> None:
        if kind.axis is not None and kind.axis >= kind.rank:
            raise self._error(f"axis {kind.axis} of {value} : {kind} is out of range", op, 7)
        for reference in kind.references:
            constant = self.graph.constants.get(reference)
            if constant is None:
                raise self._error(
                    f"{value} : {kind} refers to constant @{reference}, which does not exist"
                    f"{did_you_mean(reference, self.graph.constants)}",
                    op,
                    7,
                )
            shape = constant.shaped.shape
            if kind.axis is None:
                wanted: tuple[IntLike, ...] = ()
            elif kind.group is None:
                wanted = (kind.shape[kind.axis],)
            else:
                size = kind.shape[kind.axis]
                if not isinstance(size, int) or size % kind.group:
                    raise self._error(
                        f"groups of {kind.group} do not divide axis {kind.axis} of {kind}", op, 7
                    )
                wanted = tuple(
                    size // kind.group if axis == kind.axis else dim for axis, dim in enumerate(kind.shape)
                )
            if shape != wanted:
                raise self._error(
                    f"@{reference} is {constant.type} but {value} : {kind} wants {list(map(str, wanted))}",
                    op,
                    7,
                )

    # -- uses --------------------------------------------------------------------
    def _count(self, value: Value, user: User) -> None:
        counts = self.uses.setdefault(value, {})
        counts[user] = counts.get(user, 0) + 1

    def _use_lists(self) -> None:
        for value in (*self.graph.values(), *self.graph.constants.values()):
            actual = self.uses.get(value, {})
            if value._users != actual:
                op = value.producer
                raise self._error(
                    f"use list of {value} holds {len(value._users)} users but {len(actual)} read it",
                    op,
                    9,
                    remedy="change graphs through replace(), replace_uses() and erase() only",
                )

    def _error(
        self, what: str, op: Op | None, invariant: int, why: str | None = None, remedy: str | None = None
    ) -> VerifyError:
        return error_at(self.graph, what, op, invariant, why, remedy)


def error_at(
    graph: Graph,
    what: str,
    op: Op | None,
    invariant: int | None = None,
    why: str | None = None,
    remedy: str | None = None,
) -> VerifyError:
    """A VerifyError about an op of a graph in memory: the dump around it, its passes and its origin."""
    if op is None or not op.results:
        return VerifyError(what, why=why, remedy=remedy, invariant=invariant)
    notes = []
    if op.loc.passes:
        notes.append(f"created by pass {op.loc.passes[-1]}")
    if op.loc.origins:
        notes.append(f"from {op.loc.readable()}")
    return VerifyError(
        what,
        where=f"@{graph.name} {op.results[0]}",
        why=why,
        remedy=remedy,
        invariant=invariant,
        snippet=_window(op),
        notes=notes,
    )


def _window(op: Op) -> str:
    """The dump of the ops around one, which is marked."""
    from plait.ir.text.printer import print_op

    around: list[Op] = [op]
    for _ in range(CONTEXT_LINES):
        if around[0].previous is not None:
            around.insert(0, around[0].previous)
        if around[-1].next is not None:
            around.append(around[-1].next)
    lines = []
    for one in around:
        text = print_op(one)[0]
        lines.append(("  > " if one is op else "    ") + (text if len(text) <= 160 else text[:157] + "..."))
    return "\n".join(lines)


def _check_locations(graph: Graph, made_by: str, known: Collection[Op]) -> None:
    before = set(known)
    had_origins = any(op.loc.origins for op in before)
    for op in graph.walk():
        if op in before:
            continue
        if made_by not in op.loc.passes or (had_origins and not op.loc.origins):
            raise error_at(
                graph,
                f"pass {made_by} made {op.opname} without a location",
                op,
                11,
                why=f"its location is {op.loc}",
                remedy="make ops through the Rewriter, which fuses the locations of what it replaces",
            )
