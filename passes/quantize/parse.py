"""Schemes and rules from text, for the command line: `int8`, `a8w4g32`, `layer1.*=float`."""

from __future__ import annotations

import re

from plait.ir import InputError
from plait.ir.errors import did_you_mean
from plait.passes.quantize.scheme import INT4_WEIGHT_ONLY, INT8, INT8_WEIGHT_ONLY, OpScheme, Scheme
from plait.passes.quantize.select import Rule

NAMED = {"int8": INT8, "int8-weights": INT8_WEIGHT_ONLY, "int4-weights": INT4_WEIGHT_ONLY}
_SHORT = re.compile(r"(?:a(?P<activation>\d+))?w(?P<weight>\d+)(?:g(?P<group>\d+))?")


def parse_scheme(text: str) -> OpScheme:
    """A scheme: a name of `NAMED`, or `[aBITS]wBITS[gGROUP]`.

    Raises InputError for other text and for widths outside 2..8.
    """
    if text in NAMED:
        return NAMED[text]
    match = _SHORT.fullmatch(text)
    if match is None:
        raise InputError(
            f"'{text}' is no scheme{did_you_mean(text, NAMED)}",
            why=f"it is one of {', '.join(NAMED)}, or like a8w4, a8w4g32 or w4g32",
        )
    bits, group = int(match["weight"]), match["group"]
    weight = Scheme(bits, axis=0, narrow=True) if group is None else Scheme(bits, group=int(group))
    activation = match["activation"]
    return OpScheme(None if activation is None else Scheme(int(activation), symmetric=False), weight)


def parse_rule(text: str) -> Rule:
    """PATTERN=SCHEME, or PATTERN=float to leave what matches alone.  Raises InputError for other text."""
    pattern, equals, scheme = text.rpartition("=")
    if not equals or not pattern:
        raise InputError(
            f"'{text}' is no rule", why="a rule is PATTERN=SCHEME", remedy="write for instance head=float"
        )
    return Rule(pattern, None if scheme == "float" else parse_scheme(scheme))
