"""Symbolic dimensions: integers, named symbols and polynomial expressions over them.

A dimension is a Python `int` or a `Dim`.  A `Dim` is a polynomial with integer
coefficients whose indeterminates ("atoms") are named symbols, floor divisions
`(p // q)`, remainders `(p % q)`, and `min`/`max` of two dimensions.  Polynomials
are kept in normal form, so two expressions are equal exactly when their normal
forms are: `2*B + B` equals `3*B`.  Arithmetic that yields a constant returns a
plain `int`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from plait.ir.errors import InputError

Monomial = tuple["Atom", ...]  # sorted atoms, repeated for powers; () is the constant term


@dataclass(frozen=True)
class Atom:
    """One indeterminate: a symbol (`operator == ""`) or an irreducible operation on two dims."""

    name: str
    operator: str = ""
    left: IntLike = 0
    right: IntLike = 0

    def __str__(self) -> str:
        if not self.operator:
            return self.name
        if self.operator in ("min", "max"):
            return f"{self.operator}({self.left}, {self.right})"
        return f"{_parenthesised(self.left)}{self.operator}{_parenthesised(self.right)}"

    def sort_key(self) -> str:
        return str(self)


def _parenthesised(value: IntLike) -> str:
    text = str(value)
    return text if re.fullmatch(r"\w+", text) else f"({text})"


class Dim:
    """An immutable symbolic dimension; supports + - * // % min max and comparison for equality."""

    __slots__ = ("_hash", "_text", "terms")

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        self.terms: dict[Monomial, int] = dict(terms)
        self._hash = hash(frozenset(self.terms.items()))
        self._text: str | None = None

    @staticmethod
    def symbol(name: str) -> Dim:
        """The named symbol.  Raises InputError when `name` is no identifier."""
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise InputError(
                f"'{name}' is no dim name",
                why="a dim name is a letter or underscore followed by letters, digits or underscores",
                remedy="rename the dim, for instance 'B' or 'seq_len'",
            )
        return _symbol(name)

    def symbols(self) -> frozenset[str]:
        """Names of all symbols in the expression."""
        found: set[str] = set()
        for monomial in self.terms:
            for atom in monomial:
                if atom.operator:
                    found |= symbols_of(atom.left) | symbols_of(atom.right)
                else:
                    found.add(atom.name)
        return frozenset(found)

    def evaluate(self, environment: Mapping[str, int]) -> int:
        """The value under symbol values.  Raises InputError naming a symbol without a value."""
        total = 0
        for monomial, coefficient in self.terms.items():
            product = coefficient
            for atom in monomial:
                product *= _evaluate_atom(atom, environment)
            total += product
        return total

    def substitute(self, environment: Mapping[str, IntLike]) -> IntLike:
        """The expression with symbols replaced by ints or other dims."""
        total: IntLike = 0
        for monomial, coefficient in self.terms.items():
            product: IntLike = coefficient
            for atom in monomial:
                if atom.operator:
                    left = substitute(atom.left, environment)
                    factor = _OPERATIONS[atom.operator](left, substitute(atom.right, environment))
                else:
                    factor = environment.get(atom.name, _symbol(atom.name))
                product = product * factor
            total = total + product
        return total

    def bounds(self, ranges: Mapping[str, tuple[int, int | None]]) -> tuple[int | None, int | None]:
        """Interval that holds the value when each symbol lies in its range (None is unbounded)."""
        low: int | None = 0
        high: int | None = 0
        for monomial, coefficient in self.terms.items():
            interval: tuple[int | None, int | None] = (coefficient, coefficient)
            for atom in monomial:
                interval = _multiply_intervals(interval, _atom_bounds(atom, ranges))
            low = None if low is None or interval[0] is None else low + interval[0]
            high = None if high is None or interval[1] is None else high + interval[1]
        return low, high

    # -- arithmetic ---------------------------------------------------------
    def __add__(self, other: IntLike) -> IntLike:
        terms = dict(self.terms)
        for monomial, coefficient in _terms(other).items():
            terms[monomial] = terms.get(monomial, 0) + coefficient
        return _normal(terms)

    def __mul__(self, other: IntLike) -> IntLike:
        terms: dict[Monomial, int] = {}
        for left, a in self.terms.items():
            for right, b in _terms(other).items():
                key = tuple(sorted(left + right, key=Atom.sort_key)) if left and right else left + right
                terms[key] = terms.get(key, 0) + a * b
        return _normal(terms)

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> IntLike:
        return self * -1

    def __sub__(self, other: IntLike) -> IntLike:
        return self + (other * -1)

    def __rsub__(self, other: IntLike) -> IntLike:
        return (self * -1) + other

    def __floordiv__(self, other: IntLike) -> IntLike:
        return floor_div(self, other)

    def __rfloordiv__(self, other: IntLike) -> IntLike:
        return floor_div(other, self)

    def __mod__(self, other: IntLike) -> IntLike:
        return modulo(self, other)

    def __rmod__(self, other: IntLike) -> IntLike:
        return modulo(other, self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Dim):
            return self.terms == other.terms
        return False  # a constant is never held in a Dim

    def __hash__(self) -> int:
        return self._hash

    def __bool__(self) -> bool:
        return True

    def __int__(self) -> int:
        raise InputError(
            f"dim {self} has no fixed value",
            why="it is symbolic",
            remedy="give a value, for instance dims={'B': 8}",
        )

    def __str__(self) -> str:
        if self._text is None:
            self._text = _render(self.terms)
        return self._text

    def __repr__(self) -> str:
        return f"Dim({str(self)!r})"


