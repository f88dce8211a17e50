"""The masks of StridedSlice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plait.ir import IntLike

if TYPE_CHECKING:
    from plait.frontends.tensorflow.call import Call


@dataclass(frozen=True)
class Part:
    """One entry of a slice specification, after the ellipsis is spelt out.

    Attributes:
        new: whether it makes a new axis of size 1; the rest is unused then.
        pick: whether it picks the index `start` and removes the axis.
        start, stop: the bounds; None from or to the end.
        step: the step.
    """

    new: bool = False
    pick: bool = False
    start: IntLike | None = None
    stop: IntLike | None = None
    step: int = 1


def slice_parts(call: Call, rank: int) -> list[Part]:
    """The specification of a StridedSlice on a tensor of `rank`: a part for each axis, and for new ones."""
    starts, stops = call.dims(1, "the starts"), call.dims(2, "the ends")
    steps = call.ints(3, "the strides")
    masks = {
        name: call.integer(f"{name}_mask") for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }

    def has(name: str, position: int) -> bool:
        return bool(masks[name] >> position & 1)

    def taken(position: int) -> bool:
        return not has("ellipsis", position) and not has("new_axis", position)

    used = sum(taken(position) for position in range(len(starts)))
    parts: list[Part] = []
    for position, (start, stop, step) in enumerate(zip(starts, stops, steps, strict=True)):
        if has("ellipsis", position):
            parts += [Part()] * (rank - used)
        elif has("new_axis", position):
            parts.append(Part(new=True))
        elif has("shrink_axis", position):
            parts.append(Part(pick=True, start=start))
        else:
            parts.append(
                Part(
                    start=None if has("begin", position) else start,
                    stop=None if has("end", position) else stop,
                    step=step,
                )
            )
    present = sum(not part.new for part in parts)
    return parts + [Part()] * (rank - present)


def numpy_index(call: Call) -> tuple[Any, ...]:
    """The specification as a numpy index, for known numbers."""

    def entries() -> Iterator[Any]:
        for part in slice_parts(call, call.rank(0)):
            if part.new:
                yield None
            elif part.pick:
                yield int(part.start)  # type: ignore[arg-type]  # picks have a start, and it is a number here
            else:
                yield slice(part.start, part.stop, part.step)

    return tuple(entries())
