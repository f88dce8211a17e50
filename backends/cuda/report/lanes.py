"""Registers of many lanes at once, and operands as the disassembler writes them.

A value is a Python int where all lanes agree, an int64 array with one element a
lane holding 0 .. 2**32 - 1, or None where it depends on data of the model.  A
predicate is a bool, a bool array or None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Value = Any  # int, np.ndarray of int64, or None
Predicate = Any  # bool, np.ndarray of bool, or None
Mask = Any  # np.ndarray of bool, or None for all lanes

WORD = 0xFFFFFFFF
_CONSTANT = re.compile(r"c\[0x0\]\[0x([0-9a-f]+)\]")
_REGISTER = re.compile(r"U?R(\d+|Z)")
_PREDICATE = re.compile(r"(!?)(U?P(?:\d+|T))")


@dataclass
class Equality:
    """How values are compared for equality.

    A loop that ends when a counter equals its bound would be missed by whoever jumps
    ahead and past it.  So the sign of each difference can be kept in one round and
    taken for "unequal" in others: it changes where the counter reaches the bound.

    Attributes:
        mode: "plain", "keep" the signs, or "cross": unequal while the sign is the kept one.
        signs: by address of the comparison.
    """

    mode: Literal["plain", "keep", "cross"] = "plain"
    signs: dict[int, Value] = field(default_factory=dict)

    def unequal(self, address: int, x: Value, y: Value) -> Predicate:
        """Whether two values differ."""
        if self.mode == "plain":
            return x != y
        sign = np.sign(x - y)
        if self.mode == "keep":
            self.signs[address] = sign
            return sign != 0
        kept = self.signs.get(address, 0)
        return np.where(kept == 0, sign != 0, sign == kept)


@dataclass
class Lanes:
    """The state of the lanes of a few warps.

    Attributes:
        registers: by name, `R4` and `UR4`.
        predicates: by name, `P0` and `UP0`.
        constants: words of the constant bank 0 by byte offset: launch extents and parameters.
        special: the special registers, `SR_TID.X`.
        equality: how comparisons for equality are made, see `Equality`.
    """

    constants: Mapping[int, Value]
    special: Mapping[str, Value]
    registers: dict[str, Value] = field(default_factory=dict)
    predicates: dict[str, Predicate] = field(default_factory=dict)
    equality: Equality = field(default_factory=lambda: Equality())

    def write(self, name: str, value: Value, mask: Mask) -> None:
        """Set a register in the lanes of a mask."""
        if name not in ("RZ", "URZ"):
            self.registers[name] = _merged(self.registers.get(name), value, mask)

    def write_predicate(self, name: str, value: Predicate, mask: Mask) -> None:
        """Set a predicate in the lanes of a mask."""
        if name not in ("PT", "UPT"):
            self.predicates[name] = _merged(self.predicates.get(name), value, mask)


def _merged(old: Any, new: Any, mask: Mask) -> Any:
    # A lane that never wrote reads nothing either: `new` may stand in for an unknown `old`.
    if mask is None or old is None or new is None:
        return new
    return np.where(mask, new, old)


def signed(value: Value) -> Value:
    """A word as a two's complement number."""
    return (value ^ 0x80000000) - 0x80000000


def next_register(name: str) -> str:
    """The second register of a pair."""
    found = _REGISTER.fullmatch(name)
    if found is None or found[1] == "Z":
        return name
    return f"{name[: -len(found[1])]}{int(found[1]) + 1}"


Reader = Callable[[Lanes], Value]


def word_reader(operand: str) -> Reader:
    """What reads a 32-bit operand: a register, an immediate or a word of constant bank 0."""
    text = operand.replace(".reuse", "")
    if text.startswith("~"):
        inner = word_reader(text[1:])
        return lambda lanes: None if (value := inner(lanes)) is None else value ^ WORD
    if text.startswith("-") and not text[1:2].isdigit():
        inner = word_reader(text[1:])
        return lambda lanes: None if (value := inner(lanes)) is None else -value & WORD
    if text.startswith("|"):
        inner = word_reader(text.strip("|"))
        return lambda lanes: None if (value := inner(lanes)) is None else abs(signed(value))
    if text in ("RZ", "URZ"):
        return lambda lanes: 0
    if _REGISTER.fullmatch(text):
        return lambda lanes: lanes.registers.get(text)
    if found := _CONSTANT.fullmatch(text):
        offset = int(found[1], 16)
        return lambda lanes: lanes.constants.get(offset)
    try:
        number = int(text, 0) & WORD
    except ValueError:
        return lambda lanes: None  # a float, a computed constant, half a register
    return lambda lanes: number


def pair_readers(operand: str) -> tuple[Reader, Reader]:
    """What reads the low and the high word of a 64-bit operand."""
    text = operand.replace(".reuse", "")
    if found := _CONSTANT.fullmatch(text):
        return word_reader(text), word_reader(f"c[0x0][{int(found[1], 16) + 4:#x}]")
    if _REGISTER.fullmatch(text):
        return word_reader(text), word_reader(next_register(text))
    low = word_reader(text)
    sign = WORD if text.startswith("-") else 0
    return low, lambda lanes: None if low(lanes) is None else sign


def predicate_reader(operand: str) -> Callable[[Lanes], Predicate]:
    """What reads a predicate, negated or not; `PT` is always true."""
    found = _PREDICATE.fullmatch(operand)
    if found is None:
        return lambda lanes: None
    negated, name = bool(found[1]), found[2]
    if name in ("PT", "UPT"):
        return lambda lanes: not negated
    if not negated:
        return lambda lanes: lanes.predicates.get(name)

    def read(lanes: Lanes) -> Predicate:
        value = lanes.predicates.get(name)
        return None if value is None else np.logical_not(value)

    return read


def is_predicate(operand: str) -> bool:
    """Whether an operand is a predicate."""
    return _PREDICATE.fullmatch(operand) is not None


def is_register(operand: str) -> bool:
    """Whether an operand is a plain register."""
    return _REGISTER.fullmatch(operand.replace(".reuse", "")) is not None


def address_reader(operand: str) -> Callable[[Lanes], Value]:
    """What reads the byte address `[R2.64+UR4+0x10]` or `[R4.X4+0x80]`; 64 bits wide where it says so."""
    parts: list[Callable[[Lanes], Value]] = []
    terms = operand.strip("[]").split("+")
    is_wide = any(term.endswith(".U32") for term in terms)  # a short index on a base in uniform registers
    for term in terms:
        name, _, suffix = term.partition(".")
        if suffix == "64" or (is_wide and name.startswith("UR")):
            parts.append(_wide(name))
        elif suffix.startswith("X"):
            parts.append(_scaled(name, int(suffix[1:])))
        else:
            reader = word_reader(name)
            # An offset is signed: [R2.64+-0x8].
            parts.append(_offset(int(name, 0)) if re.fullmatch(r"-?0x[0-9a-f]+", name) else reader)

    def read(lanes: Lanes) -> Value:
        total: Value = 0
        for part in parts:
            value = part(lanes)
            if value is None:
                return None
            total = total + value
        return total

    return read


def _offset(number: int) -> Reader:
    return lambda lanes: number


def _scaled(name: str, factor: int) -> Reader:
    inner = word_reader(name)
    return lambda lanes: None if (value := inner(lanes)) is None else value * factor


def _wide(name: str) -> Reader:
    low, high = pair_readers(name)

    def read(lanes: Lanes) -> Value:
        first, second = low(lanes), high(lanes)
        return None if first is None or second is None else first + (second << 32)

    return read
