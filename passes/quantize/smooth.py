"""SmoothQuant: what makes activations hard to quantise moves into the weights.

For a dense layer y = W x whose input has a few channels of large magnitude, x_j / s_j and
W[:, j] * s_j give the same y with

    s_j = max|x_j|^alpha / max|W[:, j]|^(1 - alpha),

and the division goes into the scale and bias of the normalisation, or the rows of the dense layer,
that computes x (Xiao et al. 2022, arXiv 2211.10438, equation 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from plait.ir import Constant, Graph, InputError, Op, TensorType, Value
from plait.ir.errors import did_you_mean
from plait.ir.ops import nn
from plait.passes.constants import dense_data
from plait.passes.quantize.equalize import HOMOGENEOUS, replace_parameters
from plait.passes.quantize.scheme import OpScheme

NAME = "smooth"

Norm = nn.LayerNorm | nn.RmsNorm


@dataclass(frozen=True)
class Site:
    """A value that can be smoothed: the op that computes it, and the dense layers that read it."""

    source: Norm | nn.Linear
    readers: tuple[nn.Linear, ...]


def sites_of(graph: Graph) -> dict[str, Site]:
    """The values that can be smoothed, by name.

    They are computed by a layer_norm over the last axis or an rms_norm, whose scale and bias are
    constants or absent, or by a dense layer with a homogeneous activation, and read by dense
    layers alone; all weights are constants that nothing else reads.
    """
    found = {}
    for op in graph.ops:
        if not (_normalises(op) or _scales_rows(op)):
            continue
        value = op.results[0]
        readers = [user for user in value.users if _reads_alone(user, value)]
        if readers and len(readers) == len(value.users) and value.use_count == len(readers):
            found[value.name] = Site(op, tuple(readers))  # type: ignore[arg-type]  # narrowed above
    return found


def _own(value: Value | None) -> bool:
    return value is None or (dense_data(value) is not None and value.use_count == 1)


def _normalises(op: Op) -> bool:
    if isinstance(op, nn.LayerNorm):
        return op.axes == 1 and _known_or_absent(op.scale) and _known_or_absent(op.bias)
    return isinstance(op, nn.RmsNorm) and _known_or_absent(op.scale)


def _known_or_absent(value: Value | None) -> bool:
    """Whether an optional parameter is a constant with data, or is not there."""
    return value is None or dense_data(value) is not None


def _scales_rows(op: Op) -> bool:
    return isinstance(op, nn.Linear) and op.act in HOMOGENEOUS and _own(op.w) and _own(op.b)


def _reads_alone(user: object, value: Value) -> bool:
    return (
        isinstance(user, nn.Linear)
        and user.x is value
        and _own(user.w)
        and value.producer is not None
        and user.parent is value.producer.parent
    )


def smooth(graph: Graph, maxima: Mapping[str, np.ndarray], alpha: float = 0.5) -> int:
    """Smooth the named values of an optimised float graph, in place; its outputs stay the same.

    Names stay too, though a smoothed value is scaled by channel.

    Args:
        maxima: largest magnitude of each channel, [channels], by name of the value (see
            `channel_maxima`); values that are no `sites_of` the graph are left alone.
        alpha: 1 makes the channels of the activations alike, 0 those of the weights; 0.5 shares.

    Returns:
        How many values were smoothed.

    Raises InputError for an alpha outside 0..1, a name that the graph does not have, and maxima
    of another length or that are negative or not finite.
    """
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha is {alpha}", where="smooth", why="the exponent lies in 0..1")
    names = {value.name for value in graph.values()}
    for name in maxima:
        if name not in names:
            raise InputError(f"the graph has no value %{name}{did_you_mean(name, names)}", where="smooth")
    count = 0
    for name in sites_of(graph):
        if name in maxima:
            # Smoothing one value replaces the ops around it, which may belong to another site.
            count += _smooth(graph, name, sites_of(graph)[name], np.asarray(maxima[name], np.float64), alpha)
    return count


def smooth_by_data(
    graph: Graph,
    data: Iterable[object],
    schemes: Mapping[str, OpScheme],
    alpha: float = 0.5,
    dims: Mapping[str, int] | None = None,
    limit: int | None = None,
) -> int:
    """Smooth what layers with quantised activations read, by its maxima on calibration data.

    Args:
        data: see `batches_of`.
        schemes: by name of the op; values that no quantised activation is among are left alone.

    Returns:
        How many values were smoothed.  Raises InputError as `smooth` and `channel_maxima` do.
    """
    from plait.passes.quantize.calibrate import channel_maxima  # loads torch

    chosen = [
        name
        for name, site in sites_of(graph).items()
        if any(op.name in schemes and not schemes[op.name].weight_only for op in site.readers)
    ]
    if not chosen:
        return 0
    return smooth(graph, channel_maxima(graph, data, chosen, dims=dims, limit=limit), alpha)


def _smooth(graph: Graph, name: str, site: Site, maxima: np.ndarray, alpha: float) -> bool:
    weights = {op.name: op.w.data.astype(np.float64) for op in site.readers}  # type: ignore[attr-defined]
    channels = next(iter(weights.values())).shape[1]
    if maxima.shape != (channels,) or not np.all(np.isfinite(maxima)) or np.any(maxima < 0):
        raise InputError(
            f"the maxima of %{name} are {list(maxima.shape)}",
            where="smooth",
            why=f"it has {channels} channels, and a magnitude is finite and not negative",
            remedy="measure them with channel_maxima",
        )
    heaviest = np.max([np.abs(weight).max(0) for weight in weights.values()], axis=0)
    usable = (maxima > 0) & (heaviest > 0)
    # A channel that is always zero, or that no weight reads, stays as it is.
    factor = np.where(usable, maxima, 1.0) ** alpha / np.where(usable, heaviest, 1.0) ** (1.0 - alpha)
    if np.allclose(factor, 1.0, rtol=0.0, atol=1e-6):
        return False
    for op in site.readers:
        replace_parameters(graph, op, weights[op.name] * factor, None, NAME, "smoothed")
    source = site.source
    if isinstance(source, nn.Linear):
        weight = source.w.data.astype(np.float64) / factor[:, None]  # type: ignore[attr-defined]
        bias = dense_data(source.b)
        shifted = None if bias is None else bias.astype(np.float64) / factor
        replace_parameters(graph, source, weight, shifted, NAME, "smoothed")
    else:
        _divide_norm(graph, source, factor)
    return True


def _divide_norm(graph: Graph, op: Norm, factor: np.ndarray) -> None:
    """Divide scale and bias of a normalisation by a factor for each channel."""
    kind = op.x.type
    assert isinstance(kind, TensorType)
    changes: dict[str, Value] = {}
    for field in ("scale", "bias"):
        value = getattr(op, field, None)
        data = dense_data(value)
        if data is None and field == "bias":
            continue
        wide = np.ones(len(factor)) if data is None else data.astype(np.float64)
        hint = value.name if value is not None else f"{op.name}.{field}"
        changes[field] = graph.add_constant(
            graph.free_name(f"{hint}.smoothed"), (wide / factor).astype(kind.dtype.numpy)
        )
    held = [value for value in (op.scale, getattr(op, "bias", None)) if value is not None]
    graph.replace(op, op.evolve(**changes), loc=op.loc.via(NAME))
    for value in held:
        if isinstance(value, Constant) and not value.users:
            graph.remove_constant(value)
