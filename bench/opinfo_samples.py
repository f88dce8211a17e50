"""Samples of core ATen operators, taken from torch's own OpInfo database.

The database describes public functions; a core operator is often reached only through a
decomposition.  So each function is run on its samples under a mode that applies torch's
core decompositions, and every call of a core operator is kept with its arguments.  An
operator gets the calls of the OpInfos that carry its name, else of those in `THROUGH`.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DTYPES = (torch.float32, torch.int64)
_CONVOLUTIONS = tuple(f"nn.functional.conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))
_INTERPOLATION = (
    "nn.functional.interpolate",
    "nn.functional.upsample_bilinear",
    "nn.functional.upsample_nearest",
)
_CASTS = ("float", "long", "double", "int", "bool", "half", "bfloat16", "to")
#: For operators that no OpInfo is named after: the functions that torch computes with them.
THROUGH: dict[str, tuple[str, ...]] = {
    "_adaptive_avg_pool2d": ("nn.functional.adaptive_avg_pool2d",),
    "_adaptive_avg_pool2d_backward": ("nn.functional.adaptive_avg_pool2d",),
    "_adaptive_avg_pool3d": ("nn.functional.adaptive_avg_pool3d",),
    "_cdist_forward": ("cdist",),
    "_embedding_bag": ("nn.functional.embedding_bag",),
    "_fft_c2r": ("fft.irfft", "fft.irfft2", "fft.irfftn", "fft.hfft"),
    "_fft_r2c": ("fft.rfft", "fft.rfft2", "fft.rfftn", "fft.ihfft"),
    "_local_scalar_dense": ("item",),
    "_log_softmax": ("log_softmax",),
    "_native_batch_norm_legit": ("_native_batch_norm_legit", "nn.functional.batch_norm"),
    "_native_batch_norm_legit_no_training": ("nn.functional.batch_norm",),
    "_pdist_forward": ("nn.functional.pdist",),
    "_softmax": ("softmax",),
    "_to_copy": _CASTS,
    "alias": ("positive",),
    "avg_pool2d_backward": ("nn.functional.avg_pool2d",),
    "bitwise_and": ("__rand__",),
    "clamp": ("nn.functional.interpolate",),
    "col2im": ("nn.functional.fold",),
    "convolution": _CONVOLUTIONS,
    "convolution_backward": _CONVOLUTIONS,
    "copy": ("maximum",),
    "elu": ("nn.functional.elu", "nn.functional.selu", "nn.functional.celu"),
    "embedding": ("nn.functional.embedding",),
    "embedding_dense_backward": ("nn.functional.embedding",),
    "index": ("__getitem__",),
    "max_pool2d_with_indices": ("nn.functional.max_pool2d",),
    "max_pool2d_with_indices_backward": ("nn.functional.max_pool2d",),
    "max_pool3d_with_indices": ("nn.functional.max_pool3d",),
    "native_dropout": ("nn.functional.dropout",),
    "native_group_norm": ("nn.functional.group_norm",),
    "native_group_norm_backward": ("nn.functional.group_norm",),
    "native_layer_norm_backward": ("nn.functional.layer_norm",),
    "rand": ("bernoulli", "rand_like", "nn.functional.dropout"),
    "randn": ("randn", "normal"),
    "randperm": ("randperm",),
    **{f"reflection_pad{n}d": ("nn.functional.pad",) for n in (1, 2, 3)},
    **{f"replication_pad{n}d": ("nn.functional.pad",) for n in (2, 3)},
    "upsample_bilinear2d": _INTERPOLATION,
    "upsample_nearest2d": _INTERPOLATION,
}
#: Operators that torch calls in the place of core ones, with the arguments of those that say the same.
VARIANTS: dict[str, tuple[str, Callable[..., tuple[Any, ...] | None]]] = {
    "aten._embedding_bag_forward_only.default": ("aten._embedding_bag.default", lambda *given: given),
    # It reads the memory of its argument, of which a view may show a part.
    "aten.as_strided.default": (
        "aten.as_strided.default",
        lambda x, size, stride, offset=None: (
            x.new_empty(0).set_(x.untyped_storage(), 0, (x.untyped_storage().nbytes() // x.itemsize,))
            if x.untyped_storage().nbytes() > x.numel() * x.itemsize
            else x,
            size,
            stride,
            x.storage_offset() if offset is None else offset,
        ),
    ),
    "aten.native_batch_norm.default": (
        "aten._native_batch_norm_legit_no_training.default",
        lambda x, weight, bias, mean, variance, training, momentum, epsilon: (
            None if training else (x, weight, bias, mean, variance, momentum, epsilon)
        ),
    ),
    "aten.upsample_bilinear2d.default": (
        "aten.upsample_bilinear2d.vec",
        lambda x, size, corners, *scales: (x, size, corners, None),
    ),
    "aten.upsample_nearest2d.default": (
        "aten.upsample_nearest2d.vec",
        lambda x, size, *scales: (x, size, None),
    ),
}
#: Samples above this many elements would measure memory and not coverage.
LARGEST = 1 << 22


@dataclass(frozen=True)
class Sample:
    """One call of a core operator, and the OpInfo whose sample made it."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    origin: str
    dtype: torch.dtype

    def __str__(self) -> str:
        text = ", ".join([*map(_short, self.args), *(f"{k}={_short(v)}" for k, v in self.kwargs.items())])
        return f"({text}) from {self.origin}"


