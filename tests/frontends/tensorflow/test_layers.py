"""Keras layers against Keras."""

import numpy as np
import pytest

#: Input shape (without the batch) and layers, made by a function of `keras.layers`.
LAYERS = {
    "conv1d": (
        (12, 3),
        lambda L: [L.Conv1D(4, 3, strides=2, padding="same"), L.Conv1D(2, 2, padding="causal")],
    ),
    "conv2d": ((9, 8, 3), lambda L: [L.Conv2D(4, (3, 2), strides=(2, 1), padding="same", activation="relu")]),
    "conv3d": ((6, 5, 6, 2), lambda L: [L.Conv3D(3, 3, padding="same"), L.Conv3D(2, 2, strides=2)]),
    "depthwise": ((9, 9, 4), lambda L: [L.DepthwiseConv2D(3, depth_multiplier=2, strides=2, padding="same")]),
    "dilated depthwise": ((9, 9, 4), lambda L: [L.DepthwiseConv2D(3, dilation_rate=2)]),
    "separable": ((9, 9, 3), lambda L: [L.SeparableConv2D(5, 3, depth_multiplier=2, padding="same")]),
    "separable rows": ((9, 3), lambda L: [L.SeparableConv1D(5, 3, padding="same")]),
    "grouped": ((8, 8, 4), lambda L: [L.Conv2D(8, 3, groups=4)]),
    "transposed": (
        (5, 6, 3),
        lambda L: [
            L.Conv2DTranspose(4, 3, strides=2, padding="same"),
            L.Conv2DTranspose(2, 4, strides=3, output_padding=1),
        ],
    ),
    "transposed rows": ((5, 2), lambda L: [L.Conv1DTranspose(3, 3, strides=2)]),
    "transposed volumes": ((3, 3, 3, 2), lambda L: [L.Conv3DTranspose(3, 2, strides=2)]),
    "pools": (
        (9, 9, 3),
        lambda L: [
            L.MaxPooling2D(3, strides=2, padding="same"),
            L.AveragePooling2D(2, strides=1, padding="same"),
        ],
    ),
    "pools of rows": ((9, 3), lambda L: [L.MaxPooling1D(2, padding="same"), L.AveragePooling1D(2)]),
    "pools of volumes": ((6, 7, 6, 2), lambda L: [L.MaxPooling3D(2), L.AveragePooling3D(2, padding="same")]),
    "global pools": ((5, 5, 3), lambda L: [L.Conv2D(4, 1), L.GlobalMaxPooling2D(keepdims=True), L.Flatten()]),
    "batch norm": ((5, 5, 3), lambda L: [L.Conv2D(4, 1), L.BatchNormalization()]),
    "batch norm without scale": ((6,), lambda L: [L.BatchNormalization(scale=False, center=False)]),
    "layer norm": ((5, 6), lambda L: [L.LayerNormalization(epsilon=1e-2)]),
    "layer norm of images": ((4, 4, 3), lambda L: [L.Conv2D(6, 1), L.LayerNormalization()]),
    "group norm": ((4, 4, 3), lambda L: [L.Conv2D(6, 1), L.GroupNormalization(3), L.Conv2D(2, 1)]),
    "other norms": ((5, 6), lambda L: [L.RMSNormalization(), L.UnitNormalization()]),
    "normalization": (
        (6,),
        lambda L: [L.Normalization(mean=0.5, variance=2.0), L.Rescaling(2.0, offset=-1.0)],
    ),
    "padding": (
        (6, 6, 3),
        lambda L: [
            L.Conv2D(2, 1),
            L.ZeroPadding2D(((1, 2), (0, 3))),
            L.Cropping2D(((1, 1), (2, 0))),
            L.CenterCrop(4, 4),
        ],
    ),
    "resampling": (
        (4, 5, 3),
        lambda L: [
            L.Conv2D(2, 1),
            L.UpSampling2D(2),
            L.UpSampling2D((2, 3), interpolation="bilinear"),
            L.Resizing(7, 9),
        ],
    ),
    "movement": ((5, 3), lambda L: [L.Permute((2, 1)), L.Flatten(), L.RepeatVector(3), L.Reshape((5, -1))]),
    "activations": (
        (4, 4, 3),
        lambda L: [
            L.Conv2D(3, 1),
            L.PReLU(shared_axes=[1, 2]),
            L.LeakyReLU(),
            L.ELU(),
            L.ReLU(negative_slope=0.1, max_value=3.0, threshold=0.1),
            L.Softmax(),
        ],
    ),
    "einsum": ((5, 8), lambda L: [L.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de")]),
    "buckets": ((5,), lambda L: [L.Discretization(bin_boundaries=[-0.5, 0.0, 0.5])]),
    "dropped": (
        (5, 5, 3),
        lambda L: [L.SpatialDropout2D(0.5), L.GaussianNoise(1.0), L.Dropout(0.5), L.Flatten()],
    ),
}


@pytest.mark.parametrize("name", list(LAYERS))
def test_layers(keras, model, check, rng, name):
    shape, layers = LAYERS[name]
    check(model(shape, *layers(keras.layers)), rng.normal(size=(2, *shape)).astype(np.float32))


@pytest.mark.parametrize(
    "name",
    ["relu", "sigmoid", "tanh", "elu", "selu", "softplus", "softsign", "silu", "gelu", "hard_sigmoid", "exponential",
     "mish", "relu6", "log_softmax", "celu", "glu", "hard_tanh", "soft_shrink", "squareplus", "sparsemax"],
)  # fmt: skip
def test_activations(keras, model, check, rng, name):
    check(model((6,), keras.layers.Activation(name)), rng.normal(size=(3, 6)).astype(np.float32))


@pytest.mark.parametrize("approximate", [False, True])
def test_gelu_is_one_op(keras, model, check, rng, approximate):
    layer = keras.layers.Lambda(lambda x: keras.activations.gelu(x, approximate=approximate))
    graph = check(model((6,), layer), rng.normal(size=(3, 6)).astype(np.float32))
    assert [op.opname for op in graph.walk()] == ["nn.gelu"]
    assert next(graph.ops).approximate == ("tanh" if approximate else "none")


def test_attention(keras, check, rng):
    layers = keras.layers
    x = keras.Input((5, 8), name="x")
    y = layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
    y = layers.Add()([x, y])
    y = layers.GroupQueryAttention(4, 2, 1)(y, y)
    y = layers.Attention()([y, x])
    check(keras.Model(x, y), rng.normal(size=(2, 5, 8)).astype(np.float32))


def test_merging_layers(keras, check, rng):
    layers = keras.layers
    a, b = keras.Input((4, 4, 3), name="a"), keras.Input((4, 4, 3), name="b")
    c = layers.Conv2D(3, 1)(a)
    merged = [
        make()([c, b])
        for make in (
            layers.Add,
            layers.Subtract,
            layers.Multiply,
            layers.Average,
            layers.Maximum,
            layers.Minimum,
        )
    ]
    merged.append(layers.Concatenate()([c, b]))
    merged.append(layers.Dot(axes=-1)([layers.Flatten()(c), layers.Flatten()(b)]))
    arrays = [rng.normal(size=(2, 4, 4, 3)).astype(np.float32) for _ in range(2)]
    graph = check(keras.Model([a, b], merged), *arrays)
    assert [value.name for value in graph.inputs] == ["a", "b"]


def test_embedding(keras, model, check, rng):
    net = model((7,), keras.layers.Embedding(11, 4, name="words"), dtype="int32")
    graph = check(net, rng.integers(0, 11, (2, 7)).astype(np.int32))
    assert [op.opname for op in graph.walk()].count("nn.embedding") == 1
    assert list(graph.constants) == ["words.embeddings"]
