"""The exception tree of plait.

Every error says *what* went wrong, *where* (a file and line, a module path or a
value name), *why*, and *what to do* about it, so that the message alone is
enough to act on.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PlaitError(Exception):
    """Base of every error that plait raises on purpose.

    Args:
        what: the fact, one sentence without a full stop.
        where: file:line:column, module path or value name.
        why: the rule that was broken.
        remedy: what the user can do next.
    """

    def __init__(
        self, what: str, *, where: str | None = None, why: str | None = None, remedy: str | None = None
    ) -> None:
        self.what, self.where, self.why, self.remedy = what, where, why, remedy
        super().__init__(self._render())

    def _render(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        lines = [head]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.remedy:
            lines.append(f"  do:  {self.remedy}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, str | None]:
        """The message in parts, for `--json` output."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "remedy": self.remedy,
        }


class LoweringError(PlaitError):
    """A source model cannot be brought into the IR."""


class VerifyError(PlaitError):
    """A graph, or a piece of IR text, breaks a rule of the IR.

    `invariant` is the number of the broken invariant (see `plait.ir.verify`),
    or None where the text itself does not parse.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        why: str | None = None,
        remedy: str | None = None,
        invariant: int | None = None,
        snippet: str | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        self.invariant = invariant
        self.snippet = snippet
        self.notes = tuple(notes)
        super().__init__(what, where=where, why=why, remedy=remedy)

    def _render(self) -> str:
        tag = f"error[I{self.invariant}]" if self.invariant is not None else "error"
        head = f"{self.where}: {tag}: {self.what}" if self.where else f"{tag}: {self.what}"
        lines = [head]
        if self.snippet:
            lines.append(self.snippet)
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.remedy:
            lines.append(f"  do:  {self.remedy}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


class CompileError(PlaitError):
    """A backend cannot turn a verified graph into an executable."""


class PredictError(PlaitError):
    """A predictor cannot answer."""


class InputError(PlaitError):
    """What the user handed in at run time (file, argument, tensor) is wrong."""


def nearest(word: str, choices: Iterable[str], *, count: int = 1) -> list[str]:
    """The `count` names of `choices` most like `word`, best first; empty when none is close."""
    return difflib.get_close_matches(word, list(choices), n=count, cutoff=0.6)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?` or an empty string."""
    found = nearest(word, choices)
    return f"; did you mean '{found[0]}'?" if found else ""