@lru_cache(maxsize=1)
def core_operators() -> dict[str, torch._ops.OpOverload]:
    """Every overload of the ATen library with the tag `core`, by name."""
    found = {}
    for qualified in sorted(torch._C._dispatch_get_all_op_names()):
        library, _, name = qualified.partition("::")
        packet, _, overload = name.partition(".")
        if library == "aten":
            operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
            if torch.Tag.core in operator.tags:
                found[str(operator)] = operator
    return found


@lru_cache(maxsize=1)
def decompositions() -> dict[Any, Any]:
    """Torch's decompositions to core operators."""
    return dict(torch._decomp.core_aten_decompositions())


class Recorder(TorchDispatchMode):
    """Runs calls in decomposed form and keeps those of core operators."""

    def __init__(self, table: dict[Any, Any]) -> None:
        super().__init__()
        self.table = table
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if str(operator) in VARIANTS:
            name, form = VARIANTS[str(operator)]
            given = form(*args, **kwargs)
            if given is not None:
                self.calls.append((name, tree_map(_kept, given), {}))
            return operator(*args, **kwargs)
        if torch.Tag.core in operator.tags:
            # Kept as they are before the call: some operators write into their arguments.
            kept, named = tree_map(_kept, (tuple(args), dict(kwargs)))
            self.calls.append((str(operator), kept, named))
            return operator(*args, **kwargs)
        if operator in self.table:
            with self:
                found = self.table[operator](*args, **kwargs)
            if found is not NotImplemented:
                return found
        return operator(*args, **kwargs)


def record(wanted: set[str] | None = None, seed: int = 0) -> dict[str, list[Sample]]:
    """Distinct samples by core operator.

    Two calls are the same where shapes, strides, element types, integers and all other
    arguments agree.

    Args:
        wanted: names of operators; all core operators by default.
    """
    import torch.testing._internal.common_methods_invocations as database

    core = {name for name in core_operators() if wanted is None or name in wanted}
    readers: dict[str, set[str]] = {}  # by function, the packets that its calls count for
    names = {info.name for info in database.op_db}
    packets = {name.split(".")[1] for name in core}
    for info in database.op_db:
        for packet in packets & {
            info.aten_name,
            info.name.rpartition(".")[2],
            *(a.name for a in info.aliases),
        }:
            readers.setdefault(info.name, set()).add(packet)
    for packet in packets:
        for function in THROUGH.get(packet, ()):
            if function in names:
                readers.setdefault(function, set()).add(packet)

    found: dict[str, dict[str, Sample]] = {}
    spare: dict[str, dict[str, Sample]] = {}
    for info in database.op_db:
        kept = readers.get(info.name, set())
        for dtype in DTYPES if kept else ():
            if dtype not in info.supported_dtypes("cpu"):
                continue
            torch.manual_seed(seed)
            backward = any("backward" in packet for packet in kept)
            for name, args, kwargs in _calls(info, dtype, backward):
                if name not in core or name.split(".")[1] not in kept:
                    continue
                if any(isinstance(x, torch.Tensor) and x.numel() > LARGEST for x in tree_flatten(args)[0]):
                    continue
                sample = Sample(args, kwargs, info.full_name, dtype)
                found.setdefault(name, {}).setdefault(_signature(args, kwargs), sample)
    for info in database.op_db:
        kept = {n for n in core - found.keys() if n.split(".")[1] in readers.get(info.name, set())}
        for dtype in DTYPES if kept else ():
            if dtype not in info.supported_dtypes("cpu"):
                continue
            torch.manual_seed(seed)
            for name, args, kwargs in _handed(info, dtype, sorted(kept)):
                sample = Sample(args, kwargs, info.full_name, dtype)
                spare.setdefault(name, {}).setdefault(_signature(args, kwargs), sample)
    found.update(spare)
    return {name: list(found[name].values()) for name in sorted(found)}


