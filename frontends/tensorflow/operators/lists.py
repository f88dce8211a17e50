"""Lists of tensors, held as one stacked tensor; inside of a scan, as the item of the round."""

from __future__ import annotations

from plait.frontends.nodes.operand import object_array
from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Item, Operand, Slot, TensorList
from plait.frontends.tensorflow.registry import lowers
from plait.ir import IntLike, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core
from plait.ir.types import Shape


@lowers("TensorListReserve")
def reserve(call: Call) -> TensorList:
    length: IntLike = call.dims(1, "the number of items")[0]
    return TensorList(call.name, call.element_attribute("element_dtype"), length, _item_shape(call, 0))


def _item_shape(call: Call, index: int) -> Shape | None:
    """The shape that an argument gives; None where it leaves something open."""
    found = call.operand(index).dims()
    operand = call.operand(index)
    if found is None or operand.rank == 0 or any(isinstance(dim, int) and dim < 0 for dim in found):
        return None
    return found


@lowers("TensorListFromTensor")
def from_tensor(call: Call) -> TensorList:
    operand = Operand.of(call.value(0))
    return TensorList(call.name, operand.element, operand.shape[0], operand.shape[1:], operand)


def stacked(call: Call, found: TensorList, item: Shape | None = None) -> Operand:
    """The items of a list as one tensor; a list that nobody wrote holds zeros."""
    if found.stacked is not None:
        return found.stacked
    shape = found.item if found.item is not None else item
    if shape is None:
        raise call.error(
            f"the shape of the items of list '{found.name}' is not known",
            why="nothing was written to it yet, and it was made without an element shape",
            remedy="give TensorArray an element_shape",
        )
    zero = False if found.element == t.boolean else 0.0 if found.element.is_float else 0
    return Operand.of(call.full(zero, found.element, (found.length, *shape)))


@lowers("TensorListStack")
def stack(call: Call) -> Operand:
    return stacked(call, call.tensor_list(0), _item_shape(call, 1))


@lowers("TensorListGetItem")
def get_item(call: Call) -> Item:
    found = call.item(0)
    if isinstance(found, Slot):
        if found.current is None:
            raise call.error(f"list '{found.name}' is read before it is written")
        return found.current
    whole = call.builder.value(stacked(call, call.tensor_list(0), _item_shape(call, 2)), call.name)
    index = call.operand(1)
    if index.array is not None:
        at = int(index.array.reshape(()))
        part = call.step(core.Slice(whole, axes=(0,), starts=(at,), stops=(at + 1,)))
        return Operand.of(call.reshape(part, whole.shaped.shape[1:]))
    return Operand.of(call.emit(core.Take(whole, call.value(1), axis=0)))


@lowers("TensorListSetItem")
def set_item(call: Call) -> Item:
    """A list with one item changed."""
    found = call.item(0)
    if isinstance(found, Slot):
        return Slot(found.name, call.operand(2))
    held = call.tensor_list(0)
    item = call.value(2)
    whole = call.builder.value(stacked(call, held, item.shaped.shape), call.name)
    changed = _written(call, whole, item)
    return TensorList(held.name, held.element, held.length, item.shaped.shape, Operand.of(changed))


def _written(call: Call, whole: Value, item: Value) -> Value:
    """`whole` with `item` at the index that input 1 gives."""
    where = call.reshape(call.cast(call.value(1), t.i64), (1, 1))
    return call.emit(core.ScatterND(whole, where, call.reshape(item, (1, *item.shaped.shape))))


@lowers("TensorListLength")
def length(call: Call) -> Operand:
    return Operand.known(object_array([call.tensor_list(0).length]).reshape(()), t.i32)


@lowers("TensorListElementShape")
def element_shape(call: Call) -> Operand:
    shape = call.tensor_list(0).item
    if shape is None:
        raise call.error(f"the shape of the items of list '{call.tensor_list(0).name}' is not known")
    kind = call.element_attribute("shape_type") if "shape_type" in call.attributes else t.i32
    return Operand.known(object_array(shape), kind)


def list_type(found: TensorList) -> TensorType | None:
    """The type of the stacked items; None where it is not known yet."""
    if found.stacked is not None:
        return found.stacked.type
    return None if found.item is None else TensorType(found.element, (found.length, *found.item))
