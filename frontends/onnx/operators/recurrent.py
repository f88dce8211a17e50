"""LSTM, GRU and RNN: core.scan over time, one for each direction.

The products with the inputs of all steps are one matrix product before the loop.
Shapes: X [T, B, I], W [D, G H, I], R [D, G H, H], B [D, 2 G H], states [D, B, H];
with layout=1 the batch is in front.  G is the number of gates, D of directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.registry import lowers
from plait.ir import TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core, nn

Activation = Callable[[Value], Value]

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
#: Activations that take alpha and beta, with ONNX's defaults.
_ALPHA = {
    "affine": 1.0,
    "leakyrelu": 0.01,
    "thresholdedrelu": 1.0,
    "scaledtanh": 1.0,
    "hardsigmoid": 0.2,
    "elu": 1.0,
}
_BETA = {"affine": 0.0, "scaledtanh": 1.0, "hardsigmoid": 0.5}


def _activation(call: Call, name: str, alpha: float, beta: float) -> Activation:
    """An activation as a function that emits it."""
    step = call.step

    def scaled(x: Value, factor: float) -> Value:
        return x if factor == 1.0 else step(core.Mul(x, call.scalar_like(factor, x)))

    made: dict[str, Activation] = {
        "relu": lambda x: step(nn.Relu(x)),
        "tanh": lambda x: step(nn.Tanh(x)),
        "sigmoid": lambda x: step(nn.Sigmoid(x)),
        "softplus": lambda x: step(nn.Softplus(x)),
        "elu": lambda x: step(nn.Elu(x, alpha=alpha)),
        "leakyrelu": lambda x: step(nn.LeakyRelu(x, alpha=alpha)),
        "hardsigmoid": lambda x: step(nn.Hardsigmoid(x, alpha=alpha, beta=beta)),
        "scaledtanh": lambda x: scaled(step(nn.Tanh(scaled(x, beta))), alpha),
        "affine": lambda x: step(core.Add(scaled(x, alpha), call.scalar_like(beta, x))),
        "softsign": lambda x: step(core.Div(x, step(core.Add(step(core.Abs(x)), call.scalar_like(1.0, x))))),
        "thresholdedrelu": lambda x: step(
            core.Where(step(core.Gt(x, call.scalar_like(alpha, x))), x, call.scalar_like(0.0, x))
        ),
    }
    if name not in made:
        raise call.unsupported(f"{call.op_type} with activation '{name}'")
    return made[name]


def _activations(call: Call, directions: int) -> list[list[Activation]]:
    """The activations of each direction; alpha and beta are consumed by those that take them."""
    defaults = _DEFAULTS[call.op_type]
    names = [str(n).lower() for n in call.attributes.get("activations", defaults * directions)]
    if len(names) != len(defaults) * directions:
        raise call.error(
            f"{len(names)} activations are given", why=f"{len(defaults)} for each direction are wanted"
        )
    alphas = iter(call.attributes.get("activation_alpha", ()))
    betas = iter(call.attributes.get("activation_beta", ()))
    size = len(defaults)
    clip = call.number_attribute("clip", 0.0) if "clip" in call.attributes else None
    found = []
    for place, name in enumerate(names):
        alpha = float(next(alphas, _ALPHA[name])) if name in _ALPHA else 0.0
        beta = float(next(betas, _BETA[name])) if name in _BETA else 0.0
        # The cell state is not clipped on its way out, as in ONNX Runtime.
        of_cell = place % size == 2
        activation = _activation(call, name, alpha, beta)
        found.append(activation if of_cell else _clipped(call, activation, clip))
    return [found[i * size : (i + 1) * size] for i in range(directions)]


def _clipped(call: Call, activation: Activation, clip: float | None) -> Activation:
    """The activation of its input limited to -clip..clip."""
    if clip is None:
        return activation
    return lambda x: activation(call.step(core.Clamp(x, low=-clip, high=clip)))


@dataclass(frozen=True)
class _Weights:
    """One direction: recurrent weights [G H, H], their bias [G H] where given, peepholes [3 H]."""

    recurrent: Value
    bias: Value | None
    peepholes: Value | None


def _part(call: Call, x: Value, axis: int, index: int, size: t.IntLike) -> Value:
    """The `index`-th of equal parts along an axis."""
    return call.step(core.Slice(x, axes=(axis,), starts=(index * size,), stops=((index + 1) * size,)))


def _of_direction(call: Call, index: int, direction: int) -> Value:
    """Input `index` without its axis of directions, which is the first."""
    x = call.value(index)
    if x.shaped.shape[0] != 1:
        x = _part(call, x, 0, direction, 1)
    return call.reshape(x, x.shaped.shape[1:])


@lowers("RNN", "GRU", "LSTM", since=7)
def recurrent(call: Call) -> list[Value | None]:
    direction = call.text("direction", "forward")
    reversals = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}.get(direction)
    if reversals is None:
        raise call.error(f"direction is '{direction}'", why="it is forward, reverse or bidirectional")
    batch_first = bool(call.integer("layout", 0))
    x = call.value(0)
    if batch_first:
        x = call.transpose(x, (1, 0, 2))
    activations = _activations(call, len(reversals))
    hidden = call.shape(2)[2]
    states = [_initial(call, x, hidden, index, batch_first) for index in _state_inputs(call)]
    mask = _mask(call, x)
    rows, lasts = [], []
    for number, (backwards, functions) in enumerate(zip(reversals, activations, strict=True)):
        initial = [_state_of(call, state, number) for state in states]
        stacked, last = _run(call, x, mask, backwards, number, initial, functions)
        length, batch, _ = stacked.shaped.shape
        rows.append(call.reshape(stacked, (length, 1, batch, hidden)))
        lasts.append([call.reshape(value, (1, batch, hidden)) for value in last])
    y = rows[0] if len(rows) == 1 else call.step(core.Concat(tuple(rows), axis=1))
    finals = []
    for parts in zip(*lasts, strict=True):
        final = parts[0] if len(parts) == 1 else call.step(core.Concat(tuple(parts), axis=0))
        finals.append(call.transpose(final, (1, 0, 2)) if batch_first else final)
    if batch_first:
        y = call.transpose(y, (2, 0, 1, 3))
    return [y, *finals]


def _state_inputs(call: Call) -> tuple[int, ...]:
    return (5, 6) if call.op_type == "LSTM" else (5,)


def _initial(call: Call, x: Value, hidden: t.IntLike, index: int, batch_first: bool) -> Value:
    """The initial states [D, B, H]: input `index`, or zeros [B, H] for all directions."""
    if not call.has(index):
        return call.full(0.0, x.shaped.dtype, (x.shaped.shape[1], hidden))
    state = call.value(index)
    return call.transpose(state, (1, 0, 2)) if batch_first else state


def _state_of(call: Call, state: Value, direction: int) -> Value:
    if state.shaped.rank == 2:
        return state
    if state.shaped.shape[0] != 1:
        state = _part(call, state, 0, direction, 1)
    return call.reshape(state, state.shaped.shape[1:])


def _mask(call: Call, x: Value) -> Value | None:
    """Which steps belong to which sequence, bool [T, B, 1]; None where all do."""
    if not call.has(4):
        return None
    length, batch, _ = x.shaped.shape
    known = call.operand(4).array
    if known is not None and isinstance(length, int) and np.all(known == length):
        return None
    lengths = call.reshape(call.cast(call.value(4), t.i32), (1, batch))
    steps = call.step(core.Iota(out=TensorType(t.i32, (length, 1))))
    return call.reshape(call.step(core.Lt(steps, lengths)), (length, batch, 1))


def _run(
    call: Call,
    x: Value,
    mask: Value | None,
    backwards: bool,
    direction: int,
    initial: Sequence[Value],
    functions: Sequence[Activation],
) -> tuple[Value, tuple[Value, ...]]:
    """All steps of one direction: the hidden states [T, B, H] and the last states [B, H].

    A sequence that is over keeps its state; backwards it starts when its last step is reached.
    """
    gates = _GATES[call.op_type] * call.shape(2)[2]
    bias = _of_direction(call, 3, direction) if call.has(3) else None
    w_bias = None if bias is None else _part(call, bias, 0, 0, gates)
    r_bias = None if bias is None else _part(call, bias, 0, 1, gates)
    peepholes = _of_direction(call, 7, direction) if call.op_type == "LSTM" and call.has(7) else None
    weights = _Weights(_of_direction(call, 2, direction), r_bias, peepholes)
    projected = call.step(nn.Linear(x, _of_direction(call, 1, direction), w_bias))
    sequences = [projected] if mask is None else [projected, mask]
    if backwards:
        sequences = [call.step(core.Flip(value, axes=(0,))) for value in sequences]
    slices = [value.shaped.with_shape(value.shaped.shape[1:]) for value in sequences]
    region = call.builder.region([*slices, *(value.type for value in initial)], f"{call.name}.step")
    with call.builder.inside(region):
        given, old = region.params[: len(slices)], region.params[len(slices) :]
        new = _STEPS[call.op_type](call, given[0], old, weights, functions)
        shown = new[0]
        if mask is not None:
            new = [call.step(core.Where(given[1], a, b)) for a, b in zip(new, old, strict=True)]
            shown = call.step(core.Where(given[1], shown, call.scalar_like(0.0, shown)))
        region.set_results([shown, *new])
    op = call.builder.add(core.Scan((*sequences, *initial), carries=len(initial), body=region), call.name)
    stacked = op.results[0]
    return (call.step(core.Flip(stacked, axes=(0,))) if backwards else stacked), op.results[1:]


# -- steps ------------------------------------------------------------------------
def _rnn_step(
    call: Call, x: Value, old: Sequence[Value], weights: _Weights, functions: Sequence[Activation]
) -> list[Value]:
    """h' = f(x W + h R + b)."""
    turned = call.step(nn.Linear(old[0], weights.recurrent, weights.bias))
    return [functions[0](call.step(core.Add(x, turned)))]


