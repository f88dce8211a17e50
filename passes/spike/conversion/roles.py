"""Which ops of a float graph become currents, neurons and read-out, and which cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from plait.ir import Constant, Graph, InputError, Op, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core, linalg, nn
from plait.passes.constants import dense_data, is_constant

Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear
#: Weighted sums.
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
#: Linear maps of one operand without weights.
LINEAR = (
    core.Reshape,
    core.Transpose,
    core.Slice,
    core.Flip,
    core.Roll,
    core.Broadcast,
    core.Pad,
    core.Sum,
    core.Mean,
    core.Neg,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Resize2d,
)
MAXIMA = (nn.MaxPool2d, core.Max)
ACTIVATIONS = (
    nn.Relu,
    nn.Relu6,
    nn.LeakyRelu,
    nn.Elu,
    nn.Selu,
    nn.Sigmoid,
    nn.Tanh,
    nn.Gelu,
    nn.Silu,
    nn.Mish,
    nn.Softplus,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Prelu,
)
#: Ops of the nn family without weights of their own, which may stand in front of the first layer and
#: behind the last one, where they are computed on numbers.
_CHEAP = (
    *ACTIVATIONS,
    nn.Softmax,
    nn.LogSoftmax,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Resize2d,
    nn.Embedding,
)


#: Places that a message names for each kind of op.
_SHOWN = 3


class Role(Enum):
    """What becomes of an op.

    NUMBERS: computed once and in front of the first layer, as it is.  NETWORK: part of the spiking network.
    READ_OUT: behind the last layer, computed as it is on means over time.
    """

    NUMBERS = "numbers"
    NETWORK = "network"
    READ_OUT = "read-out"


@dataclass(frozen=True)
class Plan:
    """Roles of all top-level ops, and the neurons among those of the network."""

    roles: dict[Op, Role]
    neurons: tuple[Op, ...]

    def within(self, op: object) -> bool:
        """Whether something that reads a value is an op of the spiking network."""
        return isinstance(op, Op) and self.roles.get(op) is Role.NETWORK


def is_neuron(op: Op) -> bool:
    """Whether an op rectifies: zero below zero, and linear above up to a bound."""
    return isinstance(op, (nn.Relu, nn.Relu6)) or (isinstance(op, core.Clamp) and op.low == 0.0)


def bound_of(op: Op) -> float | None:
    """The largest activation that a neuron may take."""
    return 6.0 if isinstance(op, nn.Relu6) else op.high if isinstance(op, core.Clamp) else None


def plan(graph: Graph, *, coded: bool = False) -> Plan:
    """Roles of the ops of a graph without fused activations.

    Args:
        coded: whether inputs are coded by spikes, so that the network begins at once.

    Raises:
        InputError: with all ops of the network that have no spiking counterpart, or when no activation lies
            between two layers.
    """
    needed: set[Op] = set()  # ops that a layer needs, and layers
    for op in reversed(graph.body):
        if _is_heavy(op) or any(user in needed for value in op.results for user in value.users):
            needed.add(op)
    roles: dict[Op, Role] = {}
    for op in graph.ops:
        plain = not _is_heavy(op) and all(_is_plain(value, roles, coded) for value in op.operands)
        if plain:
            roles[op] = Role.NUMBERS
        else:
            roles[op] = Role.NETWORK if op in needed else Role.READ_OUT
    network = [op for op in roles if roles[op] is Role.NETWORK]
    _refuse(graph, network)
    neurons = tuple(op for op in network if is_neuron(op))
    if not neurons:
        raise InputError(
            f"graph @{graph.name} has no neurons",
            why="nn.relu, nn.relu6 and core.clamp from 0 on become neurons in front of a layer, and none is",
            remedy="convert a network with rectified activations",
        )
    return Plan(roles, neurons)


def _is_heavy(op: Op) -> bool:
    """Whether an op does work that belongs into the spiking network."""
    return bool(op.regions) or not (op.opname.startswith("core.") or isinstance(op, _CHEAP))


def _is_plain(value: Value, roles: dict[Op, Role], coded: bool) -> bool:
    if value.producer is not None:
        return roles[value.producer] is Role.NUMBERS
    return isinstance(value, Constant) or not coded


# -- what cannot be converted -----------------------------------------------------------
def _refuse(graph: Graph, network: list[Op]) -> None:
    """Raise InputError with all ops that have no spiking counterpart."""
    found: dict[tuple[str, str, str], list[Op]] = {}
    for op in network:
        problem = _problem(op)
        if problem is not None:
            found.setdefault((op.opname, *problem), []).append(op)
    if not found:
        return
    lines = []
    for (name, why, remedy), ops in found.items():
        places = [f"%{op.name} ({op.loc.readable()})" for op in ops[:_SHOWN]]
        if len(ops) > _SHOWN:
            places.append(f"{len(ops) - _SHOWN} more")
        lines.append(f"{name} x {len(ops)}: {why}; {remedy}; at {', '.join(places)}")
    count = sum(map(len, found.values()))
    raise InputError(
        f"{count} op{'s' * (count > 1)} cannot be converted to spikes",
        where=f"graph @{graph.name}",
        why="\n       ".join(lines),
        remedy="what is said of each kind; what lies behind the last layer may be anything",
    )


def _problem(op: Op) -> tuple[str, str] | None:
    """Why an op of the network cannot be converted, and what to do about it; None where it can."""
    for value in (*op.operands, *op.results):
        if isinstance(value.type, TensorType) and value.type.dtype.is_float and value.type.dtype != t.f32:
            return (
                f"a value is {value.type.dtype}, and neurons compute in f32",
                "convert the model to f32 first",
            )
    for kinds, judge in _JUDGES:
        if isinstance(op, kinds):
            return judge(op)
    if isinstance(op, (*LINEAR, *MAXIMA, core.Concat)) or is_neuron(op):
        return None
    if isinstance(op, (*ACTIVATIONS, core.Clamp)):
        return "only rectified activations have a rate", "replace it by a ReLU, and train the model again"
    if isinstance(op, (nn.Softmax, nn.LogSoftmax)):
        return "a layer reads it, and rates are not normalised", "leave it to the end of the model"
    if op.opname.endswith("_norm"):
        return (
            "its statistics are those of the sample, which changes at each step",
            "use batch normalisation, which is folded into weights",
        )
    return "it is neither linear nor a rectifier", "replace it, or convert the part of the model without it"


def _judge_layer(op: Layer) -> tuple[str, str] | None:
    for value in (op.w, op.b):
        if value is not None and dense_data(value) is None:
            return "weights or bias are no dense constant with data", "load and dequantise them"
    if op.act != "none":
        return f"it applies {op.act}", "replace it by a ReLU, and train the model again"
    return None


def _judge_sum(op: core.Add | core.Sub) -> tuple[str, str] | None:
    if op.act != "none":
        return f"it applies {op.act}", "replace it by a ReLU, and train the model again"
    return None


def _judge_product(op: core.Mul | core.Div) -> tuple[str, str] | None:
    if op.act != "none":
        return f"it applies {op.act}", "replace it by a ReLU, and train the model again"
    if not is_constant(op.right) and (isinstance(op, core.Div) or not is_constant(op.left)):
        return "neither operand is constant, and rates are not multiplied", "remove the gate"
    if isinstance(op, core.Div) and is_constant(op.left):
        return "it divides by a rate", "remove the division"
    return None


def _judge_matmul(op: linalg.Matmul) -> tuple[str, str] | None:
    return "it is no product with a constant matrix on its right", "use a linear layer"


_JUDGES: tuple[tuple[tuple[type[Op], ...], Callable[..., tuple[str, str] | None]], ...] = (
    (LAYERS, _judge_layer),
    ((core.Add, core.Sub), _judge_sum),
    ((core.Mul, core.Div), _judge_product),
    ((linalg.Matmul,), _judge_matmul),
)