def _handed(
    info: Any, dtype: torch.dtype, names: list[str]
) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Samples handed to operators as they are, where the operator takes them.

    Torch takes such an operator apart before any mode sees it, or wraps its scalar argument
    in a tensor.  A tensor of one element stands in for a scalar.
    """
    operators = core_operators()
    for sample in _samples(info, dtype, False):
        for name in names:
            given = (sample.input, *sample.args)
            scalars = ["number" in str(parameter.type) for parameter in operators[name]._schema.arguments]
            args = tuple(
                leaf.item() if scalar and isinstance(leaf, torch.Tensor) and leaf.numel() == 1 else leaf
                for leaf, scalar in zip(given, [*scalars, *([False] * len(given))])
            )
            try:
                operators[name](*tree_map(_kept, args), **sample.kwargs)
            except Exception:  # the sample is of another form of the function
                continue
            yield name, *tree_map(_kept, (args, dict(sample.kwargs)))


def _calls(
    info: Any, dtype: torch.dtype, backward: bool
) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Calls of core operators that the samples of one OpInfo make; those of its gradient on demand."""
    differentiable = backward and dtype in info.supported_backward_dtypes("cpu")
    table = decompositions()
    for sample in _samples(info, dtype, differentiable):
        recorder = Recorder(table)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with recorder:
                    result = info.op(sample.input, *sample.args, **sample.kwargs)
                forward = len(recorder.calls)
                leaves = [
                    r for r in tree_flatten(result)[0] if isinstance(r, torch.Tensor) and r.requires_grad
                ]
                if differentiable and leaves:
                    with recorder:
                        torch.autograd.backward(leaves, [torch.ones_like(r) for r in leaves])
            except Exception:  # the sample itself fails in torch: what ran before still counts
                forward = len(recorder.calls)
        yield from recorder.calls[:forward]
        yield from (call for call in recorder.calls[forward:] if "backward" in call[0])


def _samples(info: Any, dtype: torch.dtype, differentiable: bool) -> list[Any]:
    try:
        return list(info.sample_inputs("cpu", dtype, requires_grad=differentiable))
    except Exception:  # a handful of OpInfos need a GPU or a package that is not installed
        return []


def _kept(value: Any) -> Any:
    """A tensor apart from autograd and from later writes, with the strides it had."""
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach()
    if not value.is_contiguous() and value.layout == torch.strided and not value.is_conj():
        copy = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
        return copy.copy_(value) if _dense(value) else value.clone()
    return value.clone()


def _dense(value: torch.Tensor) -> bool:
    """Whether no two elements share memory."""
    pairs = sorted(zip(value.stride(), value.shape))
    extent = 1
    for stride, size in pairs:
        if size > 1 and stride < extent:
            return False
        extent = max(extent, stride * size)
    return True


def _signature(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Equal for calls that differ in the values of float tensors only; integers may be indices."""
    leaves, form = tree_flatten((args, kwargs))
    parts = [str(form)]
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            values = ""
            if not leaf.dtype.is_floating_point and not leaf.dtype.is_complex:
                values = (
                    hashlib.sha256(str(leaf.tolist()).encode()).hexdigest()[:16] if leaf.numel() < 512 else ""
                )
            parts.append(f"{leaf.dtype}{tuple(leaf.shape)}{leaf.stride()}{values}")
        else:
            parts.append(repr(leaf))
    return "|".join(parts)


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_short, value))}]"
    return repr(value)
