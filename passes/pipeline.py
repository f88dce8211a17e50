"""Pipeline text, such as `canonicalize,fuse-activation{kinds=[relu,silu]}`, to passes and back.

Grammar:

    pipeline := [pass ("," pass)*]
    pass     := NAME ["{" [option ("," option)*] "}"]
    option   := NAME "=" value
    value    := "[" [value ("," value)*] "]" | STRING | WORD
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from plait.ir.errors import InputError, did_you_mean
from plait.passes.base import PASSES, Pass

#: What `optimize` runs by default.
DEFAULT = (
    "canonicalize,fold-constants,fold-batch-norm,fuse-bias,fuse-activation,fuse-first-spike-pool,early-exit,"
    "common-subexpression,dead-code"
)

_NAME = re.compile(r"[A-Za-z_][\w-]*")
_WORD = re.compile(r'[^\s,{}\[\]="]+')
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_BLANK = re.compile(r"\s*")

_Token = Union[str, "list[Any]"]


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """Parse pipeline text.

    Raises:
        InputError: with the column and a caret: bad syntax, an unknown pass or
            option (and the nearest name), or an option value of the wrong type.
    """
    return _Parser(text).pipeline()


def format_pipeline(passes: Iterable[Pass]) -> str:
    """Pipeline text that `parse_pipeline` turns into equal passes."""
    return ",".join(map(str, passes))


def check_order(passes: Sequence[Pass]) -> None:
    """Raise InputError unless every pass finds what it requires earlier in the pipeline."""
    names = [p.name for p in passes]
    for index, current in enumerate(passes):
        for needed in current.requires:
            if needed not in names[:index]:
                late = needed in names
                raise InputError(
                    f"pass {current.name} requires {needed}, which {'comes later' if late else 'is missing'}",
                    where=f"pipeline {','.join(names)}",
                    why=f"{current.name} is only right on a graph that {needed} has been over",
                    remedy=f"put {needed} in front of {current.name}",
                )
        for earlier in current.follows:
            if earlier in names[index + 1 :] and earlier not in names[:index]:
                raise InputError(
                    f"pass {earlier} comes after {current.name}",
                    where=f"pipeline {','.join(names)}",
                    why=f"{current.name} hides what {earlier} looks for",
                    remedy=f"put {earlier} in front of {current.name}",
                )


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self._skip()

    def pipeline(self) -> tuple[Pass, ...]:
        passes: list[Pass] = []
        while self.position < len(self.text):
            if passes:
                self._expect(",", "between passes")
            passes.append(self._pass())
        return tuple(passes)

    def _pass(self) -> Pass:
        at = self.position
        name = self._take(_NAME, "a pass name")
        cls = PASSES.get(name)
        if cls is None:
            raise self._error(
                f"unknown pass '{name}'{did_you_mean(name, PASSES)}",
                at,
                len(name),
                remedy=f"use one of {', '.join(sorted(PASSES))}",
            )
        options: dict[str, Any] = {}
        if self._accept("{"):
            hints = get_type_hints(cls)
            known = {item.name: hints[item.name] for item in dataclasses.fields(cls)}
            while not self._accept("}"):
                if options:
                    self._expect(",", "between options")
                self._option(cls, known, options)
        return cls(**options)

    def _option(self, cls: type[Pass], known: dict[str, Any], options: dict[str, Any]) -> None:
        at = self.position
        name = self._take(_NAME, "an option name")
        if name not in known:
            has = f"its options are {', '.join(known)}" if known else "it has none"
            raise self._error(
                f"pass {cls.name} has no option '{name}'{did_you_mean(name, known)}", at, len(name), why=has
            )
        if name in options:
            raise self._error(f"option {name} is given twice", at, len(name))
        self._expect("=", f"after option {name}")
        value_at = self.position
        given = self._value()
        try:
            options[name] = convert(given, known[name])
        except ValueError:
            width = len(self.text[value_at : self.position].rstrip())
            raise self._error(
                f"option {name} of {cls.name} is {self.text[value_at : value_at + width]}",
                value_at,
                width,
                why=f"it must be {expected(known[name])}",
            ) from None

    def _value(self) -> _Token:
        if self._accept("["):
            items: list[_Token] = []
            while not self._accept("]"):
                if items:
                    self._expect(",", "between list items")
                items.append(self._value())
            return items
        if self.text.startswith('"', self.position):
            return json.loads(self._take(_STRING, "a string in quotes"))
        return self._take(_WORD, "an option value")

    # -- characters ------------------------------------------------------------
    def _skip(self) -> None:
        match = _BLANK.match(self.text, self.position)
        self.position = match.end() if match else self.position

    def _accept(self, literal: str) -> bool:
        if not self.text.startswith(literal, self.position):
            return False
        self.position += len(literal)
        self._skip()
        return True

    def _expect(self, literal: str, context: str) -> None:
        if not self._accept(literal):
            raise self._error(f"expected '{literal}' {context}, found {self._found()}", self.position, 1)

    def _take(self, pattern: re.Pattern[str], what: str) -> str:
        match = pattern.match(self.text, self.position)
        if match is None:
            raise self._error(f"expected {what}, found {self._found()}", self.position, 1)
        self.position = match.end()
        self._skip()
        return match.group()

    def _found(self) -> str:
        return f"'{self.text[self.position]}'" if self.position < len(self.text) else "the end"

    def _error(
        self, what: str, at: int, width: int, *, why: str | None = None, remedy: str | None = None
    ) -> InputError:
        line = " ".join(self.text.split("\n"))
        caret = f"{what}\n    {line}\n    {' ' * at}{'^' * max(width, 1)}"
        return InputError(caret, where=f"pipeline, column {at + 1}", why=why, remedy=remedy)


def convert(given: _Token, hint: Any) -> Any:
    """An option value of the annotated type from pipeline text.  Raises ValueError."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if given not in arguments:
            raise ValueError
        return given
    if origin in (Union, types.UnionType):
        if given == "none" and type(None) in arguments:
            return None
        for option in arguments:
            if option is not type(None):
                try:
                    return convert(given, option)
                except ValueError:
                    continue
        raise ValueError
    if origin is tuple:
        if not isinstance(given, list) or (arguments[-1] is not Ellipsis and len(given) != len(arguments)):
            raise ValueError
        item_types = [arguments[0]] * len(given) if arguments[-1] is Ellipsis else arguments
        return tuple(convert(item, kind) for item, kind in zip(given, item_types, strict=True))
    if isinstance(given, list):
        raise ValueError
    if hint is bool:
        if given not in ("true", "false"):
            raise ValueError
        return given == "true"
    if hint in (int, float, str):
        return hint(given)
    raise TypeError(f"a pass option cannot be annotated {hint}")


def expected(hint: Any) -> str:
    """What an option annotation expects, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, types.UnionType):
        return " or ".join("none" if a is type(None) else expected(a) for a in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a list [a,b,..], each {expected(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}: {', '.join(map(expected, arguments))}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[hint]
