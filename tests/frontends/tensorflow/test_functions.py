"""tf.function with ops that layers do not use, against TensorFlow."""

import numpy as np
import pytest

from plait.frontends.tensorflow import lower_tensorflow
from plait.ir import LoweringError

#: What is computed of x [2, 3, 4], by a function of the module `tensorflow`.
CASES = {
    "slices": lambda tf, x: [
        x[..., 1:, tf.newaxis, ::-1],
        x[:, -1, ::2],
        x[0],
        x[:, 2:0:-1],
        tf.slice(x, [0, 1, 0], [2, -1, 3]),
    ],
    "gathers": lambda tf, x: [
        tf.gather(x, [[1, 0], [0, 1]], axis=2),
        tf.gather(x, [[1, 0], [0, 2]], axis=1, batch_dims=1),
        tf.gather_nd(x, [[0, 1], [1, 2]]),
    ],
    "scatters": lambda tf, x: [
        tf.scatter_nd([[1], [3]], x[0, :2], [5, 4]),
        tf.tensor_scatter_nd_update(x, [[0, 1]], x[1, :1]),
        tf.tensor_scatter_nd_max(x, [[0, 1]], x[1, :1]),
        tf.math.unsorted_segment_sum(x[0], [0, 1, 0], 2),
    ],
    "orders": lambda tf, x: [
        *tf.math.top_k(x, 2),
        tf.argmax(x, 1),
        tf.argmin(x, -1, tf.int32),
        tf.one_hot(tf.argmax(x, -1), 4),
    ],
    "running": lambda tf, x: [
        tf.cumsum(x, 1, exclusive=True, reverse=True),
        tf.math.cumprod(x, 2),
        tf.math.cumprod(x, 2, exclusive=True),
    ],
    "padding": lambda tf, x: [
        tf.pad(x, [[0, 0], [1, 2], [2, 1]], "SYMMETRIC"),
        tf.pad(x, [[0, 0], [1, 2], [2, 1]], "REFLECT"),
        tf.pad(x, [[1, 0], [0, 0], [0, 2]], constant_values=3.0),
    ],
    "movement": lambda tf, x: [
        *tf.split(x, [1, 2], 1),
        *tf.split(x, 2, 2),
        *tf.unstack(x, axis=1),
        tf.stack([x, x + 1], 2),
        tf.reverse(x, [1]),
        tf.roll(x, 1, 1),
        tf.tile(x, [1, 2, 3]),
        tf.linalg.band_part(x, 1, 0),
        tf.nn.space_to_depth(x[:, :2, :, None], 2),
        tf.broadcast_to(x[:, :1], [2, 3, 4]),
    ],
    "reductions": lambda tf, x: [
        tf.reduce_prod(x, [0, 2]),
        tf.reduce_any(x > 1, 1, keepdims=True),
        tf.norm(x, axis=1),
        tf.reduce_logsumexp(x, -1),
        tf.reduce_mean(tf.cast(x * 9, tf.int32), 1),
    ],
    "arithmetic": lambda tf, x: [
        tf.math.divide_no_nan(x, tf.nn.relu(x)),
        tf.math.xlogy(tf.nn.relu(x), x * x),
        tf.math.floormod(x, 0.7),
        tf.truncatemod(x, 0.7),
        tf.math.squared_difference(x, x[:1]),
        tf.clip_by_value(x, -0.5, 0.5),
        tf.where(x > 0, x, 0.0),
        tf.math.is_finite(x / 0.0),
        tf.cast(x, tf.bool),
        tf.math.erfc(x),
    ],
    "products": lambda tf, x: [
        tf.matmul(x, x, transpose_b=True),
        tf.einsum("abc,adc->bd", x, x),
        tf.einsum("ab,ab->", x[0], x[1]),
        tf.linalg.diag_part(x[:, :3, :3]),
        tf.linalg.diag(x[0]),
    ],
    "spectra": lambda tf, x: [
        tf.abs(tf.signal.rfft(x)),
        tf.math.real(tf.signal.ifft(tf.signal.fft(tf.cast(x, tf.complex64)))),
    ],
    "images": lambda tf, x: [
        tf.nn.lrn(x[None], depth_radius=1, alpha=0.5, beta=0.7),
        tf.nn.depth_to_space(x[None], 2),
        tf.image.resize(x[..., None], [6, 8], "nearest"),
        tf.raw_ops.FusedBatchNormV3(
            x=x[None], scale=x[0, 0], offset=x[0, 1], mean=x[0, 2], variance=x[1, 0] ** 2, is_training=False
        ).y,
    ],
    "counting": lambda tf, x: [
        tf.range(tf.shape(x)[0]),
        tf.linspace(0.0, 1.0, 5),
        tf.eye(3),
        tf.zeros_like(x),
        tf.fill([2, 2], x[0, 0, 0]),
    ],
    "sizes of the run": lambda tf, x: [
        tf.boolean_mask(x, x > 0),
        tf.where(x > 0),
        *tf.unique(tf.reshape(tf.cast(x * 2, tf.int32), [-1])),
    ],
    "indices of the run": lambda tf, x: [
        x[:, tf.argmax(x[0, :, 0])],
        tf.slice(x, [0, tf.argmin(x[0, :2, 1], output_type=tf.int32), 0], [2, 2, 4]),
    ],
}


