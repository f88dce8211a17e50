"""The arena: every intermediate array of `main` has a fixed place in one block of memory.

TVM's planner decides which arrays may share storage, and would have the virtual machine
allocate those storages in every call.  Here they become places in a block that the
executable allocates once, and `main` takes the arrays, like the constants, as items of one
list: neither is allocated, checked or counted again in a call.  Results stay out of it,
since they outlive the call, and so do arrays whose sizes only a run shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir import Op

from plait.backends.arena import ALIGNMENT, Arena, Place

_ITEM = relax.ExternFunc("vm.builtin.tuple_getitem")


@dataclass
class ArenaLayout:
    """What `main` takes in its list after the constants: collected by the pass that `arena_pass` makes."""

    places: list[Place] = field(default_factory=list)
    bytes: int = 0

    def arena(self) -> Arena:
        """The block and its arrays."""
        return Arena(self.bytes, tuple(self.places))


def arena_pass(layout: ArenaLayout, constants: int) -> Any:
    """A pass over a planned module that moves constants and intermediate arrays of `main` into one list.

    Args:
        layout: is filled with the places of arrays.
        constants: how many of the last parameters of `main` are constants.
    """

    @tvm.transform.module_pass(opt_level=0, name="plait.Arena")
    def place_arrays(module: Any, _context: Any) -> Any:
        pointer = module.get_global_var("main")
        module.update_func(pointer, _rewritten(module[pointer], layout, constants))
        return module

    return place_arrays


def _rewritten(function: Any, layout: ArenaLayout, constants: int) -> Any:
    kept = list(function.params)
    moved = kept[len(kept) - constants :] if constants else []
    del kept[len(kept) - len(moved) :]
    items = relax.Var("items", relax.AnyType())
    bindings: list[Any] = [
        relax.VarBinding(var, _item(items, number, var.ty)) for number, var in enumerate(moved)
    ]
    storages: dict[Any, int] = {}
    blocks = []
    for block in function.body.blocks:
        for binding in block.bindings:
            replaced = _replaced(binding, items, storages, layout, constants)
            if replaced is not None:
                bindings.append(replaced)
        blocks.append(relax.BindingBlock(bindings))
        bindings = []
    if bindings:  # a function that computes nothing has no blocks, but may return constants
        blocks.append(relax.BindingBlock(bindings))
    body = relax.SeqExpr(blocks, function.body.body)
    return relax.Function([*kept, items], body, function.ret_ty, function.is_pure, function.attrs)


def _replaced(
    binding: Any, items: Any, storages: dict[Any, int], layout: ArenaLayout, constants: int
) -> Any | None:
    """A binding without allocation; None for that of a storage."""
    value = binding.value
    if isinstance(value, relax.Call) and isinstance(value.op, Op):
        if value.op.name == "relax.memory.alloc_storage":
            size = _numbers(value.args[0])
            if size is not None:
                storages[binding.var] = layout.bytes
                layout.bytes += -(-size[0] // ALIGNMENT) * ALIGNMENT
                return None
        elif value.op.name == "relax.memory.alloc_tensor" and value.args[0] in storages:
            storage, offset, shape, _ = value.args[:4]
            extents = _numbers(shape)
            assert extents is not None  # a storage of known size holds arrays of known sizes
            dtype = str(binding.var.ty.dtype)
            layout.places.append(Place(storages[storage] + int(offset.value), tuple(extents), dtype))
            number = constants + len(layout.places) - 1
            return relax.VarBinding(binding.var, _item(items, number, binding.var.ty))
    return binding


def _item(items: Any, number: int, kind: Any) -> Any:
    """Item `number` of the list, of a type that needs no check."""
    return relax.Call(_ITEM, [items, tirx.IntImm("int64", number)], ty_args=[kind])


def _numbers(shape: Any) -> list[int] | None:
    """The extents of a shape; None where one of them is an expression."""
    if not isinstance(shape, relax.ShapeExpr):
        return None
    found = [int(dim.value) for dim in shape.values if isinstance(dim, tirx.IntImm)]
    return found if len(found) == len(shape.values) else None


__all__ = ["ArenaLayout", "arena_pass"]
