"""Arguments and results of a call: nested containers flattened to leaves with dotted names."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from plait.ir.errors import LoweringError

Inputs = Sequence[Any] | Mapping[str, Any] | None
#: Containers whose `dynamic_shapes` torch takes in the same form; all others as a list of their parts.
_PLAIN_CONTAINERS = pytree.BUILTIN_TYPES


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of `forward`, flattened.

    Attributes:
        arguments: the call, bound to the parameters of `forward`.
        names: a dotted name for each leaf, `parameter.field.0`.
        leaves: tensors, numbers, strings and None, in the order in which torch flattens them.
        structure: how the leaves nest in `{parameter: argument}`.
    """

    arguments: inspect.BoundArguments
    names: tuple[str, ...]
    leaves: tuple[Any, ...]
    structure: pytree.TreeSpec

    @staticmethod
    def bind(model: torch.nn.Module, inputs: Inputs) -> Call:
        """Bind inputs to the parameters of `forward`.  Raises LoweringError when they do not fit."""
        signature = inspect.signature(model.forward)
        if isinstance(inputs, torch.Tensor):
            inputs = (inputs,)
        try:
            if isinstance(inputs, Mapping):
                bound = signature.bind(**inputs)
            else:
                bound = signature.bind(*(inputs or ()))
        except TypeError as error:
            raise LoweringError(
                f"the inputs do not fit {type(model).__name__}.forward{signature}",
                why=str(error),
                remedy="pass inputs= as a tuple in this order, or a dict by parameter name",
            ) from None
        register_dataclasses(dict(bound.arguments))
        leaves, structure = pytree.tree_flatten(dict(bound.arguments))
        seen: set[int] = set()
        for position, leaf in enumerate(leaves):  # one tensor passed twice would become one input
            if isinstance(leaf, torch.Tensor) and id(leaf) in seen:
                leaves[position] = leaf.detach().clone()
            seen.add(id(leaf))
        bound.arguments.update(structure.unflatten(leaves))
        keywords = {p.name for p in signature.parameters.values() if p.kind == inspect.Parameter.VAR_KEYWORD}
        names = tuple(
            ".".join(path if parameter in keywords else (parameter, *path))
            for parameter, part in zip(bound.arguments, structure.children(), strict=True)
            for path in paths(part)
        )
        return Call(bound, names, tuple(leaves), structure)

    def replace(self, change: Callable[[str, Any], Any]) -> Call:
        """The call with each leaf replaced by change(name, leaf)."""
        leaves = tuple(change(name, leaf) for name, leaf in zip(self.names, self.leaves, strict=True))
        arguments = inspect.BoundArguments(
            self.arguments.signature, type(self.arguments.arguments)(self.structure.unflatten(leaves))
        )
        return dataclasses.replace(self, arguments=arguments, leaves=leaves)

    def shapes(self, specify: Callable[[str, Any], Any]) -> dict[str, Any]:
        """`dynamic_shapes` of torch.export, with specify(name, leaf) for each leaf."""
        found = (specify(name, leaf) for name, leaf in zip(self.names, self.leaves, strict=True))
        shapes = dict(_nest_shapes(self.structure, found))
        parameters = self.arguments.signature.parameters
        for name in list(shapes):
            if parameters[name].kind == inspect.Parameter.VAR_KEYWORD:  # see explicit_keywords
                shapes.update(shapes.pop(name))
        return shapes


def _nest_shapes(structure: pytree.TreeSpec, leaves: Iterator[Any]) -> Any:
    if structure.is_leaf():
        return next(leaves)
    parts = [_nest_shapes(part, leaves) for part in structure.children()]
    if structure.type not in _PLAIN_CONTAINERS:
        return parts
    leaf = pytree.tree_structure(None)
    whole = pytree.TreeSpec(structure.type, structure.context, [leaf] * len(parts))
    return whole.unflatten(parts)