@pytest.mark.parametrize("name", list(CASES))
def test_ops(tf, check, rng, name):
    net = tf.function(
        lambda x: CASES[name](tf, x), input_signature=[tf.TensorSpec([2, 3, 4], tf.float32, name="x")]
    )
    check(net, rng.normal(size=(2, 3, 4)).astype(np.float32))


def test_shape_arithmetic_becomes_dims(tf, check, rng):
    @tf.function(input_signature=[tf.TensorSpec([None, None, 6], tf.float32, name="x")])
    def net(x):
        shape = tf.shape(x)
        y = tf.reshape(x, [shape[0] * shape[1], 2, -1])
        y = tf.transpose(y, [1, 0, 2])
        return tf.reshape(y, tf.concat([[2], shape[:2], [3]], 0)) * tf.cast(tf.size(x), tf.float32)

    graph = check(net, rng.normal(size=(2, 5, 6)).astype(np.float32))
    assert str(graph.outputs[0].type) == "f32[2,B,x_d1,3]"


def test_half_precision_and_integers(tf, check, rng):
    @tf.function(
        input_signature=[tf.TensorSpec([3], tf.bfloat16, name="a"), tf.TensorSpec([3], tf.int64, name="b")]
    )
    def net(a, b):
        return tf.cast(a * 2, tf.float32), b // 2 - tf.cast(a, tf.int64), tf.bitwise.bitwise_and(b, 3)

    graph = lower_tensorflow(net)
    assert [str(value.type) for value in graph.inputs] == ["bf16[3]", "i64[3]"]


def test_same_padding_of_an_open_dim_is_refused(tf):
    @tf.function(input_signature=[tf.TensorSpec([1, None, 8, 3], tf.float32, name="x")])
    def net(x):
        return tf.nn.conv2d(x, tf.ones((3, 3, 3, 2)), 2, "SAME")

    with pytest.raises(LoweringError, match=r"SAME padding of a dim of x_d1 with stride 2[\s\S]*fix the dim"):
        lower_tensorflow(net)
    fixed = lower_tensorflow(net, {"x": np.zeros((1, 7, 8, 3), np.float32)})
    assert str(fixed.outputs[0].type) == "f32[1,4,4,2]"


def test_resources_are_refused(tf):
    counter = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([3], tf.float32, name="x")])
    def net(x):
        return x + counter.assign_add(1.0)

    with pytest.raises(LoweringError, match="AssignAddVariableOp"):
        lower_tensorflow(net)