def _gru_step(
    call: Call, x: Value, old: Sequence[Value], weights: _Weights, functions: Sequence[Activation]
) -> list[Value]:
    """z, r = f(..), n = g(..), h' = (1 - z) n + z h (Cho et al. 2014); gates in the order z, r, n."""
    (hidden,) = old
    size = hidden.shaped.shape[1]
    f, g = functions

    def rows(parameter: Value, first: int, last: int) -> Value:
        return call.step(core.Slice(parameter, axes=(0,), starts=(first * size,), stops=(last * size,)))

    def turned(value: Value, first: int, last: int) -> Value:
        bias = None if weights.bias is None else rows(weights.bias, first, last)
        return call.step(nn.Linear(value, rows(weights.recurrent, first, last), bias))

    both = f(
        call.step(
            core.Add(
                call.step(core.Slice(x, axes=(1,), starts=(0,), stops=(2 * size,))), turned(hidden, 0, 2)
            )
        )
    )
    update, reset = _part(call, both, 1, 0, size), _part(call, both, 1, 1, size)
    if call.integer("linear_before_reset", 0):
        past = call.step(core.Mul(reset, turned(hidden, 2, 3)))
    else:
        past = turned(call.step(core.Mul(reset, hidden)), 2, 3)
    candidate = g(call.step(core.Add(_part(call, x, 1, 2, size), past)))
    # (1 - z) n + z h = n + z (h - n)
    change = call.step(core.Mul(update, call.step(core.Sub(hidden, candidate))))
    return [call.step(core.Add(candidate, change))]


