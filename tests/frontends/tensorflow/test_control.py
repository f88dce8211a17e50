"""Branches, loops, lists of tensors and recurrent layers."""

import numpy as np
import pytest

from plait.frontends.tensorflow import lower_tensorflow
from plait.ir import LoweringError


def names(graph):
    return [op.opname for op in graph.ops]


def f32(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_branch(tf, check, sign):
    @tf.function
    def net(x):
        if tf.reduce_mean(x) > 0:
            y, z = tf.nn.relu(x) * 2, tf.shape(x)[0]
        else:
            y, z = x - 1, tf.shape(x)[0]
        return y, z

    x = np.full((2, 3), sign, np.float32)
    graph = check(net, x, cpu=True, inputs={"x": x}, dynamic={"x": {0: "N"}})
    assert "core.cond" in names(graph)


def test_branch_known_from_shapes(tf, check, rng):
    @tf.function
    def net(x):
        return tf.cond(tf.shape(x)[1] > 2, lambda: x * 2, lambda: x - 1)

    x = f32(rng, 2, 3)
    assert names(check(net, x, inputs={"x": x}, dynamic={"x": {0: "N"}})) == ["core.full", "core.mul"]


@pytest.mark.parametrize("number", [0, 1, 2, 7, -1])
def test_case(tf, check, rng, number):
    @tf.function
    def net(x, k):
        return tf.switch_case(k, [lambda: x + 1, lambda: x * 2, lambda: x - 3])

    x = f32(rng, 2, 3)
    check(net, x, np.int32(number), inputs={"x": x, "k": np.int32(0)})


def test_branches_inside_keep_channels_first(tf, check, rng, between_convolutions):
    weights = f32(rng, 3, 3, 2, 2)

    @tf.function
    def net(x):
        y = tf.nn.conv2d(x, weights, 1, "SAME")
        y = tf.cond(tf.reduce_sum(x) > 0, lambda: tf.nn.relu(y), lambda: y * 2)
        return tf.nn.conv2d(y, weights, 1, "SAME")

    x = f32(rng, 1, 5, 5, 2)
    assert between_convolutions(check(net, x, inputs={"x": x})) == []


def test_while(tf, check):
    @tf.function
    def net(x, limit):
        rounds = tf.constant(0)
        while tf.reduce_sum(x) < limit:
            x = x * 1.5 + 0.1
            rounds += 1
        return x, rounds

    x, limit = np.ones(3, np.float32), np.float32(50.0)
    graph = check(net, x, limit, cpu=True, inputs={"x": x, "limit": limit})
    assert "core.while" in names(graph)


def test_nested_control_flow_captures_and_variables(tf, check):
    scale = tf.Variable(np.float32([1.5, 2.0]), name="scale")
    power = tf.Variable(np.float32(0.5), name="power")

    @tf.function
    def net(x):
        y = tf.zeros_like(x)
        while tf.reduce_sum(y) < 20.0:
            if y[0, 0] > 3.0:
                y += x * scale
            else:
                y += x * power + 1.0
        return y * power

    x = np.ones((2, 2), np.float32)
    check(net, x, inputs={"x": x})


def test_list_written_in_a_loop_of_unknown_length(tf, check, rng):
    @tf.function
    def net(x):
        kept = tf.TensorArray(tf.float32, size=4)
        i = tf.constant(0)
        while i < 4 and tf.reduce_sum(x) < 1000.0:
            kept = kept.write(3 - i, x[i])
            i += 1
        return kept.stack(), i

    x = f32(rng, 5, 3)
    graph = check(net, x, inputs={"x": x})
    assert "core.while" in names(graph)


def test_counted_loops_are_scans(tf, check, rng):
    @tf.function
    def net(x):
        mapped = tf.map_fn(lambda row: tf.reduce_sum(row) * row, x)
        summed = tf.scan(lambda a, b: a * 0.5 + b, x, tf.zeros(3))
        return mapped, summed, tf.foldl(lambda a, b: a - b, x)

    x = f32(rng, 4, 3)
    graph = check(net, x, inputs={"x": x}, dynamic={"x": {0: "N"}})
    assert names(graph).count("core.scan") == 3
    assert "core.while" not in names(graph)


def test_counter_that_the_body_reads(tf, check, rng):
    @tf.function
    def net(x):
        def body(i, total):
            return i + 1, total + x[i] * tf.cast(i, tf.float32)

        return tf.while_loop(lambda i, _: i < 5, body, [tf.constant(2), tf.zeros(3)])

    x = f32(rng, 5, 3)
    graph = check(net, x, inputs={"x": x})
    assert "core.scan" in names(graph)


RECURRENT = {
    "lstm": lambda L: [L.LSTM(4, return_sequences=True), L.LSTM(3)],
    "gru": lambda L: [L.GRU(4, return_sequences=True, go_backwards=True), L.GRU(3, reset_after=False)],
    "simple": lambda L: [L.SimpleRNN(4)],
    "bidirectional": lambda L: [
        L.Bidirectional(L.GRU(3, return_sequences=True)),
        L.TimeDistributed(L.Dense(2)),
    ],
    "cells": lambda L: [L.RNN([L.LSTMCell(4), L.GRUCell(3)])],
}


@pytest.mark.parametrize("name", list(RECURRENT))
def test_recurrent_layers(keras, model, check, rng, name):
    graph = check(model((6, 3), *RECURRENT[name](keras.layers)), f32(rng, 2, 6, 3))
    assert "core.scan" in names(graph)
    assert "core.while" not in names(graph)


def test_masked_recurrent_layer(keras, model, check, rng):
    L = keras.layers
    words = rng.integers(0, 5, (3, 7)).astype(np.int32)
    check(model((7,), L.Embedding(5, 4, mask_zero=True), L.LSTM(3), dtype="int32"), words)


def test_recurrent_layer_over_any_batch_and_length(keras, model, rng):
    import plait

    net = model((None, 3), keras.layers.LSTM(4, return_sequences=True))
    graph = lower_tensorflow(net)
    assert str(graph.inputs[0].type) == "f32[B,x_d1,3]"
    for batch, length in ((1, 2), (3, 5)):
        x = f32(rng, batch, length, 3)
        (y,) = plait.interpret(graph, [x])
        np.testing.assert_allclose(np.asarray(y), np.asarray(net(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_recurrent_layers_on_cpu(keras, model, check, rng):
    L = keras.layers
    net = model((6, 3), L.LSTM(4, return_sequences=True), L.GRU(3))
    check(net, f32(rng, 2, 6, 3), cpu=True)


@pytest.mark.slow
def test_convolutional_recurrent_layer(keras, model, check, rng):
    check(model((3, 6, 6, 2), keras.layers.ConvLSTM2D(3, 3, padding="same")), f32(rng, 2, 3, 6, 6, 2))


def test_a_loop_that_changes_a_shape_is_refused(tf):
    @tf.function
    def net(x):
        i = tf.constant(0)
        while tf.reduce_sum(x) < 100.0:
            tf.autograph.experimental.set_loop_options(shape_invariants=[(x, tf.TensorShape([None]))])
            x = tf.concat([x, x], 0)
            i += 1
        return x

    with pytest.raises(LoweringError, match=r"'do' yields"):
        lower_tensorflow(net, {"x": np.ones(3, np.float32)})
