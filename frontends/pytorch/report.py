"""The report of everything in a program that cannot be lowered, in one error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from plait.frontends.pytorch.registry import nearest_supported
from plait.ir.errors import LoweringError
from plait.ir.loc import Loc

_PLACES_SHOWN = 6
#: What to do about operators that point at a common mistake, by a part of their name.
_ADVICE = {
    "native_batch_norm_legit_functional": "batch norm in training mode: call model.eval() before lowering",
    "batch_norm": "batch norm in training mode: call model.eval() before lowering",
    "dropout": "dropout in training mode: call model.eval() before lowering",
    "bernoulli": "random numbers are drawn inside the model: call model.eval(), or pass them as an input",
    "rand": "random numbers are drawn inside the model: pass them as an input",
    "nonzero": "the result has a size that depends on the data: use torch.where with three arguments",
    "masked_select": "the result has a size that depends on the data: use torch.where with three arguments",
    "item": "a tensor becomes a Python number: keep it a tensor",
    "_local_scalar_dense": "a tensor becomes a Python number: keep it a tensor",
}


@dataclass
class Unsupported:
    """One kind of operator that cannot be lowered, and all places where it occurs."""

    name: str
    reason: str | None
    places: list[Loc] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The entry of the report."""
        paths = list(dict.fromkeys(loc.readable() for loc in self.places))
        shown = ", ".join(paths[:_PLACES_SHOWN])
        if len(paths) > _PLACES_SHOWN:
            shown += f" and {len(paths) - _PLACES_SHOWN} more places"
        lines = [f"    {self.name} x{len(self.places)} in {shown}"]
        if self.reason is not None:
            lines.append(f"      {self.reason}")
        else:
            close = nearest_supported(self.name)
            lines.append(f"      no lowering rule; nearest supported: {close or 'none'}")
        advice = next((text for part, text in _ADVICE.items() if part in self.name), None)
        if advice:
            lines.append(f"      {advice}")
        return lines


class Report:
    """Collects unsupported operators, by name and reason, in order of appearance."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str | None], Unsupported] = {}

    def add(self, name: str, loc: Loc, reason: str | None = None) -> None:
        """Record one occurrence; `reason` is None where no rule exists at all."""
        entry = self._entries.setdefault((name, reason), Unsupported(name, reason))
        entry.places.append(loc)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def error(self, model: str) -> LoweringError:
        """One LoweringError that lists every entry."""
        entries = list(self._entries.values())
        kinds, count = len(entries), sum(len(entry.places) for entry in entries)
        what = f"{count} operator{'s' * (count > 1)} of {kinds} kind{'s' * (kinds > 1)}"
        return LoweringError(
            f"{what} in {model} cannot be lowered",
            why="\n" + "\n".join(_all_lines(entries)),
            remedy=self._advice(entries),
        )

    @staticmethod
    def _advice(entries: Iterable[Unsupported]) -> str:
        example = next((entry.name for entry in entries if entry.reason is None), None)
        if example is None:
            return "change these calls, or register a rule of your own with register(..., replace=True)"
        return (
            "replace these operators, or register a rule:\n"
            "    from plait.frontends.pytorch import register\n"
            f'    @register("{example}")\n'
            "    def rule(build, x, *arguments): return build.emit(...)"
        )


def _all_lines(entries: Iterable[Unsupported]) -> list[str]:
    return [line for entry in entries for line in entry.lines()]
