"""Choices that measurements made, and the databases in which they are kept."""

from plait.backends.tuning.choice import Choice
from plait.backends.tuning.database import (
    Problem,
    Record,
    TuningDatabase,
    digest,
    known_choices,
    machine_of,
    read_for,
    shipped_path,
    user_path,
)

__all__ = [
    "Choice",
    "Problem",
    "Record",
    "TuningDatabase",
    "digest",
    "known_choices",
    "machine_of",
    "read_for",
    "shipped_path",
    "user_path",
]
