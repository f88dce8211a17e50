"""TensorFlow and Keras models to the IR.

    >>> from plait.frontends.tensorflow import lower_tensorflow
    >>> graph = lower_tensorflow(keras_model)  # doctest: +SKIP

The model is traced to TensorFlow's graph for inference, whose variables become
constants under their names.  Shape arithmetic is resolved to symbolic dims while
lowering.  Inputs and results keep the layout of the source (NHWC); inside, what
follows a convolution is held with channels first, so no transpose stands between two
convolutions.  `lowers` registers a rule for a further op:

    >>> from plait.frontends.tensorflow import lowers
    >>> from plait.ir.ops import nn
    >>> @lowers("FastRelu")
    ... def fast_relu(call):
    ...     return call.emit(nn.Relu(call.value(0)))

Importing this package does not import tensorflow; `lower_tensorflow` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plait.frontends.tensorflow.registry import lowers

if TYPE_CHECKING:
    from plait.frontends.tensorflow.inputs import Dynamic
    from plait.frontends.tensorflow.source import Examples
    from plait.ir import Graph

__all__ = ["lower_tensorflow", "lowers"]


def lower_tensorflow(
    model: Any,
    inputs: Examples | None = None,
    *,
    dynamic: Dynamic | None = None,
    name: str = "main",
    signature: str = "serving_default",
) -> Graph:
    """Lower a TensorFlow model.

    Args:
        model: a `keras.Model` (or layer), a `tf.function`, a `ConcreteFunction`, or the
            path of a SavedModel folder.
        inputs: example arrays, by input name or in order.  Their shapes fix the dims
            that the model leaves open.  A model that declares no inputs needs them.
        dynamic: for each input, axes that are symbolic, and the name (and range) of
            their dim: `{"image": {0: "B"}}` or `{"image": {0: ("B", 1, 64)}}`.  It wins
            over `inputs`, and opens axes that a Keras model or tf.function states.
        name: the name of the graph.
        signature: which signature of a SavedModel is lowered.

    Returns:
        A graph whose inputs have the names of the model's inputs.  Dims that stay open
        are called `B` for axis 0 and `<input>_d<axis>` for others.

    Raises:
        InputError: the SavedModel is missing or cannot be read.
        LoweringError: tensorflow is not installed, the model cannot be traced, an
            argument does not fit it, or ops have no lowering (all in one report).
    """
    from plait.frontends.tensorflow.quiet import quiet
    from plait.ir import LoweringError

    with quiet():
        try:
            import tensorflow  # noqa: F401
        except ImportError as error:
            raise LoweringError(
                "tensorflow is not installed",
                where="lower_tensorflow",
                why=str(error),
                remedy="pip install 'plait[tensorflow]'",
            ) from error
        from plait.frontends.tensorflow.lowering import Lowering
        from plait.frontends.tensorflow.source import read_source

        source = read_source(model, inputs, dynamic or {}, signature)
        return Lowering(source).run(name)
