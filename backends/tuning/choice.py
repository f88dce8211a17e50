"""What can be chosen about a product: its register tile, the order of its loops, Winograd's transforms."""

from __future__ import annotations

import re
from dataclasses import dataclass

from plait.ir.errors import InputError

_TEXT = re.compile(r"(?:F(\d+) )?(\d+)x(\d+)( rows first)?")


@dataclass(frozen=True)
class Choice:
    """One way to compute a product.

    Attributes:
        rows, vectors: of the register tile.
        rows_first: whether the strips of rows are the outer loop and the blocks of columns the inner one.
        transforms: m of Winograd's F(m x m, 3 x 3); 0 for the direct sum.
    """

    rows: int
    vectors: int
    rows_first: bool = False
    transforms: int = 0

    def __str__(self) -> str:
        transforms = f"F{self.transforms} " if self.transforms else ""
        return f"{transforms}{self.rows}x{self.vectors}{' rows first' if self.rows_first else ''}"

    @staticmethod
    def parse(text: str) -> Choice:
        """The choice that a text names.  Raises InputError on other texts."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise InputError(
                f"'{text}' names no choice of a kernel",
                remedy="write it like '6x4', '6x4 rows first', 'F4 8x2'",
            )
        return Choice(int(found[2]), int(found[3]), bool(found[4]), int(found[1] or 0))

    def fits(self, registers: int) -> bool:
        """Whether the tile and what it is computed from lie in registers."""
        sums = self.rows * self.vectors
        return sums == 1 or sums + self.vectors + 1 <= registers


__all__ = ["Choice"]
