"""NHWC sources: where transposes are, and the names, locations and constants of what comes out."""

import numpy as np
import pytest

import plait
from plait.frontends.tensorflow import lower_tensorflow
from plait.ir.ops import core, nn


def image(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def block(L, width):
    """A block of an image network with everything that reads or moves channels: squeeze and excitation, norms."""

    def apply(x):
        y = L.Conv2D(width, 3, padding="same")(x)
        y = L.BatchNormalization()(y)
        y = L.Activation("silu")(y)
        gate = L.Dense(width, activation="sigmoid")(L.Dense(2)(L.GlobalAveragePooling2D()(y)))
        y = L.Multiply()([y, L.Reshape((1, 1, width))(gate)])
        y = L.LayerNormalization()(y)
        y = L.Dense(2 * width, activation="gelu")(y)
        y = L.Dense(width)(y)
        y = L.ZeroPadding2D(1)(L.Concatenate()([x, y]))
        y = L.DepthwiseConv2D(3, dilation_rate=2)(y)
        return L.UpSampling2D(2)(L.MaxPooling2D(2)(y))

    return apply


def test_no_transpose_between_two_convolutions(keras, check, model, rng, between_convolutions):
    L = keras.layers
    net = model((8, 8, 3), block(L, 4), block(L, 5), L.Conv2D(2, 1))
    graph = check(net, image(rng, 2, 8, 8, 3))
    assert between_convolutions(graph) == []
    moved = [op for op in graph.walk() if isinstance(op, core.Transpose)]
    assert len(moved) == 2  # the image, and the result
    assert moved[0].x is graph.inputs[0]
    assert moved[1].result is graph.outputs[0]
    assert between_convolutions(plait.optimize(graph)) == []


def test_rows_keep_their_layout_too(keras, check, model, rng, between_convolutions):
    L = keras.layers
    net = model(
        (16, 3),
        L.Conv1D(4, 3),
        L.LayerNormalization(),
        L.Dense(6),
        L.MaxPooling1D(2),
        L.Conv1D(2, 3),
    )
    assert between_convolutions(check(net, image(rng, 2, 16, 3))) == []


def test_dilated_rows_are_dilated_convolutions(keras, check, model, rng, between_convolutions):
    """TensorFlow writes them with SpaceToBatchND, around the axis of size 1 that its rows get."""
    L = keras.layers
    net = model(
        (20, 4),
        L.Conv1D(6, 3, dilation_rate=2, padding="same"),
        L.Conv1D(4, 2, dilation_rate=4, padding="causal"),
        L.SeparableConv1D(5, 3, dilation_rate=3),
        L.Conv1D(2, 3),
    )
    graph = check(net, image(rng, 2, 20, 4))
    dilations = [op.dilation for op in graph.walk() if isinstance(op, nn.Conv2d)]
    assert dilations == [(1, 2), (1, 4), (1, 3), (1, 1), (1, 1)]
    assert between_convolutions(graph) == []


@pytest.mark.parametrize("groups", [1, 3, -1])
@pytest.mark.parametrize("size", [(7,), (5, 4), (None, None), (3, 4, 2)])
def test_group_normalisation(keras, check, model, rng, between_convolutions, size, groups):
    L = keras.layers
    make = {1: L.Conv1D, 2: L.Conv2D, 3: L.Conv3D}[len(size)]
    net = model((*size, 4), make(6, 2), L.GroupNormalization(groups, epsilon=1e-2), make(2, 1))
    graph = check(net, image(rng, 2, *(dim or 5 for dim in size), 4))
    (norm,) = (op for op in graph.walk() if isinstance(op, nn.GroupNorm))
    assert (norm.groups, norm.epsilon) == (6 if groups == -1 else groups, 1e-2)
    assert between_convolutions(graph) == []


def test_transposes_of_the_source_stay(keras, check, model, rng, between_convolutions):
    """Rows and columns exchanged: that is no change of layout."""
    L = keras.layers
    net = model((5, 6, 3), L.Conv2D(4, 2), L.Permute((2, 1, 3)), L.Conv2D(2, 2))
    assert len(between_convolutions(check(net, image(rng, 2, 5, 6, 3)))) == 1


def test_layouts_that_the_source_changes_itself(tf, check, rng):
    @tf.function(input_signature=[tf.TensorSpec([None, 3, 6, 6], tf.float32, name="x")])
    def planar(x):
        y = tf.nn.conv2d(tf.transpose(x, [0, 2, 3, 1]), tf.ones((3, 3, 3, 4)), 1, "SAME")
        return tf.transpose(y, [0, 3, 1, 2])

    graph = check(planar, image(rng, 2, 3, 6, 6))
    assert [op.opname for op in graph.walk()] == ["nn.conv2d"]


def test_a_second_convolution_of_phases_reads_the_first(tf, check, rng):
    kernels = [image(rng, 3, 3, 2, 2) for _ in range(2)]

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 2], tf.float32, name="x")])
    def net(x):
        y = tf.space_to_batch(x, [2, 2], [[4, 4], [4, 4]])
        for kernel in kernels:
            y = tf.nn.conv2d(y, kernel, 1, "VALID")
        return tf.batch_to_space(y, [2, 2], [[0, 0], [0, 0]])

    graph = check(net, image(rng, 2, 8, 8, 2))
    assert sum(isinstance(op, nn.Conv2d) for op in graph.walk()) == 2


