"""Dynamic dims of a call: names and ranges, sizes of the examples, and torch.export's form of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from plait.frontends.pytorch.arguments import Call
from plait.ir.dims import Dim, IntLike, evaluate, parse_dim, symbols_of
from plait.ir.errors import LoweringError

#: A dim name or simple expression such as "2*B", or (name, low, high) with high None for unbounded.
DimSpec = str | tuple[str, int, int | None]
#: By input name (the parameter of forward, with the path behind it for a nested one), then by axis.
DynamicSpec = Mapping[str, Mapping[int, DimSpec]]

#: Below this size torch specialises a dim, so examples are made at least this large.
SMALLEST_EXAMPLE = 2
#: Sizes for a second attempt, one per dim name: B - 1 or B // 2 of a small example may be 0 or 1, which
#: torch specialises too, and primes coincide with no other size by chance.
_LARGER_EXAMPLES = (11, 13, 17, 19, 23, 29)


@dataclass
class DynamicDims:
    """The dynamic dims of a call, parsed: sizes by (input, axis), and symbol ranges."""

    sizes: dict[str, dict[int, IntLike]] = field(default_factory=dict)
    ranges: dict[str, tuple[int, int | None]] = field(default_factory=dict)

    @staticmethod
    def parse(dynamic: DynamicSpec | None) -> DynamicDims:
        """Raises LoweringError for a malformed expression or two ranges for one name."""
        found = DynamicDims()
        for parameter, axes in (dynamic or {}).items():
            for axis, spec in axes.items():
                text, bounds = (spec, None) if isinstance(spec, str) else (spec[0], (spec[1], spec[2]))
                size = _parse_size(parameter, axis, text)
                found.sizes.setdefault(parameter, {})[axis] = size
                for symbol in symbols_of(size):
                    known = found.ranges.get(symbol, (1, None))
                    if bounds is not None and known not in ((1, None), bounds):
                        raise LoweringError(
                            f"dynamic dim {symbol} has two ranges, {known} and {bounds}",
                            where=f"{parameter} axis {axis}",
                            why="inputs that share a name share one size",
                            remedy="give one range, or different names",
                        )
                    found.ranges[symbol] = bounds or known
        return found

    def __iter__(self) -> Iterator[tuple[str, int, IntLike]]:
        for parameter, axes in self.sizes.items():
            for axis, size in axes.items():
                yield parameter, axis, size

    def check_names(self, call: Call) -> None:
        """Raise LoweringError unless every input named here is one of the call."""
        unknown = sorted(set(self.sizes) - set(call.names))
        if unknown:
            raise LoweringError(
                f"dynamic= names {', '.join(map(repr, unknown))}",
                why=f"the inputs of forward are {', '.join(sorted(call.names))}",
                remedy="use the names of the parameters of forward, with the path behind a nested one: "
                "'state.hidden', 'parts.0'",
            )

    def example_sizes(self, call: Call) -> dict[str, int]:
        """The value of each dim name in the examples.  Raises LoweringError where two disagree."""
        leaves = zip(call.names, call.leaves, strict=True)
        shapes = {name: leaf.shape for name, leaf in leaves if isinstance(leaf, torch.Tensor)}
        values: dict[str, int] = {}
        for parameter, axis, size in self:
            shape = shapes.get(parameter, ())
            if not -len(shape) <= axis < len(shape):
                raise LoweringError(f"'{parameter}' has no axis {axis}", why=f"its shape is {list(shape)}")
            (root,) = symbols_of(size)
            slope, offset = _slope_and_offset(size, root)
            value, rest = divmod(shape[axis] - offset, slope)
            if rest or values.setdefault(root, value) != value:
                raise LoweringError(
                    f"the example of '{parameter}' has size {shape[axis]} at axis {axis}",
                    why=f"that axis is {size}, and {root} is {values.get(root, 'not whole')} elsewhere",
                    remedy="pass examples whose sizes agree",
                )
        return values

    def too_small(self, values: Mapping[str, int]) -> dict[str, int]:
        """Least sizes for the dims whose example is so small that torch would specialise it."""
        least = {root: max(SMALLEST_EXAMPLE, self.ranges[root][0]) for root in values}
        return {root: size for root, size in least.items() if values[root] < size}

    def larger(self, values: Mapping[str, int]) -> dict[str, int]:
        """Larger sizes that the ranges allow, for a second attempt; empty where there are none."""
        return {
            root: size
            for root, size in zip(sorted(values), itertools.cycle(_LARGER_EXAMPLES))
            if values[root] < size and self._allows(root, size)
        }

    def _allows(self, root: str, size: int) -> bool:
        low, high = self.ranges[root]
        return low <= size and (high is None or size <= high)

    def enlarge(self, call: Call, sizes: Mapping[str, int]) -> Call:
        """Repeat examples along their dynamic axes until the named dims have these sizes."""

        def repeat(name: str, leaf: Any) -> Any:
            for axis, size in self.sizes.get(name, {}).items():
                (root,) = symbols_of(size)
                if root in sizes and leaf.shape[axis]:
                    picks = torch.arange(evaluate(size, sizes)) % leaf.shape[axis]
                    leaf = leaf.index_select(axis, picks.to(leaf.device))
            return leaf

        return call.replace(repeat) if sizes else call

    def shapes(self, call: Call) -> dict[str, Any] | None:
        """`dynamic_shapes` of torch.export; None where nothing is dynamic."""
        if not self.sizes:
            return None
        torch_dims = {
            name: torch.export.Dim(name, min=low, max=high)  # type: ignore[arg-type]  # None is unbounded
            for name, (low, high) in self.ranges.items()
        }

        def specify(name: str, leaf: Any) -> dict[int, object] | None:
            if not isinstance(leaf, torch.Tensor):
                return None
            return {axis: _torch_dim(size, torch_dims) for axis, size in self.sizes.get(name, {}).items()}

        return call.shapes(specify)


def _parse_size(parameter: str, axis: int, text: str) -> IntLike:
    try:
        size = parse_dim(text)
        root = sorted(symbols_of(size))
        if len(root) == 1:
            _slope_and_offset(size, root[0])
            return size
    except ValueError:
        pass
    raise LoweringError(
        f"'{text}' is no dynamic dim",
        where=f"{parameter} axis {axis}",
        why="it is a name, or a multiple of one name plus a constant",
        remedy="write for instance 'B', '2*B', 'T+1', or ('B', 1, 64)",
    )


def _slope_and_offset(size: IntLike, root: str) -> tuple[int, int]:
    """a and b of a*root + b.  Raises ValueError for any other form."""
    offset, next_value = evaluate(size, {root: 0}), evaluate(size, {root: 1})
    slope = next_value - offset
    if slope < 1 or Dim.symbol(root) * slope + offset != size:
        raise ValueError(f"{size} is not linear in {root}")
    return slope, offset


def _torch_dim(size: IntLike, torch_dims: Mapping[str, Any]) -> object:
    (root,) = symbols_of(size)
    slope, offset = _slope_and_offset(size, root)
    result = torch_dims[root]
    if slope != 1:
        result = slope * result
    return result + offset if offset else result
