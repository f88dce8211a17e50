"""core: control flow with explicit state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY

from plait.ir.dims import IntLike
from plait.ir.op import Op, op, shaped
from plait.ir.ops.common import dense, symbol_of
from plait.ir.region import Region
from plait.ir.types import ShapedType, Type, boolean
from plait.ir.value import Value


def check_params(op: Op, region: Region, types: tuple[Type, ...], word: str) -> None:
    """Raise unless the parameters of a region have these types."""
    actual = tuple(value.type for value in region.params)
    if actual != types:
        raise op.error(
            f"region '{word}' takes ({', '.join(map(str, actual))})",
            why=f"it is handed ({', '.join(map(str, types))})",
        )


def yielded(region: Region) -> tuple[Type, ...]:
    """Types that a region yields."""
    return tuple(value.type for value in region.results)


def stacked(op: Op, slices: Sequence[Value], length: IntLike) -> tuple[ShapedType, ...]:
    """Types of the sequences that `length` slices of each kind make."""
    kinds = [shaped(op, value, "yield") for value in slices]
    return tuple(kind.with_shape((length, *kind.shape)) for kind in kinds)


@op("core.cond")
class Cond(Op):
    """`then` or `otherwise` on the same operands, by a boolean scalar; both yield the same types."""

    condition: Value
    inputs: tuple[Value, ...] = ()
    _: KW_ONLY
    then: Region
    otherwise: Region

    def infer(self) -> tuple[Type, ...]:
        condition = dense(self, self.condition, "condition")
        if condition.dtype != boolean or condition.shape:
            raise self.error(f"condition {self.condition} is {condition}", why="it must be bool[]")
        types = tuple(value.type for value in self.inputs)
        check_params(self, self.then, types, "then")
        check_params(self, self.otherwise, types, "otherwise")
        if yielded(self.then) != yielded(self.otherwise):
            raise self.error(
                f"'then' yields {list(map(str, yielded(self.then)))}",
                why=f"'otherwise' yields {list(map(str, yielded(self.otherwise)))}",
            )
        return yielded(self.then)


@op("core.while")
class While(Op):
    """`body` applied to the state as long as `condition` (state -> bool[]) holds; the last state.

    With `count`, a dim that is bound to the number of rounds, the body yields one
    slice of each result sequence before the next state.  Results then: the stacked
    sequences, [count, ...] each, and the last state.
    """

    inputs: tuple[Value, ...]
    _: KW_ONLY
    count: IntLike | None = None
    condition: Region
    body: Region

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pure = self.count is None

    @property
    def bound_dim(self) -> str | None:
        return None if self.count is None else symbol_of(self, self.count)

    def infer(self) -> tuple[Type, ...]:
        types = tuple(value.type for value in self.inputs)
        check_params(self, self.condition, types, "condition")
        check_params(self, self.body, types, "do")
        test = self.condition.results
        if len(test) != 1 or str(test[0].type) != "bool[]":
            raise self.error(
                f"'condition' yields {list(map(str, yielded(self.condition)))}", why="it must be bool[]"
            )
        split = 0 if self.count is None else max(0, len(self.body.results) - len(types))
        if yielded(self.body)[split:] != types:
            raise self.error(
                f"'do' yields {list(map(str, yielded(self.body)))}",
                why=f"the state is {list(map(str, types))}",
                remedy="give count= to stack what it yields before the state" if self.count is None else None,
            )
        if self.count is None:
            return types
        symbol_of(self, self.count)
        return (*stacked(self, self.body.results[:split], self.count), *types)


@op("core.scan")
class Scan(Op):
    """A loop over the first axis of the leading operands with the last `carries` operands as state.

    The body takes one slice of each sequence and the state, and yields one slice
    of each result sequence and the next state.  Results: the stacked sequences,
    then the last state.
    """

    inputs: tuple[Value, ...]
    _: KW_ONLY
    carries: int = 1
    length: IntLike | None = None
    body: Region

    def infer(self) -> tuple[Type, ...]:
        if not 0 <= self.carries <= len(self.inputs):
            raise self.error(f"carries {self.carries} exceeds the {len(self.inputs)} operands")
        split = len(self.inputs) - self.carries
        sequences = [shaped(self, value, "inputs") for value in self.inputs[:split]]
        lengths = {kind.shape[0] if kind.shape else None for kind in sequences}
        if self.length is not None:
            lengths.add(self.length)
        if len(lengths) != 1 or None in lengths:
            raise self.error(
                f"sequences have {len(lengths)} different lengths",
                why="all sequences share their first dim",
                remedy="give length= where there is no sequence",
            )
        length = lengths.pop()
        state = tuple(value.type for value in self.inputs[split:])
        slices = tuple(kind.with_shape(kind.shape[1:]) for kind in sequences)
        check_params(self, self.body, (*slices, *state), "do")
        results = yielded(self.body)
        if results[len(results) - self.carries :] != state:
            raise self.error(
                f"'do' yields {list(map(str, results))}",
                why=f"its last values are the state {list(map(str, state))}",
            )
        assert length is not None
        return (*stacked(self, self.body.results[: len(results) - self.carries], length), *state)
