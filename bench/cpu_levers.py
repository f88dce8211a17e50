"""What each feature of the CPU code generation is worth: the slowdown when it is switched off.

A lever is a field of `plait.backends.targets.CpuTarget` with the value that switches a
feature off.  All variants of a model run in one process, in turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from cpu_contenders import Case, Prepare, Run, race

from plait.backends.targets import CpuTarget, host_cpu
from plait.ir.errors import InputError, did_you_mean

#: (label, fields of CpuTarget with the values that switch the feature off)
LEVERS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("layouts", {"layouts": False}),
    ("Winograd", {"winograd": False}),
    ("polynomials", {"polynomials": False}),
    ("measured tiles", {"tuned": False}),
)


def without(target: CpuTarget, label: str, overrides: Mapping[str, Any]) -> CpuTarget:
    """The target with some fields changed.

    Raises:
        InputError: CpuTarget has no such field, or the values are those that it has anyway.
    """
    known = [field.name for field in fields(target)]
    for name in overrides:
        if name not in known:
            raise InputError(
                f"the lever '{label}' sets '{name}', which is no field of CpuTarget"
                + did_you_mean(name, known),
                why=f"the fields are {', '.join(known)}",
                remedy="correct LEVERS in bench/cpu_levers.py",
            )
    changed = replace(target, **overrides)
    if changed == target:
        raise InputError(
            f"the lever '{label}' changes nothing",
            why="the target has these values already",
            remedy="give the values that switch the feature off",
        )
    return changed


def measure_levers(
    case: Case, levers: tuple[tuple[str, Mapping[str, Any]], ...], **turns: Any
) -> dict[str, Any]:
    """The times of one model as compiled by default (`all on`, and `again`) and without each lever.

    Args:
        turns: options of `take_turns`.
    """
    target = host_cpu()
    targets = {"all on": target, **{label: without(target, label, off) for label, off in levers}}
    targets["again"] = target  # the same code once more: how far apart equal contenders are
    entrants = {label: _preparation(changed) for label, changed in targets.items()}
    outcomes = race(case, entrants, **turns)
    return {"model": case.name, "batch": case.batch, "threads": case.threads, "variants": outcomes}


def _preparation(target: CpuTarget) -> Prepare:
    def prepare(case: Case) -> Run:
        executable = case.compile(target)
        return lambda: executable(**case.inputs)

    return prepare