def test_names_and_locations(keras, model):
    L = keras.layers
    net = model(
        (8, 8, 3),
        L.Conv2D(4, 3, name="conv1"),
        L.BatchNormalization(name="bn"),
        L.Flatten(),
        L.Dense(2, name="head"),
    )
    for _ in range(2):  # scopes of a second trace carry another number
        graph = lower_tensorflow(net)
        assert set(graph.constants) == {
            "conv1.kernel",
            "conv1.bias",
            "bn.gamma",
            "bn.beta",
            "bn.moving_mean",
            "bn.moving_variance",
            "head.kernel",
            "head.bias",
        }
        convolution = next(op for op in graph.ops if isinstance(op, nn.Conv2d))
        assert convolution.result.name == "conv1.convolution"
        assert convolution.loc.origins[0].path == "conv1"
        assert graph.constants["conv1.kernel"].shaped.shape == (4, 3, 3, 3)


def test_layers_with_numbered_names_are_told_apart(keras, model):
    L = keras.layers
    net = model((8, 8, 3), L.Conv2D(4, 1, name="c"), L.Conv2D(5, 1, name="c_1"), L.Conv2D(6, 1, name="c_1_1"))
    graph = lower_tensorflow(net)
    widths = {
        op.loc.origins[0].path: op.result.shaped.shape[1] for op in graph.ops if isinstance(op, nn.Conv2d)
    }
    assert widths == {"c": 4, "c_1": 5, "c_1_1": 6}


def test_constants_share_the_memory_of_variables(keras, model):
    """A table is used as it is: the graph holds no copy of it."""
    net = model((7,), keras.layers.Embedding(11, 4), dtype="int32")
    graph = lower_tensorflow(net)
    (table,) = graph.constants.values()
    assert np.shares_memory(table.data, np.asarray(net.variables[0].value.value()))


@pytest.mark.parametrize("size", [5, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_same_padding(tf, check, rng, size, stride, window):
    @tf.function(input_signature=[tf.TensorSpec([1, size, size + 1, 2], tf.float32, name="x")])
    def net(x):
        weights = tf.constant(
            np.arange(window * window * 6, dtype=np.float32).reshape(window, window, 2, 3) / 9
        )
        return tf.nn.conv2d(x, weights, stride, "SAME"), tf.nn.avg_pool2d(x, window, stride, "SAME")

    check(net, image(rng, 1, size, size + 1, 2))


def test_explicit_padding_and_channels_first_pools(tf, check, rng):
    @tf.function(input_signature=[tf.TensorSpec([2, 6, 6, 3], tf.float32, name="x")])
    def net(x):
        return tf.nn.conv2d(x, tf.ones((2, 2, 3, 4)), [1, 2, 1, 1], [[0, 0], [1, 0], [0, 2], [0, 0]])

    check(net, image(rng, 2, 6, 6, 3))