@contextlib.contextmanager
def replaced_forward(model: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """While this holds, a module runs another function as its `forward`."""
    own = vars(model).get("forward")
    model.forward = forward
    try:
        yield
    finally:
        if own is None:
            del model.forward
        else:
            model.forward = own


@contextlib.contextmanager
def explicit_keywords(model: torch.nn.Module, call: Call) -> Iterator[None]:
    """While this holds, keywords that `**` of `forward` takes are parameters, as torch.export needs it."""
    keywords = call.arguments.kwargs
    parameters = call.arguments.signature.parameters
    extra = [name for name in keywords if name not in parameters]
    if not extra:
        yield
        return
    forward = model.forward

    @functools.wraps(forward)
    def explicit(*arguments: Any, **options: Any) -> Any:
        return forward(*arguments, **options)

    known = [p for p in parameters.values() if p.kind != inspect.Parameter.VAR_KEYWORD]
    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in extra]
    vars(explicit)["__signature__"] = call.arguments.signature.replace(parameters=[*known, *added])
    with replaced_forward(model, explicit):
        yield


def register_dataclasses(value: Any) -> None:
    """Make every dataclass inside a value known to torch.export."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value) not in pytree.SUPPORTED_NODES:
            torch.export.register_dataclass(type(value))
        parts: Sequence[Any] = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, (list, tuple)):
        parts = value
    else:
        return
    for part in parts:
        register_dataclasses(part)


# -- names ---------------------------------------------------------------------------
def paths(structure: pytree.TreeSpec) -> list[tuple[str, ...]]:
    """The path to each leaf: keys of dicts, fields of dataclasses and named tuples, else positions."""
    if structure.is_leaf():
        return [()]
    children = structure.children()
    keys = _keys(structure, len(children))
    return [(key, *path) for key, part in zip(keys, children, strict=True) for path in paths(part)]


def is_keyed(structure: pytree.TreeSpec) -> bool:
    """Whether a container names its parts (any nested container does too, if this one is a sequence)."""
    if structure.is_leaf():
        return False
    children = structure.children()
    return _keys(structure, len(children)) != _positions(len(children)) or any(map(is_keyed, children))


def _positions(count: int) -> list[str]:
    return [str(position) for position in range(count)]


def _keys(structure: pytree.TreeSpec, count: int) -> list[str]:
    context: Any = structure.context
    fields = getattr(structure.type, "_fields", None) or getattr(context, "_fields", None)
    if fields is not None and len(fields) == count:
        return list(map(str, fields))
    if structure.type in (tuple, list) or not isinstance(context, (list, tuple)):
        return _positions(count)
    # a dict holds its keys, a dataclass the names of its fields and those that are None
    for found in (context, *context[:1]):
        if isinstance(found, (list, tuple)) and len(found) == count:
            with contextlib.suppress(TypeError):
                if all(isinstance(key, (str, int)) for key in found):
                    return list(map(str, found))
    return _positions(count)


def user_placeholders(program: ExportedProgram) -> list[str]:
    """The placeholder of each input that the user passes; "" where the program has none."""
    specs = program.graph_signature.input_specs
    return [str(getattr(s.arg, "name", "")) for s in specs if s.kind == InputKind.USER_INPUT]


def names_of_program(program: ExportedProgram) -> list[str]:
    """A dotted name for each input that the user of an exported program passes."""
    placeholders = user_placeholders(program)
    if program.call_spec.in_spec is None:
        return placeholders
    positional, keyword = program.call_spec.in_spec.children()
    entry = next((e.signature for e in program.module_call_graph if not e.fqn), None)
    known = list(getattr(entry, "forward_arg_names", None) or ())
    if len(known) < len(positional.children()):
        return placeholders
    names = [
        ".".join((parameter, *path))
        for parameter, part in zip(known, positional.children(), strict=False)
        for path in paths(part)
    ]
    names += [".".join(path) for path in paths(keyword)] if keyword.num_leaves else []
    return names if len(names) == len(placeholders) else placeholders


def output_names(program: ExportedProgram) -> list[str | None]:
    """A dotted name for each output of a program that returns keyed containers; None for the others."""
    structure = program.call_spec.out_spec
    if structure is None:
        return []
    if not is_keyed(structure):
        return [None] * structure.num_leaves
    named = [".".join(path) for path in paths(structure)]
    return list(named)
