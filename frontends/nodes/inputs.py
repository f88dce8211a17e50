"""Errors about the inputs of a model, as callers of a frontend describe them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from plait.ir import LoweringError
from plait.ir.errors import did_you_mean


def check_names(wanted: Iterable[str], names: Sequence[str], argument: str, where: str) -> None:
    """Raise LoweringError unless all names that `argument` has as keys are those of inputs."""
    for name in wanted:
        if name not in names:
            raise LoweringError(
                f"{argument} names '{name}', which is no input of the model{did_you_mean(name, names)}",
                where=where,
                why=f"its inputs are {', '.join(names) or 'none'}",
                remedy=f"use these names as keys of {argument}",
            )


def unknown_rank(name: str, where: str) -> LoweringError:
    """The error that neither the model nor an example array tells the rank of an input."""
    return LoweringError(
        "the rank of the input is not known",
        where=where,
        why="the model declares no shape for it",
        remedy=f"pass an example array: inputs={{'{name}': array}}",
    )