def _lstm_step(
    call: Call, x: Value, old: Sequence[Value], weights: _Weights, functions: Sequence[Activation]
) -> list[Value]:
    """c' = f c + i g(..), h' = o h(c') (Gers et al. 2000); gates in the order i, o, f, c."""
    hidden, cell = old
    size = hidden.shaped.shape[1]
    f, g, h = functions
    total = call.step(core.Add(x, call.step(nn.Linear(hidden, weights.recurrent, weights.bias))))

    def gate(index: int, state: Value) -> Value:
        value = _part(call, total, 1, index, size)
        if weights.peepholes is not None:
            seen = call.step(core.Mul(_part(call, weights.peepholes, 0, index, size), state))
            value = call.step(core.Add(value, seen))
        return f(value)

    inward = gate(0, cell)
    if call.integer("input_forget", 0):
        forget = call.step(core.Sub(call.scalar_like(1.0, inward), inward))
    else:
        forget = gate(2, cell)
    kept = call.step(core.Mul(forget, cell))
    written = call.step(core.Mul(inward, g(_part(call, total, 1, 3, size))))
    new_cell = call.step(core.Add(kept, written))
    return [call.step(core.Mul(gate(1, new_cell), h(new_cell))), new_cell]


_STEPS = {"RNN": _rnn_step, "GRU": _gru_step, "LSTM": _lstm_step}
