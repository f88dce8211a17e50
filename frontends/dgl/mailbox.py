"""The messages that a user-defined reduce function receives, of as many rows as each node has edges.

DGL calls such a function once for each degree, with messages [nodes, degree, ...].
Here it is called once with a `Mail`, which holds the rows of all edges [E, ...]:
elementwise functions act on the rows, and reductions over dim 1 reduce at the
destinations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from plait.frontends.dgl import operators
from plait.frontends.dgl.numbers import NodeNumber
from plait.ir.errors import LoweringError

if TYPE_CHECKING:
    from plait.frontends.dgl.traced import Relation

#: Functions whose result at a row depends on that row only.
_BY_ROW = frozenset(
    (
        "abs", "add", "clamp", "cos", "div", "dropout", "elu", "exp", "float", "gelu", "layer_norm",
        "leaky_relu", "linear", "log", "mul", "neg", "pow", "reciprocal", "relu", "rsqrt", "rsub", "sigmoid",
        "sign", "silu", "sin", "softplus", "sqrt", "square", "sub", "tanh", "to", "true_divide", "type",
    )
)  # fmt: skip
_REDUCTIONS = {"sum": "sum", "mean": "mean", "max": "max", "min": "min", "amax": "max", "amin": "min"}
#: Names of operators that are methods of tensors only.
_DUNDER = {"truediv": "div", "rtruediv": "div", "radd": "add", "rmul": "mul", "rsub": "rsub", "rpow": "pow"}


class Mail:
    """Messages [N, degree, ...] as rows of the edges [E, ...]."""

    def __init__(self, relation: Relation, rows: torch.Tensor) -> None:
        self.relation, self.rows = relation, rows

    # -- what it says of itself -----------------------------------------------------------
    @property
    def shape(self) -> tuple[Any, ...]:
        return (self.relation.nodes, self.degrees(), *self.rows.shape[1:])

    def size(self, axis: int | None = None) -> Any:
        """The shape, or one size of it."""
        return self.shape if axis is None else self.shape[axis]

    def dim(self) -> int:
        """Number of axes."""
        return self.rows.dim() + 1

    @property
    def dtype(self) -> torch.dtype:
        return self.rows.dtype

    @property
    def device(self) -> torch.device:
        return self.rows.device

    def degrees(self) -> NodeNumber:
        """The number of messages of each node, at least 1 as it is where a node has any."""
        found = operators.degree(self.relation.topology, self.relation.nodes, "dst")
        return NodeNumber(found.clamp(min=1).to(self.rows.dtype))

    # -- functions ---------------------------------------------------------------------------
    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        options = dict(kwargs or {})
        name = getattr(function, "__name__", str(function)).strip("_")
        name = _DUNDER.get(name, name)
        if name == "cat":
            return _joined(*args, **options)
        mail = next(arg for arg in (*args, *options.values()) if isinstance(arg, Mail))
        if name in (*_REDUCTIONS, "softmax", "var", "std") and args[0] is mail:
            return _reduced(mail, name, *args[1:], **options)
        if name == "unsqueeze" and args[1] in (-1, mail.dim()):
            return Mail(mail.relation, mail.rows.unsqueeze(-1))
        if name in _BY_ROW:
            rows = [mail._aligned(arg) for arg in args]
            return Mail(mail.relation, function(*rows, **options))
        raise LoweringError(
            f"a reduce function calls {name} on its messages",
            why="messages of nodes with different numbers of edges lie in one tensor of edges",
            remedy="use elementwise functions, and sum, mean, max, min, var, std or softmax over dim 1",
        )

    def __getitem__(self, key: Any) -> Mail:
        """Features picked from each message: mail[:, :, feature]."""
        if not isinstance(key, tuple) or any(k != slice(None) for k in key[:2]) or Ellipsis in key:
            raise LoweringError(
                "a reduce function picks some of its messages", why="messages have no place of their own"
            )
        places = (slice(None), *key[2:])
        return Mail(self.relation, self.rows[places])

    def _aligned(self, value: Any) -> Any:
        """An argument as it meets the rows: of nodes with a kept dim 1 gathered, others as they are."""
        if isinstance(value, Mail):
            return value.rows
        if isinstance(value, NodeNumber):
            value = value.tensor.reshape(-1, *(1,) * self.rows.dim())
        if isinstance(value, torch.Tensor) and value.dim() == self.dim():
            if value.shape[1] != 1:
                raise LoweringError("messages meet a tensor of another number of rows for each node")
            rows = value.reshape(value.shape[0], *value.shape[2:])
            return operators.gather(self.relation.topology, rows, "dst")
        return value

    def __getattr__(self, name: str) -> Any:
        method = getattr(torch.Tensor, name)
        if name.startswith("__") or not callable(method):
            raise AttributeError(name)
        return lambda *args, **options: Mail.__torch_function__(method, (), (self, *args), options)


def _operator(name: str) -> Callable[..., Any]:
    def apply(self: Mail, *others: Any) -> Any:
        return Mail.__torch_function__(getattr(torch.Tensor, name), (), (self, *others))

    return apply


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "neg"):
    setattr(Mail, f"__{_name}__", _operator(f"__{_name}__"))


def _joined(parts: Any, dim: int = 0) -> Mail:
    """Messages joined along a feature axis."""
    mail = parts[0]
    if not all(isinstance(part, Mail) for part in parts) or dim in (0, 1, -mail.dim(), 1 - mail.dim()):
        raise LoweringError("a reduce function joins messages of different edges")
    return Mail(mail.relation, torch.cat([part.rows for part in parts], dim - 1 if dim > 0 else dim))


def _reduced(mail: Mail, name: str, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
    """A reduction over dim 1 at the destinations; over a later axis row by row."""
    axis = dim[0] if isinstance(dim, (tuple, list)) and len(dim) == 1 else dim
    if not isinstance(axis, int) or axis % mail.dim() == 0:
        raise LoweringError(
            f"a reduce function takes {name} over dim {dim}",
            why="messages are reduced node by node",
            remedy="pass dim=1",
        )
    axis %= mail.dim()
    if axis > 1:
        rows = getattr(torch, name)(mail.rows, axis - 1, **({"keepdim": True} if keepdim else {}), **options)
        return Mail(mail.relation, rows)
    topology, nodes = mail.relation.topology, mail.relation.nodes
    if name == "softmax":
        return Mail(mail.relation, operators.edge_softmax(topology, nodes, mail.rows, "dst"))
    if name in ("var", "std"):
        found = _variance(mail, **options)
        found = found.sqrt() if name == "std" else found
    else:
        found = operators.segment_reduce(topology, nodes, mail.rows, _REDUCTIONS[name])
    found = found.unsqueeze(1) if keepdim else found
    return Extremes(found) if name in ("max", "min") else found


def _variance(mail: Mail, unbiased: bool = True, correction: int | None = None) -> torch.Tensor:
    """Variance of the messages of each node."""
    topology, nodes = mail.relation.topology, mail.relation.nodes
    mean = operators.segment_reduce(topology, nodes, mail.rows, "mean")
    off = mail.rows - operators.gather(topology, mean, "dst")
    total = operators.segment_reduce(topology, nodes, off * off, "sum")
    count = mail.degrees().tensor.reshape(-1, *(1,) * (total.dim() - 1))
    return total / (count - (int(unbiased) if correction is None else correction))


class Extremes:
    """What torch.max over a dim returns; only its values exist."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def __getitem__(self, position: int) -> torch.Tensor:
        if position == 0:
            return self.values
        raise LoweringError(
            "a reduce function asks which message is the largest", why="messages have no place of their own"
        )

    def __iter__(self) -> Any:
        return iter((self[0], None))
