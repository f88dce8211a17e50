"""SSA values: op results, region parameters and constants, each with its use list."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Union

import numpy as np

from plait.ir.errors import InputError
from plait.ir.types import GraphType, QuantType, ShapedType, Type

if TYPE_CHECKING:
    from plait.ir.op import Op
    from plait.ir.region import Region

User = Union["Op", "Region"]


class Value:
    """A typed value, defined once.

    Attributes:
        name: unique in its graph; printed as `%name`.
        type: its IR type.
        producer: the op that computes it; None for parameters and constants.
    """

    __slots__ = ("_name", "_users", "producer", "region", "type")

    def __init__(self, name: str, type: Type, producer: Op | None = None) -> None:
        self._name = name
        self.type = type
        self.producer = producer
        self.region: Region | None = None  # the region whose parameter this is
        self._users: dict[User, int] = {}  # user -> how often it reads the value

    @property
    def name(self) -> str:
        return self._name

    @property
    def users(self) -> tuple[User, ...]:
        """Ops that read the value, and regions that return it, in the order they were linked."""
        return tuple(self._users)

    @property
    def use_count(self) -> int:
        """How many operand slots and region results hold the value."""
        return sum(self._users.values())

    @property
    def shaped(self) -> ShapedType:
        """The type as a tensor type.  Raises TypeError for a graph value."""
        if not isinstance(self.type, ShapedType):
            raise TypeError(f"{self} is {self.type}, not a tensor")
        return self.type

    @property
    def graph_type(self) -> GraphType:
        """The type as a graph type.  Raises TypeError for a tensor."""
        if not isinstance(self.type, GraphType):
            raise TypeError(f"{self} is {self.type}, not a graph")
        return self.type

    def add_use(self, user: User) -> None:
        """Record one more read by `user`; only graph mutation calls this."""
        self._users[user] = self._users.get(user, 0) + 1

    def drop_use(self, user: User) -> None:
        """Forget one read by `user`; only graph mutation calls this."""
        count = self._users[user] - 1
        if count:
            self._users[user] = count
        else:
            del self._users[user]

    def __str__(self) -> str:
        return f"%{self._name}"

    def __repr__(self) -> str:
        return f"<{self} : {self.type}>"


class Constant(Value):
    """A tensor known at compile time, identified by the hash of its content.

    The text of a graph carries only the hash; `data` is None where the graph
    was parsed from text without its sidecar.
    """

    __slots__ = ("_data", "_hash")

    def __init__(
        self, name: str, type: Type, data: np.ndarray | None, content_hash: str | None = None
    ) -> None:
        super().__init__(name, type)
        self._data = data
        self._hash = content_hash

    @property
    def has_data(self) -> bool:
        return self._data is not None

    @property
    def data(self) -> np.ndarray:
        """The array, read only.  Raises InputError where only the hash is known."""
        if self._data is None:
            raise InputError(
                f"constant {self} has no data",
                why="the graph was parsed from text, which carries hashes only",
                remedy="load the archive with plait.load(), or pass constants= to plait.parse()",
            )
        return self._data

    def attach(self, data: np.ndarray) -> None:
        """Give data to a constant that was parsed from text.  Raises InputError where it does not fit."""
        check_constant(self.name, self.type, data)
        self._data = data.view()
        self._data.flags.writeable = False

    @property
    def content_hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of element type, shape and bytes."""
        if self._hash is None:
            self._hash = hash_content(self.data)
        return self._hash

    def __str__(self) -> str:
        return f"@{self._name}"


def hash_content(array: np.ndarray) -> str:
    """Content hash of an array: 16 hexadecimal digits."""
    contiguous = np.asarray(array, order="C")
    digest = hashlib.sha256(f"{contiguous.dtype.name}{contiguous.shape}".encode())
    if contiguous.size:
        digest.update(contiguous.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


def check_constant(name: str, type: Type, array: np.ndarray) -> None:
    """Raise InputError unless `array` can be the data of a constant of `type`."""
    if not isinstance(type, ShapedType):
        raise InputError(f"constant @{name} cannot be {type}", why="constants are tensors")
    if type.symbols:
        raise InputError(
            f"constant @{name} : {type} has symbolic dims",
            why="the shape of a constant is known",
            remedy=f"declare it as {type.with_shape(tuple(array.shape))}",
        )
    expected = type.dtype.numpy
    if array.dtype != expected or tuple(array.shape) != type.shape:
        raise InputError(
            f"data of constant @{name} is {array.dtype}{list(array.shape)}",
            why=f"its type {type} wants {expected}{list(type.shape)}",
            remedy="pass matching data, or another type",
        )
    if isinstance(type, QuantType) and array.size:
        low, high = type.range
        if array.min() < low or array.max() > high:
            raise InputError(
                f"data of constant @{name} leaves {low}..{high}", why=f"that is the range of {type}"
            )
