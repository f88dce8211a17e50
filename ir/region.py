"""Regions: parameters, a linked list of ops in execution order, and results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from plait.ir.value import Value

if TYPE_CHECKING:
    from plait.ir.op import Op


class Region:
    """A single-block region.

    A graph's body is one; control-flow ops hold others.  Ops form a doubly linked
    list, so inserting and erasing take constant time, and iterating stays valid
    while the ops visited so far are erased or replaced.
    """

    __slots__ = ("_count", "_first", "_last", "owner", "params", "results")

    def __init__(self, params: Iterable[Value] = ()) -> None:
        self.params: list[Value] = []
        self.results: tuple[Value, ...] = ()
        self.owner: Op | None = None  # the op that holds the region; None for a graph's body
        self._first: Op | None = None
        self._last: Op | None = None
        self._count = 0
        for value in params:
            self.add_param(value)

    def add_param(self, value: Value) -> Value:
        """Append a parameter."""
        value.region = self
        self.params.append(value)
        return value

    def set_results(self, values: Iterable[Value]) -> None:
        """Set the returned (or yielded) values, keeping use lists."""
        new = tuple(values)
        for value in self.results:
            value.drop_use(self)
        for value in new:
            value.add_use(self)
        self.results = new

    # -- the list ---------------------------------------------------------------
    def insert(self, op: Op, before: Op | None = None) -> None:
        """Link an op in front of `before`, or at the end; use lists are the caller's business."""
        after = self._last if before is None else before.previous
        op.parent, op.previous, op.next = self, after, before
        if after is None:
            self._first = op
        else:
            after.next = op
        if before is None:
            self._last = op
        else:
            before.previous = op
        self._count += 1

    def unlink(self, op: Op) -> None:
        """Take an op out of the list.  Its `next` stays, so an iterator that stands on it goes on."""
        if op.previous is None:
            self._first = op.next
        else:
            op.previous.next = op.next
        if op.next is None:
            self._last = op.previous
        else:
            op.next.previous = op.previous
        op.parent = None
        self._count -= 1

    def __iter__(self) -> Iterator[Op]:
        op = self._first
        while op is not None:
            yield op
            following = op.next
            while following is not None and following.parent is None:
                following = following.next  # erased meanwhile: its own next leads back into the list
            op = following

    def __reversed__(self) -> Iterator[Op]:
        op = self._last
        while op is not None:
            before = op.previous
            yield op
            op = before if before is None or before.parent is not None else self._last

    def __len__(self) -> int:
        return self._count

    @property
    def first(self) -> Op | None:
        return self._first

    def walk(self) -> Iterator[Op]:
        """All ops of the region and of the regions inside, outer op before inner ones."""
        for op in self:
            yield op
            for region in op.regions:
                yield from region.walk()

    def replace_result(self, change: Callable[[Value], Value]) -> None:
        """Replace each returned value by `change(value)`."""
        new = tuple(change(value) for value in self.results)
        if new != self.results:
            self.set_results(new)

    def captured(self) -> tuple[Value, ...]:
        """Values from outside that ops inside read, constants included, in order of first use."""
        inside: set[Value] = set(self.params)
        found: dict[Value, None] = {}
        for op in self.walk():
            for region in op.regions:
                inside.update(region.params)
            inside.update(op.results)
        for op in self.walk():
            reads = [*op.operands, *(v for region in op.regions for v in region.results)]
            found.update(dict.fromkeys(v for v in reads if v not in inside))
        found.update(dict.fromkeys(v for v in self.results if v not in inside))
        return tuple(found)
