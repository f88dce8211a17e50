"""The block of memory that holds the intermediate arrays of a compiled graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Arrays start at multiples of so many bytes, which vectors and caches like.
ALIGNMENT = 64


@dataclass(frozen=True)
class Place:
    """Where one array lies in the block.

    Attributes:
        offset: of its first byte.
        shape: its extents.
        dtype: its element type, by TVM's name.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Arena:
    """All arrays of the block; some share bytes, since they do not live at the same time.

    Attributes:
        bytes: size of the block.
        places: one for each array, in the order in which the code takes them.
    """

    bytes: int
    places: tuple[Place, ...]

    def allocate(self) -> list[np.ndarray]:
        """The arrays over a new block, their elements undefined."""
        block = np.empty(self.bytes + ALIGNMENT, np.uint8)
        start = -block.ctypes.data % ALIGNMENT
        found = []
        for place in self.places:
            dtype = _numpy_type(place.dtype)
            count = int(np.prod(place.shape, dtype=np.int64)) * dtype.itemsize
            first = start + place.offset
            found.append(block[first : first + count].view(dtype).reshape(place.shape))
        return found

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON can hold them."""
        return {"bytes": self.bytes, "places": [[p.offset, list(p.shape), p.dtype] for p in self.places]}

    @staticmethod
    def from_dict(entry: Mapping[str, Any]) -> Arena:
        """The arena that `to_dict` described.  Raises KeyError, TypeError or ValueError on other fields."""
        places = tuple(Place(int(o), tuple(map(int, s)), str(d)) for o, s, d in entry["places"])
        size = int(entry["bytes"])
        for place in places:
            needed = int(np.prod(place.shape, dtype=np.int64)) * _numpy_type(place.dtype).itemsize
            if place.offset < 0 or place.offset % ALIGNMENT or place.offset + needed > size:
                raise ValueError(f"an array at {place.offset} of {needed} bytes leaves the block of {size}")
        return Arena(size, places)


def _numpy_type(name: str) -> np.dtype[Any]:
    if name == "bool":
        return np.dtype(np.bool_)
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))


__all__ = ["ALIGNMENT", "Arena", "Place"]
