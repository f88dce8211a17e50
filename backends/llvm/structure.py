"""A structured writer of LLVM IR: counted loops, mutable variables, vectors with a masked tail.

Mutable variables are stack slots of the entry block, which LLVM turns into registers; generators can
then be read as ordinary nested loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from llvmlite import ir

BIT, U8, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
F32, POINTER, VOID = ir.FloatType(), ir.PointerType(), ir.VoidType()
#: Bytes to which every part of a workspace is aligned.
ALIGNMENT = 64


class Variable:
    """One mutable value of a function."""

    def __init__(self, code: Code, kind: ir.Type, initial: ir.Value | None = None) -> None:
        self._code, self._kind = code, kind
        with code.b.goto_entry_block():
            self._slot = code.b.alloca(kind)
        if initial is not None:
            self.set(initial)

    def get(self) -> ir.Value:
        return self._code.b.load(self._slot, typ=self._kind)

    def set(self, value: ir.Value) -> None:
        self._code.b.store(value, self._slot)


@dataclass(frozen=True)
class Lanes:
    """One vector of neighbouring channels.

    Attributes:
        start: the first channel, counted in the layer.
        width: lanes of the vector.
        used: lanes that hold channels; the others neither load nor store.
    """

    start: int
    width: int
    used: int


def channel_blocks(channels: int, width: int, most: int) -> list[list[Lanes]]:
    """`channels` as vectors of `width` lanes, in blocks of equal size of at most `most` vectors."""
    vectors = [Lanes(at, width, min(width, channels - at)) for at in range(0, channels, width)]
    blocks = -(-len(vectors) // most)
    size = -(-len(vectors) // blocks)
    return [vectors[at : at + size] for at in range(0, len(vectors), size)]


class Code:
    """The body of one native function `void symbol(...)`.

    Args:
        module: the module that receives the function.
        symbol: its C name.
        arguments: LLVM types of its arguments; pointers do not alias one another.
    """

    def __init__(self, module: ir.Module, symbol: str, arguments: Sequence[ir.Type]) -> None:
        self.module = module
        self.function = ir.Function(module, ir.FunctionType(VOID, arguments), symbol)
        self.function.attributes.add("nounwind")
        for argument in self.function.args:
            if isinstance(argument.type, ir.PointerType):
                argument.add_attribute("noalias")
        entry = self.function.append_basic_block("entry")
        start = self.function.append_basic_block("start")
        ir.IRBuilder(entry).branch(start)
        self.b = ir.IRBuilder(start)

    # -- scalars --------------------------------------------------------------------------------

    def number(self, value: int, kind: ir.Type = I64) -> ir.Value:
        return ir.Constant(kind, value)

    def scaled(self, *terms: tuple[ir.Value, int]) -> ir.Value:
        """The sum of value * factor over `terms`, 64 bits."""
        total = self.number(0)
        for value, factor in terms:
            total = self.b.add(total, self.b.mul(value, self.number(factor)))
        return total

    def minimum(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.b.select(self.b.icmp_signed("<", x, y), x, y)

    def maximum(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.b.select(self.b.icmp_signed(">", x, y), x, y)

    def intrinsic(
        self, name: str, result: ir.Type, arguments: Sequence[ir.Value], *, assume: Sequence[str] = ()
    ) -> ir.Value:
        """A call of the LLVM intrinsic of this full name; `assume` are its fast-math flags."""
        known = self.module.globals.get(name)
        if known is None:
            kind = ir.FunctionType(result, [argument.type for argument in arguments])
            known = ir.Function(self.module, kind, name)
        return self.b.call(known, list(arguments), fastmath=tuple(assume))

    def trailing_zeros(self, word: ir.Value) -> ir.Value:
        """Index of the lowest set bit of a word that is not 0."""
        name = f"llvm.cttz.i{word.type.width}"
        return self.intrinsic(name, word.type, [word, self.number(1, BIT)])

    def without_lowest_bit(self, word: ir.Value) -> ir.Value:
        return self.b.and_(word, self.b.sub(word, self.number(1, word.type)))

    # -- memory ---------------------------------------------------------------------------------

    def at(self, pointer: ir.Value, index: ir.Value, kind: ir.Type) -> ir.Value:
        return self.b.gep(pointer, [index], source_etype=kind)

    def load(self, pointer: ir.Value, index: ir.Value, kind: ir.Type) -> ir.Value:
        return self.b.load(self.at(pointer, index, kind), typ=kind)

    def store(self, value: ir.Value, pointer: ir.Value, index: ir.Value) -> None:
        self.b.store(value, self.at(pointer, index, value.type))

    def index(self, pointer: ir.Value, index: ir.Value) -> ir.Value:
        """Element `index` of an i32 array, widened to 64 bits."""
        return self.b.sext(self.load(pointer, index, I32), I64)

    def fill(self, pointer: ir.Value, byte: int, count: int) -> None:
        """Sets `count` bytes."""
        self.intrinsic(
            "llvm.memset.p0.i64",
            VOID,
            [pointer, self.number(byte, U8), self.number(count), self.number(0, BIT)],
        )

    # -- vectors --------------------------------------------------------------------------------

    def splat(self, value: ir.Value, width: int) -> ir.Value:
        kind = ir.VectorType(value.type, width)
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), value, self.number(0, I32))
        order = ir.Constant(ir.VectorType(I32, width), [0] * width)
        return self.b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), order)

    def bits(self, mask: ir.Value) -> ir.Value:
        """A vector of booleans as an integer, lane 0 lowest."""
        return self.b.bitcast(mask, ir.IntType(mask.type.count))

    def load_lanes(self, pointer: ir.Value, index: ir.Value, kind: ir.Type, lanes: Lanes) -> ir.Value:
        """Neighbouring elements from `index` on; 0 in unused lanes, whose memory is not read."""
        vector, place = ir.VectorType(kind, lanes.width), self.at(pointer, index, kind)
        size = 1 if kind == U8 else 4
        if lanes.used == lanes.width:
            return self.b.load(place, align=size, typ=vector)
        name = f"llvm.masked.load.{_suffix(vector)}.p0"
        zeros = ir.Constant(vector, None)
        return self.intrinsic(name, vector, [place, self.number(size, I32), self._used(lanes), zeros])

    def store_lanes(self, value: ir.Value, pointer: ir.Value, index: ir.Value, lanes: Lanes) -> None:
        """Stores the used lanes of `value` from element `index` on."""
        kind = value.type.element
        place, size = self.at(pointer, index, kind), 1 if kind == U8 else 4
        if lanes.used == lanes.width:
            self.b.store(value, place, align=size)
            return
        name = f"llvm.masked.store.{_suffix(value.type)}.p0"
        self.intrinsic(name, VOID, [value, place, self.number(size, I32), self._used(lanes)])

    def _used(self, lanes: Lanes) -> ir.Value:
        return ir.Constant(
            ir.VectorType(BIT, lanes.width), [int(lane < lanes.used) for lane in range(lanes.width)]
        )

    # -- control --------------------------------------------------------------------------------

    @contextmanager
    def counting(self, start: ir.Value, stop: ir.Value, step: int = 1) -> Iterator[ir.Value]:
        """A loop over start <= i < stop."""
        i = Variable(self, I64, start)
        with self.repeating(lambda: self.b.icmp_signed("<", i.get(), stop)):
            yield i.get()
            i.set(self.b.add(i.get(), self.number(step)))

    @contextmanager
    def repeating(self, condition: Callable[[], ir.Value]) -> Iterator[None]:
        """A loop that runs while `condition`, evaluated before every round, is true."""
        head = self.function.append_basic_block("while")
        body = self.function.append_basic_block("body")
        end = self.function.append_basic_block("end")
        self.b.branch(head)
        self.b.position_at_end(head)
        self.b.cbranch(condition(), body, end)
        self.b.position_at_end(body)
        yield
        self.b.branch(head)
        self.b.position_at_end(end)

    @contextmanager
    def set_bits(self, word: ir.Value) -> Iterator[ir.Value]:
        """A loop over the indices (64 bits) of the set bits of `word`, lowest first."""
        left = Variable(self, word.type, word)
        with self.repeating(lambda: self.b.icmp_unsigned("!=", left.get(), self.number(0, word.type))):
            bit = self.trailing_zeros(left.get())
            left.set(self.without_lowest_bit(left.get()))
            yield self.b.zext(bit, I64) if word.type.width < 64 else bit

    def finish(self) -> None:
        self.b.ret_void()


def _suffix(vector: ir.VectorType) -> str:
    element = vector.element
    return f"v{vector.count}" + ("f32" if element == F32 else f"i{element.width}")


class Workspace:
    """Places in the caller's scratch memory, one after the other, each aligned to 64 bytes."""

    def __init__(self) -> None:
        self.size_bytes = 0

    def reserve(self, count: int, element_bytes: int) -> int:
        """The byte offset of a new part of `count` elements."""
        offset = self.size_bytes
        self.size_bytes += -(-count * element_bytes // ALIGNMENT) * ALIGNMENT
        return offset


def workspace_function(module: ir.Module, symbol: str, size_bytes: int) -> None:
    """Adds `int64_t <symbol>_workspace(void)`, which returns the bytes of workspace of one call."""
    function = ir.Function(module, ir.FunctionType(I64, []), symbol + "_workspace")
    function.attributes.add("nounwind")
    ir.IRBuilder(function.append_basic_block("entry")).ret(ir.Constant(I64, size_bytes))
