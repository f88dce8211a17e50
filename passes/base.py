"""What a pass is: a frozen dataclass with a name, typed options and `run`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from plait.ir import Graph, Op, PlaitError
from plait.ir.errors import InputError, did_you_mean


class PassError(PlaitError):
    """A pass failed or left a broken graph.

    Attributes:
        pass_name: the pass at fault.
        bundle: folder with all that reproduces the failure, or None when none was written.
    """

    pass_name: str = ""
    bundle: str | None = None


@dataclass(frozen=True)
class PassResult:
    """What a pass did.

    Attributes:
        changed: whether the graph is another one than before.
        rewrites: how many places changed.
        rules: how often each rule applied, by title.
        remarks: sentences for the user, for instance why something was left alone.
    """

    changed: bool
    rewrites: int = 0
    rules: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pass:
    """Base of all passes.  Options are dataclass fields with defaults.

    The docstring of a pass shows what it does as IR text, under `Given:` and
    `Result:` (see `plait.passes.examples`), and a test runs that text.
    """

    #: Unique name, as written in pipelines and in the locations of rewritten ops.
    name: ClassVar[str]
    #: Passes that must have run earlier in the same pipeline.
    requires: ClassVar[tuple[str, ...]] = ()
    #: Passes that, where a pipeline has them, must come earlier.
    follows: ClassVar[tuple[str, ...]] = ()

    def run(self, graph: Graph) -> bool | PassResult:
        """Rewrite the graph in place; say whether it changed."""
        raise TypeError(f"pass {type(self).__name__} does not define run()")

    def explain(self, graph: Graph, op: Op) -> str:
        """One sentence on what the pass does at `op`, and why.  `graph` is a scratch copy."""
        name = op.name
        self.run(graph)
        left = any(value.name == name for value in graph.values())
        return f"{self.name} {'keeps' if left else 'removes'} %{name}"

    def __str__(self) -> str:
        """The pass as pipeline text, options at their default left out."""
        parts = []
        for item in dataclasses.fields(self):
            given = getattr(self, item.name)
            if given != item.default:
                parts.append(f"{item.name}={option_text(given)}")
        return f"{self.name}{{{','.join(parts)}}}" if parts else self.name


def option_text(given: Any) -> str:
    """An option value as pipeline text."""
    if isinstance(given, bool):
        return "true" if given else "false"
    if given is None:
        return "none"
    if isinstance(given, (tuple, list)):
        return f"[{','.join(map(option_text, given))}]"
    if isinstance(given, str):
        return given if given.replace("_", "a").replace("-", "a").isalnum() else json.dumps(given)
    return repr(given)


#: All known passes by name.
PASSES: dict[str, type[Pass]] = {}

P = TypeVar("P", bound=Pass)


def register(cls: type[P]) -> type[P]:
    """Class decorator that makes a pass available to pipelines under its name."""
    held = PASSES.get(cls.name)
    if held is not None and held is not cls:
        raise TypeError(f"two passes are called {cls.name}: {held.__module__} and {cls.__module__}")
    for item in dataclasses.fields(cls):
        if item.default is dataclasses.MISSING:
            raise TypeError(f"option {item.name} of pass {cls.name} needs a plain default")
    PASSES[cls.name] = cls
    return cls


def find_pass(name: str) -> type[Pass]:
    """The pass called `name`.  Raises InputError with the nearest name."""
    if name not in PASSES:
        raise InputError(
            f"unknown pass '{name}'{did_you_mean(name, PASSES)}",
            why=f"the passes are {', '.join(sorted(PASSES))}",
            remedy="correct the name, or import the module that registers the pass",
        )
    return PASSES[name]
