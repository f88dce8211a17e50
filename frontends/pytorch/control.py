"""Control flow: the higher-order operators of torch to core.cond, core.while and core.scan.

torch passes everything that a body reads as an argument.  Here only what changes from
step to step is a parameter of the region; weights and other loop invariants are read
from outside of it, so that a weight stays a constant where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch.fx import GraphModule

from plait.frontends.pytorch.builder import Builder
from plait.frontends.pytorch.registry import Refusal
from plait.frontends.pytorch.symbols import SymbolTable
from plait.ir import types as t
from plait.ir.dims import Dim
from plait.ir.op import Op
from plait.ir.ops import core
from plait.ir.region import Region
from plait.ir.types import ShapedType
from plait.ir.value import Constant, Value

#: Lowers the nodes of a nested module on these arguments and returns its outputs.
LowerModule = Callable[[GraphModule, Sequence[Any]], Sequence[Any]]
#: Calls of a part of the model in a way that has no effect on the result.
_TRANSPARENT = (
    "wrap_with_set_grad_enabled", "tag_activation_checkpoint", "wrap_activation_checkpoint", "wrap",
    "invoke_subgraph", "hints_wrapper", "strict_mode",
)  # fmt: skip
_COMPARISONS: dict[str, type[Op]] = {
    "Equality": core.Eq, "Unequality": core.Ne, "StrictGreaterThan": core.Gt, "GreaterThan": core.Ge,
    "StrictLessThan": core.Lt, "LessThan": core.Le,
}  # fmt: skip


class ControlFlow:
    """Lowers higher-order operators with the builder of a run."""

    def __init__(self, builder: Builder, symbols: SymbolTable, lower: LowerModule) -> None:
        self._build = builder
        self._symbols = symbols
        self._lower = lower
        self._kinds: dict[str, Callable[..., Sequence[Any]]] = {
            "cond": self._cond,
            "while_loop": self._while,
            "scan": self._scan,
            "map_impl": self._map,
            "associative_scan": self._associative_scan,
            **dict.fromkeys(_TRANSPARENT, self._inline),
        }

    def rule(self, name: str) -> Callable[..., Sequence[Any]] | None:
        """What lowers an operator called `higher_order.<name>`; None for any other."""
        family, _, kind = name.rpartition(".")
        return self._kinds.get(kind) if family.endswith("higher_order") else None

    def predicate(self, value: torch.SymBool) -> Value:
        """A comparison of sizes as bool[].  Raises Refusal where it is no plain comparison."""
        expression = value.node.expr
        if expression in (sympy.true, sympy.false):
            return self._build.full(bool(expression), t.boolean)
        compare = _COMPARISONS.get(type(expression).__name__)
        if compare is None:
            raise Refusal(f"the condition {expression} is no comparison of two sizes")
        sides = (self._build.size(self._symbols.expression(side), t.i64) for side in expression.args)
        return self._build.emit(compare(*sides))

    # -- operators ------------------------------------------------------------------
    def _inline(self, *arguments: Any) -> Sequence[Any]:
        position = next(i for i, argument in enumerate(arguments) if isinstance(argument, GraphModule))
        module, given = arguments[position], arguments[position + 1 :]
        count = sum(node.op == "placeholder" for node in module.graph.nodes)
        return self._lower(module, given[len(given) - count :])  # invoke_subgraph has a name in between

    def _cond(
        self, condition: Any, then: GraphModule, otherwise: GraphModule, operands: Sequence[Any] = ()
    ) -> Sequence[Any]:
        if isinstance(condition, bool):
            return self._lower(then if condition else otherwise, operands)
        inputs = [x for x in operands if _varies(x)]
        regions = [
            self._region(module, "input", [x.type for x in inputs], operands) for module in (then, otherwise)
        ]
        op = core.Cond(self._flag(condition), tuple(inputs), then=regions[0], otherwise=regions[1])
        return self._build.emit_all(op)

    def _while(
        self, condition: GraphModule, body: GraphModule, state: Sequence[Any], invariant: Sequence[Any] = ()
    ) -> Sequence[Any]:
        carried = [self._tensor(x) for x in state]
        types = [x.type for x in carried]
        test = self._region(condition, "state", types, [*carried, *invariant], changing=len(carried))
        with self._build.inside(test):
            test.set_results([self._flag(test.results[0])])
        step = self._region(body, "state", types, [*carried, *invariant], changing=len(carried))
        return self._build.emit_all(core.While(tuple(carried), condition=test, body=step))

    def _scan(
        self, body: GraphModule, state: Sequence[Any], sequences: Sequence[Any], invariant: Sequence[Any] = ()
    ) -> Sequence[Any]:
        carried = [self._tensor(x) for x in state]
        stepped = [self._tensor(x) for x in sequences]
        return self._steps(body, carried, stepped, invariant)

    def _map(
        self, body: GraphModule, sequences: Sequence[Any], invariant: Sequence[Any] = ()
    ) -> Sequence[Any]:
        return self._steps(body, [], [self._tensor(x) for x in sequences], invariant)

    def _associative_scan(
        self, body: GraphModule, sequences: Sequence[Any], invariant: Sequence[Any] = ()
    ) -> Sequence[Any]:
        """All prefixes of a combination, first to last, with the first element as the initial state."""
        build = self._build
        given = [self._tensor(x) for x in sequences]
        heads = [build.slice(x, 0, 0, 1) for x in given]
        tails = [build.slice(x, 0, 1, build.kind(x).shape[0]) for x in given]
        firsts = [build.drop_axis(x, 0) for x in heads]
        count = len(given)
        results = self._steps(body, firsts, tails, invariant, repeat_state=True)
        return [build.concat([head, rest], 0) for head, rest in zip(heads, results[count:], strict=True)]

    def _steps(
        self,
        body: GraphModule,
        carried: Sequence[Value],
        sequences: Sequence[Value],
        invariant: Sequence[Any],
        *,
        repeat_state: bool = False,
    ) -> Sequence[Any]:
        """core.scan of a body (state, slices) -> (state, slices), in torch's order of results.

        `repeat_state` yields the next state as the result of a step too.
        """
        state = [x.type for x in carried]
        slices = [_slice_of(x) for x in sequences]
        arguments = [*carried, *sequences, *invariant]
        region = self._region(
            body, "step", [*state, *slices], arguments, changing=len(carried) + len(sequences)
        )
        count = len(carried)
        params, results = list(region.params), list(region.results)
        region.params[:] = [*params[count:], *params[:count]]
        yields = results if repeat_state else results[count:]
        region.set_results([*yields, *results[:count]])
        found = self._build.emit_all(core.Scan((*sequences, *carried), carries=count, body=region))
        return [*found[len(yields) :], *found[: len(yields)]]

    # -- regions --------------------------------------------------------------------------
    def _region(
        self,
        module: GraphModule,
        hint: str,
        types: Sequence[t.Type],
        arguments: Sequence[Any],
        changing: int | None = None,
    ) -> Region:
        """A region that runs a module.

        The first `changing` arguments are parameters of the region (by default all that
        are computed values); the rest is read from outside.
        """
        build = self._build
        params = [Value(build.graph.fresh_name(build.name_for(hint)), kind) for kind in types]
        region = Region(params)
        free = iter(params)
        inside = [
            next(free) if (_varies(x) if changing is None else i < changing) else x
            for i, x in enumerate(arguments)
        ]
        with build.inside(region):
            results = [self._tensor(x) for x in self._lower(module, inside)]
        region.set_results(results)
        return region

    def _flag(self, value: Any) -> Value:
        """A condition as bool[]; a tensor of one element may have axes."""
        if isinstance(value, torch.SymBool):
            return self.predicate(value)
        return self._build.reshape(self._build.cast(self._tensor(value), t.boolean), ())

    def _tensor(self, value: Any) -> Value:
        """A carried or yielded value as a tensor; numbers and sizes become scalars."""
        if isinstance(value, Value):
            return value
        if isinstance(value, (bool, float)):
            return self._build.full(value, t.boolean if isinstance(value, bool) else t.f32)
        if isinstance(value, (int, Dim)):
            return self._build.size(value, t.i64)
        raise Refusal(f"a region takes or yields {value!r}, which is no tensor")


def _varies(value: Any) -> bool:
    return isinstance(value, Value) and not isinstance(value, Constant)


def _slice_of(sequence: Value) -> ShapedType:
    kind = sequence.shaped
    return kind.with_shape(kind.shape[1:])
