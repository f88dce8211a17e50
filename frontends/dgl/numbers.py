"""Degrees while a model is traced: numbers per node that behave as tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from plait.ir.errors import LoweringError


class Degrees:
    """In- or out-degrees [N], a tensor in every use but one.

    `(degrees == 0).any()` is false: layers refuse graphs in which a node has no edge
    by a branch on the data, which a graph of ops cannot hold.  The compiled model takes
    such nodes and gives them what the layer gives with `allow_zero_in_degree`.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return function(*map(_plain, args), **{key: _plain(v) for key, v in (kwargs or {}).items()})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tensor, name)

    def __getitem__(self, key: Any) -> Any:
        return self.tensor[_plain(key)]

    def __eq__(self, other: object) -> Any:
        compared = self.tensor == _plain(other)
        return Absent(compared) if isinstance(other, int) and other == 0 else compared

    __hash__ = None  # type: ignore[assignment]  # as a tensor is compared element by element


class Absent(Degrees):
    """Which degrees are zero: a mask of which no element counts as set."""

    def any(self) -> bool:
        """False, so that a layer does not refuse a graph that is not there yet."""
        return False


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(map(_plain, value))
    return value.tensor if isinstance(value, Degrees) else value


def _operator(name: str) -> Callable[..., Any]:
    def apply(self: Degrees, *others: Any) -> Any:
        return getattr(self.tensor, name)(*map(_plain, others))

    return apply


for _name in (
    "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "mod", "pow", "rpow",
    "neg", "ne", "lt", "le", "gt", "ge",
):  # fmt: skip
    setattr(Degrees, f"__{_name}__", _operator(f"__{_name}__"))


class NodeNumber:
    """The number of messages that each node receives [N], where a reduce function takes it for one number.

    Arithmetic with Python numbers and numpy's functions keep it so; together with a
    tensor [N, ...] it is one factor for each node.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def log(self) -> NodeNumber:
        return NodeNumber(self.tensor.log())

    def sqrt(self) -> NodeNumber:
        return NodeNumber(self.tensor.sqrt())

    def exp(self) -> NodeNumber:
        return NodeNumber(self.tensor.exp())

    def _refuse(self, *_: Any) -> NoReturn:
        raise LoweringError(
            "a reduce function takes the number of messages of a node for one number",
            why="it differs from node to node",
            remedy="use it in arithmetic only",
        )

    __bool__ = __int__ = __float__ = __index__ = _refuse

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        rank = max((arg.dim() for arg in args if isinstance(arg, torch.Tensor)), default=1)
        return function(
            *(
                arg.tensor.reshape(-1, *(1,) * (rank - 1)) if isinstance(arg, NodeNumber) else arg
                for arg in args
            ),
            **(kwargs or {}),
        )


def _arithmetic(name: str) -> Callable[..., Any]:
    def apply(self: NodeNumber, *others: Any) -> Any:
        if any(isinstance(other, torch.Tensor) for other in others):
            return NodeNumber.__torch_function__(getattr(torch.Tensor, name), (), (self, *others))
        plain = (other.tensor if isinstance(other, NodeNumber) else other for other in others)
        return NodeNumber(getattr(self.tensor, name)(*plain))

    return apply


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "neg"):
    setattr(NodeNumber, f"__{_name}__", _arithmetic(f"__{_name}__"))