IntLike = int | Dim


@lru_cache(maxsize=4096)
def _symbol(name: str) -> Dim:
    return Dim({(Atom(name),): 1})


def _terms(value: IntLike) -> Mapping[Monomial, int]:
    return value.terms if isinstance(value, Dim) else {(): int(value)}


def _normal(terms: Mapping[Monomial, int]) -> IntLike:
    kept = {monomial: coefficient for monomial, coefficient in terms.items() if coefficient}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return Dim(kept)


def _render(terms: Mapping[Monomial, int]) -> str:
    def order(item: tuple[Monomial, int]) -> tuple[int, str]:
        return -len(item[0]), "*".join(map(str, item[0]))

    text = ""
    for monomial, coefficient in sorted(terms.items(), key=order):
        factors = [f"({atom})" if atom.operator in ("//", "%") else str(atom) for atom in monomial]
        magnitude = abs(coefficient)
        if magnitude != 1 or not factors:
            factors.insert(0, str(magnitude))
        sign = "-" if coefficient < 0 else "+"
        text += ("-" if coefficient < 0 else "") if not text else sign
        text += "*".join(factors)
    return text


def floor_div(left: IntLike, right: IntLike) -> IntLike:
    """`left // right`; divides exactly where every coefficient allows it."""
    if isinstance(left, int) and isinstance(right, int):
        if right == 0:
            raise InputError("division of a dim by zero", why=f"{left} // 0", remedy="check the strides")
        return left // right
    if right == 1:
        return left
    if left == right:
        return 1
    if isinstance(right, int) and right > 0 and isinstance(left, Dim):
        # (k*right*x + c) // right == k*x + c // right for any integer x
        whole = {m: c // right for m, c in left.terms.items() if c % right == 0}
        rest = _normal({m: c for m, c in left.terms.items() if c % right})
        if isinstance(rest, int):
            return _normal(whole) + rest // right
        if whole:
            return _normal(whole) + floor_div(rest, right)
    if isinstance(right, Dim) and isinstance(left, Dim) and len(right.terms) == 1:
        quotient = _divide_by_monomial(left, right)
        if quotient is not None:
            return quotient
    return Dim({(Atom("", "//", left, right),): 1})


def _divide_by_monomial(left: Dim, right: Dim) -> IntLike | None:
    ((divisor, scale),) = right.terms.items()
    terms: dict[Monomial, int] = {}
    for monomial, coefficient in left.terms.items():
        rest = list(monomial)
        for atom in divisor:
            if atom not in rest:
                return None
            rest.remove(atom)
        if coefficient % scale:
            return None
        terms[tuple(rest)] = coefficient // scale
    return _normal(terms)


def modulo(left: IntLike, right: IntLike) -> IntLike:
    """`left % right`, zero where `right` divides every term."""
    if isinstance(left, int) and isinstance(right, int):
        return left % right
    if right == 1 or left == right:
        return 0
    if isinstance(right, int) and right > 0 and isinstance(left, Dim):
        rest = _normal({m: c % right for m, c in left.terms.items()})
        if isinstance(rest, int):
            return rest % right
        left = rest
    return Dim({(Atom("", "%", left, right),): 1})


def minimum(left: IntLike, right: IntLike) -> IntLike:
    """The smaller of two dims; symbolic unless both are ints or equal."""
    return _extreme("min", left, right)


def maximum(left: IntLike, right: IntLike) -> IntLike:
    """The larger of two dims; symbolic unless both are ints or equal."""
    return _extreme("max", left, right)


def _extreme(operator: str, left: IntLike, right: IntLike) -> IntLike:
    if left == right:
        return left
    if isinstance(left, int) and isinstance(right, int):
        return min(left, right) if operator == "min" else max(left, right)
    first, second = sorted((left, right), key=str)
    return Dim({(Atom("", operator, first, second),): 1})


_OPERATIONS = {"//": floor_div, "%": modulo, "min": minimum, "max": maximum}


def _evaluate_atom(atom: Atom, environment: Mapping[str, int]) -> int:
    if not atom.operator:
        if atom.name not in environment:
            raise InputError(
                f"dim {atom.name} has no value",
                why=f"values were given for {sorted(environment) or 'no dim'}",
                remedy=f"give one, for instance dims={{'{atom.name}': 8}} or --dim {atom.name}=8",
            )
        return environment[atom.name]
    result = _OPERATIONS[atom.operator](evaluate(atom.left, environment), evaluate(atom.right, environment))
    return int(result)


def _atom_bounds(atom: Atom, ranges: Mapping[str, tuple[int, int | None]]) -> tuple[int | None, int | None]:
    if not atom.operator:
        return ranges.get(atom.name, (0, None))
    (a, b), (c, d) = bounds(atom.left, ranges), bounds(atom.right, ranges)
    if atom.operator == "%":
        return 0, None if d is None else d - 1
    if atom.operator == "//":
        if a is None or c is None or a < 0 or c <= 0:
            return None, None
        return (0 if d is None else a // d), (None if b is None else b // c)
    if atom.operator == "min":
        highs = [x for x in (b, d) if x is not None]
        return (None if a is None or c is None else min(a, c)), (min(highs) if highs else None)
    lows = [x for x in (a, c) if x is not None]
    return (max(lows) if lows else None), (None if b is None or d is None else max(b, d))


def _multiply_intervals(
    left: tuple[int | None, int | None], right: tuple[int | None, int | None]
) -> tuple[int | None, int | None]:
    (a, b), (c, d) = left, right
    if a is not None and b is not None and c is not None and d is not None:
        products = (a * c, a * d, b * c, b * d)
        return min(products), max(products)
    if a is not None and c is not None and a >= 0 and c >= 0:
        return a * c, (0 if b == 0 or d == 0 else None)
    if a == b and a is not None and a < 0 and c is not None and c >= 0:
        return None if d is None else a * d, a * c
    return None, None


# -- functions that take ints and dims alike -----------------------------------
def symbols_of(value: IntLike) -> frozenset[str]:
    """Symbols of a dim; empty for an int."""
    return value.symbols() if isinstance(value, Dim) else frozenset()


def evaluate(value: IntLike, environment: Mapping[str, int]) -> int:
    """Value of an int or dim under symbol values."""
    return value.evaluate(environment) if isinstance(value, Dim) else value


def substitute(value: IntLike, environment: Mapping[str, IntLike]) -> IntLike:
    """An int or dim with symbols replaced."""
    return value.substitute(environment) if isinstance(value, Dim) else value


def bounds(value: IntLike, ranges: Mapping[str, tuple[int, int | None]]) -> tuple[int | None, int | None]:
    """Interval of an int or dim."""
    return value.bounds(ranges) if isinstance(value, Dim) else (value, value)


def product(values: Iterable[IntLike]) -> IntLike:
    """Product of dims; 1 for none."""
    total: IntLike = 1
    for value in values:
        total = total * value
    return total


# -- text -------------------------------------------------------------------
_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_]\w*)|(//|[-+*%(),]))")


@lru_cache(maxsize=4096)
def parse_dim(text: str) -> IntLike:
    """Parse `2*B+1`, `(H+1)//2`, `max(N, 4)`.  Raises ValueError with the offending token."""
    if text.isdigit():
        return int(text)
    tokens: list[str] = []
    position = 0
    stripped = text.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None:
            raise ValueError(f"unexpected '{stripped[position:].strip()[:1]}' in dim '{text}'")
        tokens.append(match.group().strip())
        position = match.end()
    stream = _Tokens(tokens, text)
    result = _parse_sum(stream)
    if stream.peek() is not None:
        raise ValueError(f"unexpected '{stream.peek()}' in dim '{text}'")
    return result


class _Tokens:
    def __init__(self, tokens: list[str], text: str) -> None:
        self._tokens: Iterator[str] = iter(tokens)
        self._next: str | None = next(self._tokens, None)
        self.text = text

    def peek(self) -> str | None:
        return self._next

    def take(self, expected: str | None = None) -> str:
        token = self._next
        if token is None or (expected is not None and token != expected):
            raise ValueError(
                f"expected '{expected or 'a dim'}' but found '{token or 'end'}' in dim '{self.text}'"
            )
        self._next = next(self._tokens, None)
        return token


def _parse_sum(stream: _Tokens) -> IntLike:
    negative = stream.peek() == "-"
    if negative:
        stream.take()
    total = _parse_product(stream) * (-1 if negative else 1)
    while stream.peek() in ("+", "-"):
        sign = 1 if stream.take() == "+" else -1
        total = total + _parse_product(stream) * sign
    return total


def _parse_product(stream: _Tokens) -> IntLike:
    total = _parse_atom(stream)
    while stream.peek() in ("*", "//", "%"):
        operator = stream.take()
        right = _parse_atom(stream)
        total = total * right if operator == "*" else _OPERATIONS[operator](total, right)
    return total


def _parse_atom(stream: _Tokens) -> IntLike:
    token = stream.take()
    if token == "(":
        inner = _parse_sum(stream)
        stream.take(")")
        return inner
    if token.isdigit():
        return int(token)
    if token in ("min", "max") and stream.peek() == "(":
        stream.take("(")
        left = _parse_sum(stream)
        stream.take(",")
        right = _parse_sum(stream)
        stream.take(")")
        return _extreme(token, left, right)
    if not re.fullmatch(r"[A-Za-z_]\w*", token):
        raise ValueError(f"unexpected '{token}' in dim '{stream.text}'")
    return _symbol(token)
