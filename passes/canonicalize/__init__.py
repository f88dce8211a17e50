"""canonicalize: one form for what can be written in several, and nothing that does nothing."""

from plait.passes.canonicalize import activation, arithmetic, movement
from plait.passes.canonicalize.definition import Canonicalize

__all__ = ["Canonicalize", "activation", "arithmetic", "movement"]
