"""Tokens of IR text, and errors with file, line, column and a caret."""

from __future__ import annotations

import re

from plait.ir.errors import VerifyError

BLANK = re.compile(r"(?:\s+|//[^\n]*)*")
LOCAL = re.compile(r"%[A-Za-z0-9_][\w.$/-]*")
GLOBAL = re.compile(r"@[A-Za-z0-9_][\w.$/-]*")
VALUE = re.compile(r"[%@][A-Za-z0-9_][\w.$/-]*")
WORD = re.compile(r"[A-Za-z_][\w-]*")
OPNAME = re.compile(r"[a-z_]\w*\.\w+")
INTEGER = re.compile(r"\d+")
STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
FILE = re.compile(r"[^\s\"+{}]+?(?=:\d)")


class Scanner:
    """A cursor over IR text."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.position = 0
        self.skip()

    def skip(self) -> None:
        """Go past blanks and comments."""
        match = BLANK.match(self.text, self.position)
        if match is not None:
            self.position = match.end()

    def accept(self, literal: str) -> bool:
        """Take `literal` if it comes next."""
        if self.text.startswith(literal, self.position):
            self.position += len(literal)
            self.skip()
            return True
        return False

    def expect(self, literal: str, context: str) -> None:
        """Take `literal` or raise."""
        if not self.accept(literal):
            raise self.error(f"expected '{literal}' {context}, found {self.found()}")

    def accept_word(self, word: str) -> bool:
        """Take a whole word if it comes next."""
        match = WORD.match(self.text, self.position)
        if match is None or match.group() != word:
            return False
        self.position = match.end()
        self.skip()
        return True

    def take(self, pattern: re.Pattern[str], what: str) -> str:
        """Take a token of a pattern or raise."""
        match = pattern.match(self.text, self.position)
        if match is None:
            raise self.error(f"expected {what}, found {self.found()}")
        self.position = match.end()
        self.skip()
        return match.group()

    def accept_pattern(self, pattern: re.Pattern[str]) -> str | None:
        """Take a token of a pattern if it comes next."""
        match = pattern.match(self.text, self.position)
        if match is None:
            return None
        self.position = match.end()
        self.skip()
        return match.group()

    def peek(self, literal: str) -> bool:
        return self.text.startswith(literal, self.position)

    def found(self) -> str:
        """What stands at the cursor, for messages."""
        if self.position >= len(self.text):
            return "the end of the text"
        match = re.compile(r"\S{1,24}").match(self.text, self.position)
        return f"'{match.group() if match else self.text[self.position]}'"

    def place(self, position: int | None = None) -> tuple[int, int, str]:
        """Line and column (both from 1) of a position, and the whole line."""
        at = min(self.position if position is None else position, len(self.text))
        start = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        line = self.text[start : end if end >= 0 else len(self.text)]
        return self.text.count("\n", 0, at) + 1, at - start + 1, line

    def error(
        self,
        what: str,
        *,
        at: int | None = None,
        width: int = 1,
        why: str | None = None,
        remedy: str | None = None,
        invariant: int | None = None,
    ) -> VerifyError:
        """A VerifyError with file:line:column and a caret under `width` characters."""
        line, column, source = self.place(at)
        width = max(1, min(width, len(source) - column + 1))
        shown = source.rstrip()
        offset = len(shown) - len(shown.lstrip())
        caret = " " * (column - 1 - min(offset, column - 1)) + "^" * width
        snippet = f"    {shown.lstrip()}\n    {caret}"
        return VerifyError(
            what,
            where=f"{self.file}:{line}:{column}",
            why=why,
            remedy=remedy,
            invariant=invariant,
            snippet=snippet,
        )
