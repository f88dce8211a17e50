"""Sources: Keras models, functions and SavedModel folders as one traced graph with its variables.

The graph is frozen by binding: each captured variable is read once, as an array that
shares TensorFlow's memory.  TensorFlow's own `convert_variables_to_constants_v2`
writes all weights into a protocol buffer, which copies them several times, loses the
names of the variables and ends at 2 GB.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plait.frontends.tensorflow.inputs import (
    Dynamic,
    Name,
    Port,
    check_names,
    resolve,
    specifications,
)
from plait.frontends.tensorflow.operand import Handle, Item, Operand
from plait.frontends.tensorflow.places import Places, scopes_are_numbered, trace_of
from plait.ir import InputError, LoweringError
from plait.ir.errors import did_you_mean
from plait.ir.types import dtype_of

#: Example arrays by input name, or in the order of the arguments.
Examples = Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True)
class Source:
    """A traced graph.

    Attributes:
        label: what to call it in messages.
        nodes: its nodes (`NodeDef`), by name.
        functions: the bodies that its nodes call (`FunctionDef`), by name.
        ports: its inputs, with a number or a name for every dim.
        captures: what nodes stand for values from outside: variables and constants.
        results: the tensors that it returns, `node:output`.
        places: names and locations of nodes.
    """

    label: str
    nodes: Mapping[str, Any]
    functions: Mapping[str, Any]
    ports: Sequence[Port]
    captures: Mapping[str, Item]
    results: Sequence[str]
    places: Places


def read_source(model: Any, inputs: Examples | None, dynamic: Dynamic, signature: str) -> Source:
    """Trace what `lower_tensorflow` takes."""
    import tensorflow as tf

    if isinstance(model, (str, Path)):
        return _saved_model(Path(model), inputs, dynamic, signature)
    kinds = {(cls.__module__.partition(".")[0], cls.__qualname__) for cls in type(model).__mro__}
    if ("keras", "Layer") in kinds:
        return _keras(model, inputs, dynamic)
    if isinstance(model, tf.types.experimental.ConcreteFunction):
        return _concrete(model, inputs, dynamic, f"function '{model.name}'")
    if isinstance(model, tf.types.experimental.PolymorphicFunction):
        return _function(model, inputs, dynamic)
    raise LoweringError(
        f"cannot lower a {type(model).__module__}.{type(model).__qualname__}",
        why="a keras.Model, a tf.function, a ConcreteFunction or the path of a SavedModel folder is wanted",
        remedy="wrap the computation in tf.function",
    )


# -- kinds of sources ----------------------------------------------------------------
def _keras(model: Any, inputs: Examples | None, dynamic: Dynamic) -> Source:
    import keras
    import tensorflow as tf

    label = f"Keras model '{model.name}'"
    if keras.backend.backend() != "tensorflow":
        raise LoweringError(
            f"Keras runs on the {keras.backend.backend()} backend",
            where=label,
            why="the model is lowered from a TensorFlow graph",
            remedy="set KERAS_BACKEND=tensorflow before importing keras",
        )
    symbolic = getattr(model, "inputs", None)
    if symbolic:
        declared = [
            Port(tensor.name, dtype_of(tf.as_dtype(tensor.dtype).as_numpy_dtype), tuple(tensor.shape))
            for tensor in symbolic
        ]
        structure = getattr(model, "input", symbolic)
        arrays = _examples(inputs, [port.name for port in declared], label)
        arrays = {name: _cast_like(array, declared, name) for name, array in arrays.items()}
    else:
        structure = None
        arrays = _named_examples(inputs, model.call, label)
        declared = [Port.of_array(name, array) for name, array in arrays.items()]
    ports = resolve(declared, arrays, dynamic, label)
    options = {"training": False} if _accepts(model.call, "training") else {}
    names = [port.name for port in ports]

    def call(*tensors: Any) -> Any:
        if structure is None:
            return model(*tensors[:1], **dict(zip(names[1:], tensors[1:], strict=True)), **options)
        return model(keras.tree.pack_sequence_as(structure, list(tensors)), **options)

    specs = specifications(ports)
    concrete = _traced(lambda: tf.function(call, autograph=False).get_concrete_function(*specs), ports, label)
    layers = {layer.name for layer in getattr(model, "_flatten_layers", list)()} - {model.name}
    paths = {id(variable.value.handle): str(variable.path) for variable in model.variables}
    return _graph_source(concrete, label, ports, paths, (str(model.name), layers))


def _function(function: Any, inputs: Examples | None, dynamic: Dynamic) -> Source:
    label = f"tf.function '{getattr(function, '__name__', 'function')}'"
    signature = function.input_signature
    if signature is not None:
        return _concrete(function.get_concrete_function(), inputs, dynamic, label)
    arrays = _named_examples(inputs, function.python_function, label)
    declared = [Port.of_array(name, array) for name, array in arrays.items()]
    ports = resolve(declared, arrays, dynamic, label)
    specs = dict(zip(arrays, specifications(ports), strict=True))
    concrete = _traced(lambda: function.get_concrete_function(**specs), ports, label)
    return _graph_source(concrete, label, ports, {})


def _concrete(concrete: Any, inputs: Examples | None, dynamic: Dynamic, label: str) -> Source:
    """A function that is traced already: only dims that the trace left open can be named or fixed."""
    declared = _input_ports(concrete)
    names = [port.name for port in declared]
    check_names(dynamic, names, "dynamic", label)
    for port in declared:
        for axis in dynamic.get(port.name, {}):
            if (
                port.shape is not None
                and isinstance(axis, int)
                and -len(port.shape) <= axis < len(port.shape)
            ):
                size = port.shape[axis]
                if isinstance(size, int):
                    raise LoweringError(
                        f"dynamic names axis {axis}, which the function was traced with as {size}",
                        where=f"{label}: input '{port.name}'",
                        why="its graph may hold that number elsewhere too",
                        remedy=f"trace it with None there: tf.TensorSpec with shape[{axis}] = None",
                    )
    arrays = _examples(inputs, names, label)
    arrays = {name: _cast_like(array, declared, name) for name, array in arrays.items()}
    return _graph_source(concrete, label, resolve(declared, arrays, dynamic, label), {})


def _saved_model(path: Path, inputs: Examples | None, dynamic: Dynamic, signature: str) -> Source:
    import tensorflow as tf

    if not (path / "saved_model.pb").is_file():
        raise InputError(
            f"'{path}' is no SavedModel folder",
            why="it holds no saved_model.pb",
            remedy="pass the folder that tf.saved_model.save or model.export wrote",
        )
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # the loader raises whatever the reader of a damaged file meets
        raise InputError(
            f"SavedModel '{path}' cannot be read",
            why=str(error).splitlines()[0] if str(error) else type(error).__name__,
            remedy="the folder is damaged or incomplete; save the model again",
        ) from error
    signatures = {str(name): function for name, function in loaded.signatures.items()}
    if signature not in signatures:
        raise LoweringError(
            f"the SavedModel has no signature '{signature}'{did_you_mean(signature, signatures)}",
            where=str(path),
            why=f"its signatures are {', '.join(signatures) or 'none'}",
            remedy="pass signature= with one of them, or save the model with signatures=",
        )
    return _concrete(signatures[signature], inputs, dynamic, f"{path} ({signature})")


# -- tracing --------------------------------------------------------------------------
def _traced(trace: Callable[[], Any], ports: Sequence[Port], label: str) -> Any:
    try:
        return trace()
    except Exception as error:  # the user's own code may raise anything
        lines = str(error).strip().splitlines()
        shapes = ", ".join(
            f"{port.name}: {port.element}["
            + ",".join(dim.text if isinstance(dim, Name) else str(dim) for dim in port.shape or ())
            + "]"
            for port in ports
        )
        raise LoweringError(
            f"tracing failed: {type(error).__name__}: {lines[0] if lines else ''}",
            where=label,
            why=f"TensorFlow could not run it on symbolic inputs ({shapes})",
            remedy="check the shapes of inputs= and the axes of dynamic=",
        ) from error


def _named_examples(
    inputs: Examples | None, function: Callable[..., Any], label: str
) -> dict[str, np.ndarray]:
    """Examples under the names of the parameters, where only they say what the inputs are."""
    if inputs is None:
        raise LoweringError(
            "the source does not say what its inputs are",
            where=label,
            why="it declares no shapes (input_signature, Input layers), and no example is given",
            remedy="pass example arrays, for instance inputs={'x': array}",
        )
    if isinstance(inputs, Mapping):
        return {str(name): np.asarray(array) for name, array in inputs.items()}
    given = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
    names = [name for name in inspect.signature(function).parameters if name not in ("self", "training")]
    if len(given) > len(names):
        raise LoweringError(
            f"{len(given)} examples are given",
            where=label,
            why=f"its arguments are {', '.join(names) or 'none'}",
            remedy="pass one example for each argument",
        )
    return {name: np.asarray(array) for name, array in zip(names, given, strict=False)}


def _examples(inputs: Examples | None, names: Sequence[str], label: str) -> dict[str, np.ndarray]:
    """Examples by input name."""
    if inputs is None:
        return {}
    if isinstance(inputs, Mapping):
        check_names(inputs, names, "inputs", label)
        return {name: np.asarray(array) for name, array in inputs.items()}
    given = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
    if len(given) != len(names):
        raise LoweringError(
            f"{len(given)} examples are given for {len(names)} inputs",
            where=label,
            why=f"the inputs are {', '.join(names)}",
            remedy="pass one array for each, or a dict by name",
        )
    return {name: np.asarray(array) for name, array in zip(names, given, strict=True)}


def _cast_like(array: np.ndarray, ports: Sequence[Port], name: str) -> np.ndarray:
    """An example in the element type of its input where that loses nothing: Python numbers come as f64."""
    element = next(port.element for port in ports if port.name == name)
    same = array.dtype.kind == np.dtype(element.numpy).kind
    return array.astype(element.numpy) if same and array.dtype != element.numpy else array


def _accepts(function: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(function).parameters


# -- the graph ------------------------------------------------------------------------
def _input_ports(concrete: Any) -> list[Port]:
    """The inputs of a traced function, without what it captured."""
    count = len(concrete.inputs) - len(concrete.captured_inputs)
    ports = []
    for tensor in concrete.inputs[:count]:
        name = tensor.op.node_def.attr["_user_specified_name"].s.decode() or tensor.op.name
        shape = None if tensor.shape.rank is None else tuple(tensor.shape)
        ports.append(Port(name, dtype_of(tensor.dtype.as_numpy_dtype), shape, tensor.op.name))
    return ports


def _graph_source(
    concrete: Any,
    label: str,
    ports: Sequence[Port],
    paths: Mapping[int, str],
    keras: tuple[str, set[str]] = ("", set()),
) -> Source:
    graph = concrete.graph
    definition = graph.as_graph_def()
    nodes = [port.node for port in _input_ports(concrete)]
    names = {id(variable.handle): str(variable.name) for variable in concrete.variables} | dict(paths)
    captures = {
        inside.op.name: _captured(outside, names.get(id(outside)), label)
        for outside, inside in graph.captures
    }
    pairs = [(name, item.name) for name, item in captures.items() if isinstance(item, Handle)]
    operations = {operation.name: operation for operation in graph.get_operations()}
    return Source(
        label,
        {node.name: node for node in definition.node},
        {function.signature.name: function for function in definition.library.function},
        [Port(port.name, port.element, port.shape, node) for port, node in zip(ports, nodes, strict=True)],
        captures,
        [tensor.name for tensor in concrete.outputs],
        Places(*keras, trace_of(operations), scopes_are_numbered(pairs)),
    )


def _captured(outside: Any, name: str | None, label: str) -> Item:
    """A variable with its numbers, another resource, or the numbers of an eager tensor."""
    import tensorflow as tf

    if outside.dtype != tf.resource:
        if not outside.dtype.is_numpy_compatible or outside.dtype == tf.string:
            return Handle(f"a captured {outside.dtype.name}")
        array = np.asarray(outside)
        return Operand.known(array, dtype_of(array.dtype), "captured")
    data = getattr(outside, "_handle_data", None)
    if data is None or not data.shape_and_type:
        return Handle(name or "a captured resource")
    try:
        value = tf.raw_ops.ReadVariableOp(resource=outside, dtype=data.shape_and_type[0].dtype)
    except tf.errors.OpError as error:
        raise LoweringError(
            f"variable '{name}' has no value",
            where=label,
            why=str(error).splitlines()[0],
            remedy="build and initialise the model before lowering it",
        ) from error
    array = np.asarray(value)
    plain = (name or "variable").partition(":")[0]
    return Handle(plain, Operand.known(array, dtype_of(array.dtype), plain))
