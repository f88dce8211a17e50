"""Locations: where in the user's model an op comes from, and which passes touched it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Origin:
    """One place in the source model: module path, and file and line where known."""

    path: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        text = '"' + self.path.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return f"{text} {self.file}:{self.line}" if self.file is not None else text

    def readable(self) -> str:
        """`layer1.0.conv1 at net.py:41`, for messages."""
        place = f"{self.file}:{self.line}" if self.file is not None else ""
        return " at ".join(part for part in (self.path, place) if part)


@dataclass(frozen=True)
class Loc:
    """Origins of an op, main one first, and the passes that made it from them."""

    origins: tuple[Origin, ...] = ()
    passes: tuple[str, ...] = ()

    @staticmethod
    def at(path: str, file: str | None = None, line: int | None = None) -> Loc:
        """A location with one origin."""
        return Loc((Origin(path, file, line),))

    @staticmethod
    def fuse(locs: Iterable[Loc], via: str | None = None) -> Loc:
        """All origins and passes of `locs`, each once and in order, plus the pass `via`."""
        origins: dict[Origin, None] = {}
        passes: dict[str, None] = {}
        for loc in locs:
            origins.update(dict.fromkeys(loc.origins))
            passes.update(dict.fromkeys(loc.passes))
        if via is not None:
            passes[via] = None
        return Loc(tuple(origins), tuple(passes))

    def via(self, name: str) -> Loc:
        """The location after pass `name`."""
        return self if name in self.passes else replace(self, passes=(*self.passes, name))

    def __bool__(self) -> bool:
        return bool(self.origins or self.passes)

    def __str__(self) -> str:
        text = " + ".join(map(str, self.origins)) or '""'
        return f"{text} via {'+'.join(self.passes)}" if self.passes else text

    def readable(self) -> str:
        """The main origin, for messages."""
        return self.origins[0].readable() if self.origins else "an unknown place"


UNKNOWN = Loc()
