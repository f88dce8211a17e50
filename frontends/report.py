"""The report of everything in a source program that cannot be lowered, in one error.

All frontends share it, so that a report reads the same wherever the program came from:
each operator with its count, the places where it occurs, why it cannot be lowered, the
nearest operator that can, and how to register a lowering.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from plait.ir.errors import LoweringError, nearest

_PLACES_SHOWN = 6


@dataclass
class Unsupported:
    """One operator that cannot be lowered, for one reason, and every place where it occurs.

    Attributes:
        operator: its name as its frontend spells it, `aten.foo.default` or `com.acme::Foo`.
        reason: why; None where no rule exists at all.
        nearest: the supported operator whose name is most like it; None where none is close.
        advice: what usually helps, where that is known.
        places: module paths with file and line, or node names, one for each occurrence.
    """

    operator: str
    reason: str | None = None
    nearest: str | None = None
    advice: str | None = None
    places: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of occurrences."""
        return len(self.places)

    def __str__(self) -> str:
        distinct = list(dict.fromkeys(self.places))
        shown = ", ".join(distinct[:_PLACES_SHOWN])
        if len(distinct) > _PLACES_SHOWN:
            shown += f" and {len(distinct) - _PLACES_SHOWN} more places"
        lines = [f"    {self.operator} x{self.count} in {shown}"]
        if self.reason is None:
            lines.append(f"      no lowering rule; nearest supported: {self.nearest or 'none'}")
        else:
            lines.append(f"      {self.reason}")
        if self.advice:
            lines.append(f"      {self.advice}")
        return "\n".join(lines)


class UnsupportedError(LoweringError):
    """A program holds operators that cannot be lowered; `entries` lists them all."""

    def __init__(self, what: str, *, where: str | None, remedy: str, entries: Iterable[Unsupported]) -> None:
        self.entries = tuple(entries)
        super().__init__(what, where=where, why="\n" + "\n".join(map(str, self.entries)), remedy=remedy)

    def to_dict(self) -> dict[str, Any]:
        """The message in parts, each operator as a record."""
        return {
            **super().to_dict(),
            "operators": [{**asdict(entry), "count": entry.count} for entry in self.entries],
        }


class UnsupportedForm(LoweringError):
    """One call of a supported operator in a form that has no lowering.

    A frontend goes on to the other operators and lists all such calls at the end.

    Attributes:
        operator: its name as the report spells it.
        place: where it is called.
    """

    def __init__(self, what: str, *, operator: str, place: str, where: str, why: str, remedy: str) -> None:
        self.operator, self.place = operator, place
        super().__init__(what, where=where, why=why, remedy=remedy)


class Report:
    """Collects operators that cannot be lowered, by name and reason, in order of appearance.

    Args:
        supported: names of the operators that have rules.
        rule: signature of a rule in this frontend, `"rule(build, x)"`.
        advice: what helps for operators whose name contains a word, by word.
        spelt: turns an operator's name into the one that `plait.frontends.register` takes.
    """

    def __init__(
        self,
        supported: Callable[[], Iterable[str]],
        rule: str,
        *,
        advice: Mapping[str, str] | None = None,
        spelt: Callable[[str], str] = str,
    ) -> None:
        self._supported = supported
        self._rule = rule
        self._advice = advice or {}
        self._spelt = spelt
        self._entries: dict[tuple[str, str | None], Unsupported] = {}

    def add(self, operator: str, place: str, reason: str | None = None) -> None:
        """Record one occurrence; `reason` is None where no rule exists at all."""
        key = (operator, reason)
        if key not in self._entries:
            advice = next((text for part, text in self._advice.items() if part in operator), None)
            close = nearest_supported(operator, self._supported()) if reason is None else None
            self._entries[key] = Unsupported(operator, reason, close, advice)
        self._entries[key].places.append(place)

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def entries(self) -> tuple[Unsupported, ...]:
        """What was recorded, the most frequent operator first."""
        return tuple(sorted(self._entries.values(), key=lambda entry: -entry.count))

    def add_forms(self, forms: Iterable[UnsupportedForm]) -> None:
        """Record calls in unsupported forms."""
        for form in forms:
            self.add(form.operator, form.place, form.what)

    def error(self, model: str, where: str | None = None) -> UnsupportedError:
        """One error that lists every entry."""
        kinds, count = len(self._entries), sum(entry.count for entry in self._entries.values())
        what = f"{count} operator{'s' * (count > 1)} of {kinds} kind{'s' * (kinds > 1)}"
        example = next((entry.operator for entry in self.entries if entry.reason is None), None)
        if example is None:
            remedy = "change these calls, or register a rule of your own with register(..., replace=True)"
        else:
            remedy = (
                "replace these operators, or register a rule:\n"
                "    from plait.frontends import register\n"
                f'    @register("{self._spelt(example)}")\n'
                f"    def {self._rule}: return ...  # builds the ops and returns their results"
            )
        return UnsupportedError(
            f"{what} in {model} cannot be lowered", where=where, remedy=remedy, entries=self.entries
        )


def nearest_supported(operator: str, supported: Iterable[str]) -> str | None:
    """The supported operator most like `operator`, domains (`onnx::`) aside; None when none is close."""
    bare = {name.rpartition("::")[2]: name for name in supported}
    wanted = operator.rpartition("::")[2]
    exact = next((name for name in bare if name.lower() == wanted.lower()), None)
    close = exact or next(iter(nearest(wanted, bare)), None)
    return bare[close] if close is not None else None
