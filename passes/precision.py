"""precision: a float graph in half precision, with 32 bits where halves would lose too much."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import ml_dtypes
import numpy as np

from plait.ir import Constant, Graph, Loc, Op, TensorType, Value, VerifyError
from plait.ir.ops import core
from plait.ir.types import DTYPES, DType, f32
from plait.passes.base import Pass, PassResult, register
from plait.passes.half_kinds import FOLLOWERS, is_f32, is_neutral, reason_to_keep
from plait.passes.quantize.select import matching


@register
@dataclass(frozen=True)
class Precision(Pass):
    """Compute in f16 or bf16 what f32 is not needed for; constants are stored in halves.

    Products (convolutions, dense layers, matrix products, attention) always take halves, which
    tensor cores sum up in f32.  Movement, activations and arithmetic follow what they
    read: halves where all of it is, else f32.  Exponentials, logarithms, statistics of
    normalisations, long sums, positions, factorisations, random numbers, neurons and ops with regions
    stay in f32, and a remark says why; so does an op with a constant that a half cannot hold.
    A cast stands at a border only, and once for all readers of a value.

    Options:
        dtype: f16 (10 bits of mantissa, up to 65504) or bf16 (7 bits, the range of f32).
        keep: patterns of ops that stay in f32 (see `plait.passes.quantize.select`): a
            glob over module paths, `op:KIND`, or `from:%a to:%b`.
        keep_io: leave the element types of inputs and outputs as they are.

    Raises InputError for a pattern that matches nothing, with the nearest ones.

    Given:
        @w : f32[8,8]
        %x : f32[B,8]
        %h = nn.linear(%x, @w) {act="relu"} : f32[B,8]
        %n = nn.layer_norm(%h) : f32[B,8]
        %y = nn.linear(%n, @w) : f32[B,8]
        %k = core.argmax(%y) {axis=1} : i64[B]
        return %k
    Result:
        %x.f16 = core.cast(%x) : f16[B,8]
        %h = nn.linear(%x.f16, @w.f16) {act="relu"} : f16[B,8]
        %h.f32 = core.cast(%h) : f32[B,8]
        %n = nn.layer_norm(%h.f32) : f32[B,8]
        %n.f16 = core.cast(%n) : f16[B,8]
        %y = nn.linear(%n.f16, @w.f16) : f16[B,8]
        %k = core.argmax(%y) {axis=1} : i64[B]
        return %k
    """

    name: ClassVar[str] = "precision"
    follows: ClassVar[tuple[str, ...]] = ("fold-constants", "fold-batch-norm", "fuse-bias", "fuse-activation")
    dtype: Literal["f16", "bf16"] = "f16"
    keep: tuple[str, ...] = ()
    keep_io: bool = True

    def run(self, graph: Graph) -> PassResult:
        return _Rewrite(graph, self).run()

    def explain(self, graph: Graph, op: Op) -> str:
        name = op.name
        rewrite = _Rewrite(graph, self)
        rewrite.run()
        found = rewrite.reasons.get(op)
        return f"it computes %{name} in {self.dtype}" if found is None else f"%{name} stays as it is: {found}"


def _swap(old: Value, new: Value) -> Callable[[Value], Value]:
    """`new` for `old`, and any other value for itself."""
    return lambda value: new if value is old else value


class _Rewrite:
    """One run of the pass on a graph.

    Attributes:
        halves: f32 values, and the same in halves, where something reads that.
        native: values that are computed in halves; their f32 values stand for casts back.
        reasons: why an op was left alone.
    """

    def __init__(self, graph: Graph, options: Precision) -> None:
        self.graph = graph
        self.options = options
        self.half: DType = DTYPES[options.dtype]
        self.halves: dict[Value, Value] = {}
        self.native: set[Value] = set()
        self.reasons: dict[Op, str] = {}
        self._replaced: list[tuple[Op, Op]] = []
        self._kinds: Counter[tuple[str, str]] = Counter()
        self._remarks: list[str] = []
        self._arrays: dict[Constant, np.ndarray] = {}
        self._changed = False

    def run(self) -> PassResult:
        keep = {op: pattern for pattern in self.options.keep for op in matching(self.graph, pattern)}
        ops = list(self.graph.ops)
        if not self.options.keep_io:
            self._halve_inputs()
        for op in ops:
            if not any(map(is_f32, (*op.operands, *op.results))):
                self.reasons[op] = "it neither reads nor gives f32"
            elif isinstance(op, core.Cast) and self._merge_cast(op):
                continue
            elif op in keep:
                self.reasons[op] = f"keep names it by {keep[op]}"
            elif (reason := self._obstacle(op)) is not None:
                self.reasons[op] = reason
            else:
                self._convert(op)
        if not self.options.keep_io:
            self._halve_outputs()
        casts = self._finish()
        counts = {f"ops in {self.options.dtype}": len(self._replaced), "casts": casts}
        kinds = (f"{count} {kind} in f32: {reason}" for (kind, reason), count in self._kinds.items())
        return PassResult(
            self._changed or bool(self._replaced),
            len(self._replaced),
            {title: count for title, count in counts.items() if count},
            (*kinds, *self._remarks),
        )

    # -- which ops -----------------------------------------------------------------
    def _obstacle(self, op: Op) -> str | None:
        """Why an op that has f32 values stays as it is."""
        if isinstance(op, core.Full) or (isinstance(op, core.Cast) and not is_f32(op.x)):
            return "it is made in the element type that its readers want"
        reason = reason_to_keep(op)
        if reason is not None:
            self._kinds[op.opname, reason] += 1
            return reason
        for value in op.operands:
            problem = self._misfit(value)
            if problem is not None:
                self._remarks.append(f"%{op.name} stays in f32: {problem}")
                return problem
        for spec in op.schema.attributes:
            given = getattr(op, spec.name)
            # A bound that no half reaches does not limit, in either type.
            if isinstance(given, float) and not isinstance(op, core.Clamp) and self._overflows(given):
                problem = f"{spec.name}={given:g} leaves the range of {self.options.dtype}"
                self._remarks.append(f"%{op.name} stays in f32: {problem}")
                return problem
        if isinstance(op, FOLLOWERS):
            for value in op.operands:
                if is_f32(value) and value not in self.native and not is_neutral(value):
                    return f"its operand {value} is f32"
        return None

    def _overflows(self, number: float) -> bool:
        largest = float(ml_dtypes.finfo(self.half.numpy).max)
        return math.isfinite(number) and abs(number) > largest

    def _misfit(self, value: Value) -> str | None:
        """Why a constant is no half: a number of it is too large, or all of it would be zero."""
        if not is_f32(value):
            return None
        if isinstance(value, Constant):
            real, half = value.data, self._halved(value)
        elif isinstance(value.producer, core.Full):
            real = np.asarray(value.producer.value, np.float32)
            half = self._rounded(real)
        else:
            return None
        lost = ~np.isfinite(half.astype(np.float32)) & np.isfinite(real)
        if lost.any():
            return f"{value} holds {real[lost].flat[0]:g}, beyond the range of {self.options.dtype}"
        if real.any() and not half.any():
            return f"{value} holds {np.abs(real).max():g}, which is zero in {self.options.dtype}"
        return None

    def _rounded(self, array: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return array.astype(self.half.numpy)

    def _halved(self, constant: Constant) -> np.ndarray:
        found = self._arrays.get(constant)
        if found is None:
            found = self._arrays[constant] = self._rounded(constant.data)
        return found

    # -- values in halves -------------------------------------------------------------
    def _kind(self, value: Value) -> TensorType:
        return TensorType(self.half, value.shaped.shape)

    def half_of(self, value: Value) -> Value:
        """An f32 value in halves: what computes it, or a cast behind it that all readers share."""
        found = self.halves.get(value)
        if found is None:
            found = self.halves[value] = self._made_half(value)
        return found

    def _made_half(self, value: Value) -> Value:
        name, kind = f"{value.name}.{self.options.dtype}", self._kind(value)
        if isinstance(value, Constant):
            return self.graph.add_constant(self.graph.free_name(name), self._halved(value), kind)
        producer = value.producer
        op: Op = core.Cast(value, out=kind)
        if isinstance(producer, core.Full) or (isinstance(producer, core.Cast) and not is_f32(producer.x)):
            op = producer.evolve(out=kind)
        return self._emit(op, name, value, before=self._behind(value))

    def _behind(self, value: Value) -> Op | None:
        return self.graph.body.first if value.producer is None else value.producer.next

    def _emit(self, op: Op, name: str, near: Value, before: Op | None) -> Value:
        """A cast, located where the value comes from, or where an input is read."""
        readers = [user for user in near.users if isinstance(user, Op)]
        loc = near.producer.loc if near.producer is not None else readers[0].loc if readers else Loc()
        return self.graph.emit(
            op, name=name, loc=loc.via(self.options.name), before=before, region=self.graph.body
        )

    def _merge_cast(self, op: core.Cast) -> bool:
        """Casts of the graph itself between f32 and the halves that are wanted."""
        if op.x.shaped.dtype == self.half and is_f32(op.result):
            self.halves[op.result] = op.x
            self.native.add(op.result)
            self.reasons[op] = "it casts from halves for those who want f32"
            return True
        if is_f32(op.x) and op.out.dtype == self.half:
            held = self.halves.setdefault(op.x, op.result)
            if held is not op.result:
                self.graph.replace_uses(op.result, held)
                self.graph.erase(op)
                self._changed = True
            self.reasons[op] = "it casts to halves"
            return True
        return False

    def _convert(self, op: Op) -> None:
        """Put the op in halves in front of it; the old one stays until all its readers are known."""
        changes: dict[str, Any] = {}
        for spec in op.schema.operands:
            given = getattr(op, spec.name)
            if spec.role == "variadic":
                changes[spec.name] = tuple(self.half_of(v) if is_f32(v) else v for v in given)
            elif given is not None and is_f32(given):
                changes[spec.name] = self.half_of(given)
        declared = op.schema.result_type
        if declared is not None:
            out = getattr(op, declared.name)
            if isinstance(out, TensorType) and out.dtype is f32:
                changes[declared.name] = TensorType(self.half, out.shape)
        new = op.evolve(**changes)
        try:
            new.infer()
        except VerifyError as problem:
            self.reasons[op] = f"it takes no halves: {problem.what}"
            self._kinds[op.opname, "it takes no halves"] += 1
            return
        names = [f"{value.name}.{self.options.dtype}" for value in op.results]
        names = [self.graph.free_name(name) for name in names]
        self.graph.add(new, names=names, loc=op.loc.via(self.options.name), before=op)
        self._replaced.append((op, new))
        for old, fresh in zip(op.results, new.results, strict=True):
            if old.type == fresh.type:  # an index or a truth value
                self.graph.replace_uses(old, fresh)
            else:
                self.halves[old] = fresh
                self.native.add(old)

    # -- inputs and outputs ---------------------------------------------------------------
    def _halve_inputs(self) -> None:
        """Halves as inputs; a cast in front of all gives f32 to those who want it."""
        for value in self.graph.inputs:
            if not is_f32(value):
                continue
            readers = value.users
            cast = core.Cast(value, out=TensorType(f32, value.shaped.shape))
            wide = self._emit(cast, f"{value.name}.f32", value, self._behind(value))
            for user in readers:
                if isinstance(user, Op):
                    user.set_operands(_swap(value, wide))
                else:
                    user.replace_result(_swap(value, wide))
            value.type = self._kind(value)
            self.halves[wide] = value
            self.native.add(wide)
            self._changed = True

    def _halve_outputs(self) -> None:
        for value in self.graph.outputs:
            if is_f32(value):
                self.graph.body.replace_result(_swap(value, self.half_of(value)))
                self._changed = True

    # -- the end -------------------------------------------------------------------------
    def _finish(self) -> int:
        """Cast what is still read in f32, remove what nothing reads; the number of casts that were made."""
        for old, new in reversed(self._replaced):
            wide: dict[Value, Value] = {}
            for value, fresh in zip(old.results, new.results, strict=True):
                if value.users:
                    cast = core.Cast(fresh, out=TensorType(f32, value.shaped.shape))
                    wide[fresh] = self._emit(cast, f"{value.name}.f32", fresh, before=old)
                    self.graph.replace_uses(value, wide[fresh])
            names = [value.name for value in old.results]
            self.graph.erase(old)
            for name, fresh in zip(names, new.results, strict=True):
                # An output keeps its name, and otherwise what is computed does.
                outer = wide.get(fresh)
                is_output = outer is not None and outer in self.graph.outputs
                self.graph.rename(outer if is_output and outer is not None else fresh, name)
        for value, half in reversed(self.halves.items()):
            for candidate in (half, value):
                self._remove_unread(candidate)
        return sum(isinstance(op, core.Cast) and self.options.name in op.loc.passes for op in self.graph.ops)

    def _remove_unread(self, value: Value) -> None:
        if value.users:
            return
        if isinstance(value, Constant):
            if value.name in self.graph.constants:
                self.graph.remove_constant(value)
        elif isinstance(value.producer, (core.Cast, core.Full)) and value.producer.parent is not None:
            self._changed |= self.options.name not in value.producer.loc.passes
            self.graph.erase(value.producer)
